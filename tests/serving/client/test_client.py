"""The client over REST: the requests it sends, and the records it makes of answers."""

import dataclasses
import json
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from tests.support import fake_model
from tests.support.fake_model import SCRIPT, FakeRestServer, make_client, refusal
from tfgpt2.serving.client import records, request_settings
from tfgpt2.serving.client.records import Tokens

TEXT = SCRIPT.decode()


def test_it_imports_no_tensorflow():
    program = """
import sys
from tfgpt2.serving import Client
Client("http://localhost:1").close()
Client("grpc://localhost:1").close()
heavy = {"tensorflow", "keras", "tensorflow_serving", "numpy", "tensorflow_text"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_input_is_sent(client, rest):
    client.generate(["To", b"\xff"], temperature=1, top_k=[0, 5], seed=3, stop=["x", "é"])
    assert rest.requests[0].url == "http://host:8501/v1/models/m:predict"
    assert rest.bodies() == [{"signature_name": "generate", "inputs": {
        "text": ["To", {"b64": "/w=="}], "max_new_tokens": [64], "min_new_tokens": [0],
        "temperature": [1.0], "top_k": [0, 5], "top_p": [1.0], "min_p": [0.0],
        "repetition_penalty": [1.0], "seed": [3, 4], "stop": [["x", "é"]]}}]  # fmt: skip
    # Integers have no point: the server wants int32 that way.
    assert b'"top_k": [0, 5]' in rest.requests[0].content
    assert b'"temperature": [1.0]' in rest.requests[0].content


def test_version_and_key(rest):
    make_client(rest, version=7, api_key="secret").tokenize("a")
    assert rest.requests[0].url.path == "/v1/models/m/versions/7:predict"
    assert rest.requests[0].headers["authorization"] == "Bearer secret"


def test_generate(client):
    one = client.generate("To be", max_new_tokens=4)
    assert one.text == ", or" and one.text_bytes == b", or" and one.finish_reason == "length"
    assert one.token_ids == [1, 2, 3, 4] and one.token_logprobs == [-0.5] * 4
    assert (one.prompt_tokens, one.truncated, one.logprob) == (5, 0, -2.0)
    short, stopped = client.generate(
        ["To be", "To"], max_new_tokens=[2, 9], stop=[[], ["not", "or"]]
    )
    assert short.text == ", " and len(short.token_ids) == 2
    assert (stopped.text, stopped.finish_reason) == (" be, ", "stop")
    assert client.generate([]) == []


def test_generation_has_the_fields_of_the_package():
    from tfgpt2.text.records import Generation

    names = [field.name for field in dataclasses.fields(Generation)]
    names.remove("tokens")  # for notebooks; it does not travel
    assert [field.name for field in dataclasses.fields(records.Generation)] == names


def test_the_exports_own_settings(client, rest):
    assert client.generate("To", signature="serving_default").text == " be, "
    assert rest.bodies()[0] == {"signature_name": "serving_default", "inputs": {"text": ["To"]}}
    with pytest.raises(TypeError, match="serving_default has no setting 'top_p'"):
        client.generate("To", signature="serving_default", top_p=0.5)
    with pytest.raises(TypeError, match="'stop'"):
        client.generate("To", signature="serving_default", stop="x")


def test_other_signatures(client):
    assert client.tokenize(["ab", ""]) == [Tokens([97, 98]), Tokens([])]
    assert client.detokenize([97, 98]) == "ab" and client.detokenize([[97], [98, 99]]) == [
        "a",
        "bc",
    ]
    assert client.detokenize(client.tokenize(["é", "abc"])) == ["é", "abc"]
    assert client.detokenize(client.tokenize("é")) == "é"
    score, empty = client.score(["abc", ""])
    assert (score.logprob, score.num_tokens, score.token_logprobs) == (-2.0, 2, [0.0, -1.0, -1.0])
    assert (empty.num_tokens, empty.logprob) == (0, 0)
    raw = client.predict("detokenize", {"ids": [[0xC3]]})
    assert raw == {"text": ["\ufffd"], "text_bytes": [b"\xc3"]}


def test_inspect_and_status_and_metadata():
    info = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1", "name": ""}],
            "unknown_rank": False}, "name": "x:0"}  # fmt: skip
    rest = FakeRestServer(
        httpx.Response(200, json={"outputs": {
            "token_bytes": [[{"b64": "YQ=="}, {"b64": "w6k="}, {"b64": ""}]],
            "token_logprobs": [[0.0, -1.5, 0.0]], "ranks": [[0, 12, 0]], "num_tokens": [2],
            "top_bytes": [[[{"b64": "YQ=="}]] * 3], "top_probabilities": [[[0.25]] * 3]}}),
        httpx.Response(200, json={"model_version_status": [{"version": "3", "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""}}]}),
        httpx.Response(200, json={"model_spec": {"name": "m", "signature_name": "", "version": "3"},
            "metadata": {"signature_def": {"signature_def": {
                "up": {"inputs": {"text": info}, "outputs": {"shout": info}, "method_name": ""},
                "__saved_model_init_op": {"inputs": {}, "outputs": {}}}}}}),
    )  # fmt: skip
    client = make_client(rest)
    (found,) = client.inspect(["aé"])
    assert found.tokens == [b"a", "é".encode()] and found.ranks == [0, 12]
    assert found.alternatives == [[(b"a", 0.25)]] * 2
    (status,) = client.status()
    assert (status.version, status.state, status.error_code) == (3, "AVAILABLE", "OK")
    served = client.metadata()
    assert served.version == 3 and list(served.signatures) == ["up"]
    assert served.signatures["up"].inputs["text"].shape == (-1,)
    paths = [request.url.path for request in rest.requests]
    assert paths == ["/v1/models/m:predict", "/v1/models/m", "/v1/models/m/metadata"]
    # A signature with one output: the server sends the bare column.
    rest.first = [httpx.Response(200, json={"outputs": ["A"]}), httpx.Response(200, json={
        "model_spec": {"name": "m", "version": "3"}, "metadata": {"signature_def": {
            "signature_def": {"up": {"inputs": {}, "outputs": {"shout": info}}}}}})]  # fmt: skip
    assert client.predict("up", {"text": ["a"]}) == {"shout": ["A"]}


def test_long_lists_are_cut_and_keep_their_order(rest):
    def first_comes_last(request):
        time.sleep(0.2 if json.loads(request.content)["inputs"]["seed"][0] == 9 else 0)
        return rest(request)

    client = make_client(first_comes_last, batch_size=3, concurrency=4)
    prompts = [TEXT[:n] for n in range(10)]
    found = client.generate(prompts, max_new_tokens=list(range(10)), top_p=0.5, seed=9)
    assert [one.text for one in found] == [SCRIPT[n : 2 * n].decode() for n in range(10)]
    sizes = sorted(len(body["inputs"]["text"]) for body in rest.bodies())
    assert sizes == [1, 3, 3, 3]
    seeds = sorted(seed for body in rest.bodies() for seed in body["inputs"]["seed"])
    assert seeds == list(range(9, 19))


def test_an_export_with_fewer_inputs(rest):
    info = {"dtype": "DT_STRING", "tensor_shape": {}}
    names = ("text", "max_new_tokens", "temperature", "stop")
    metadata = httpx.Response(200, json={"model_spec": {"name": "m", "version": "3"},
        "metadata": {"signature_def": {"signature_def": {
            "generate": {"inputs": dict.fromkeys(names, info), "outputs": {}}}}}})  # fmt: skip
    client = make_client(rest)
    rest.first = [refusal(400, "unknown input"), metadata]
    assert client.generate("To", max_new_tokens=3).text == " be"
    assert client.generate("To", max_new_tokens=3).text == " be"
    sent = [set(json.loads(r.content)["inputs"]) for r in rest.requests if r.method == "POST"]
    assert [len(one) for one in sent] == [10, 4, 4] and sent[1] == set(names)  # asked once
    with pytest.raises(TypeError, match="This export has no setting 'top_p'"):
        client.generate("To", top_p=0.5)
    with pytest.raises(TypeError, match="needs the input 'odd'"):
        request_settings.select_inputs({"text": []}, [], {"text", "odd"})


def test_numbers_of_other_libraries(client, rest):
    client.generate(["a", "b"], top_k=np.int64(3), top_p=np.float32(0.5),
                    max_new_tokens=np.array([1, 2]))  # fmt: skip
    inputs = rest.bodies()[0]["inputs"]
    assert (
        inputs["top_k"] == [3] and inputs["top_p"] == [0.5] and inputs["max_new_tokens"] == [1, 2]
    )


def test_json_is_what_the_server_reads(client, rest):
    client.generate("a\ud800", seed=2**63 - 1)  # half a surrogate pair is no character
    inputs = json.loads(rest.requests[0].content)["inputs"]
    assert inputs["text"] == [{"b64": "Ye2ggA=="}] and inputs["seed"] == [2**63 - 1]


def read_generations(columns):
    rows = zip(*columns.values(), strict=True)
    return [records.Generation.from_row(dict(zip(columns, row, strict=True))) for row in rows]


def test_several_texts_of_a_prompt_are_lists():
    one = fake_model.generate(
        {"text": [b"", b"To"], "max_new_tokens": [3], "temperature": [0], "stop": [[b""]]}
    )
    columns = {name: [value, value] for name, value in one.items()}  # [2, 2, ...]
    columns["score"] = [[-0.5, -0.7], [-0.1, -0.2]]
    found = read_generations(columns)
    assert [[text.text for text in row] for row in found] == [one["text"]] * 2
    assert found[1][1].score == -0.2 and found[0][0].top_logprobs is None
    columns = one | {"top_ids": [[[7, 8]] * 3] * 2, "top_logprobs": [[[-0.1, -2.0]] * 3] * 2}
    assert read_generations(columns)[0].top_logprobs == [{7: -0.1, 8: -2.0}] * 3

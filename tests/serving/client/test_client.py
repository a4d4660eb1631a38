"""The client over REST: what it sends, what it makes of answers, and when things go wrong."""

import json
import pickle
import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support import fake_model
from tests.support.fake_model import SCRIPT
from tfgpt2.serving import Client, ClientError
from tfgpt2.serving.client import failures, records, retrying, settings, streaming

TEXT = SCRIPT.decode()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retrying, "_FIRST_PAUSE", 1e-3)


@pytest.fixture
def rest():
    return fake_model.Rest()


@pytest.fixture
def client(rest):
    return make(rest)


def make(rest, **options):
    return Client("http://host:8501/", "m", transport=httpx.MockTransport(rest), **options)


def refusal(status, text="no", **headers):
    return httpx.Response(status, json={"error": text}, headers=headers)


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


def test_limits_are_those_of_the_package():
    from tfgpt2.generation import options, stopping
    from tfgpt2.serving.export.signatures import registry as signatures

    for name, setting in settings.SETTINGS.items():
        option = options.ROW_OPTIONS[name]
        expected = (option.dtype, option.off, option.low, option.high)
        assert (setting.dtype, setting.off, setting.low, setting.high) == expected, name
    assert settings.SETTINGS.keys() == set(signatures.INPUTS)
    assert settings.LONGEST_STOP == stopping.LONGEST_STOP
    assert settings.MOST_STOPS == stopping.MOST_STOPS


# Requests ---------------------------------------------------------------------------------------


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
    make(rest, version=7, api_key="secret").tokenize("a")
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
    import dataclasses

    from tfgpt2.serving.client import records
    from tfgpt2.text.records import Generation

    names = [field.name for field in dataclasses.fields(Generation)]
    assert [field.name for field in dataclasses.fields(records.Generation)] == names


def test_the_exports_own_settings(client, rest):
    assert client.generate("To", signature="serving_default").text == " be, "
    assert rest.bodies()[0] == {"signature_name": "serving_default", "inputs": {"text": ["To"]}}
    with pytest.raises(TypeError, match="serving_default has no setting 'top_p'"):
        client.generate("To", signature="serving_default", top_p=0.5)
    with pytest.raises(TypeError, match="'stop'"):
        client.generate("To", signature="serving_default", stop="x")


def test_other_signatures(client):
    assert client.tokenize(["ab", ""]) == [settings_tokens([97, 98]), settings_tokens([])]
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


def settings_tokens(ids):
    from tfgpt2.serving.client.records import Tokens

    return Tokens(ids)


def test_inspect_and_status_and_metadata():
    info = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1", "name": ""}],
            "unknown_rank": False}, "name": "x:0"}  # fmt: skip
    rest = fake_model.Rest(
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
    client = make(rest)
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

    client = make(first_comes_last, batch_size=3, concurrency=4)
    prompts = [TEXT[:n] for n in range(10)]
    found = client.generate(prompts, max_new_tokens=list(range(10)), top_p=0.5, seed=9)
    assert [one.text for one in found] == [SCRIPT[n : 2 * n].decode() for n in range(10)]
    sizes = sorted(len(body["inputs"]["text"]) for body in rest.bodies())
    assert sizes == [1, 3, 3, 3]
    seeds = sorted(seed for body in rest.bodies() for seed in body["inputs"]["seed"])
    assert seeds == list(range(9, 19))


def test_a_failing_part_fails_the_call(rest):
    rest.first = [refusal(400, "bad row")]
    with pytest.raises(failures.InvalidRequest, match="bad row"):
        make(rest, batch_size=1, concurrency=2).tokenize(["a"] * 40)
    assert len(rest.requests) < 40  # what had not begun was dropped


def test_an_export_with_fewer_inputs(rest):
    info = {"dtype": "DT_STRING", "tensor_shape": {}}
    names = ("text", "max_new_tokens", "temperature", "stop")
    metadata = httpx.Response(200, json={"model_spec": {"name": "m", "version": "3"},
        "metadata": {"signature_def": {"signature_def": {
            "generate": {"inputs": dict.fromkeys(names, info), "outputs": {}}}}}})  # fmt: skip
    client = make(rest)
    rest.first = [refusal(400, "unknown input"), metadata]
    assert client.generate("To", max_new_tokens=3).text == " be"
    assert client.generate("To", max_new_tokens=3).text == " be"
    sent = [set(json.loads(r.content)["inputs"]) for r in rest.requests if r.method == "POST"]
    assert [len(one) for one in sent] == [10, 4, 4] and sent[1] == set(names)  # asked once
    with pytest.raises(TypeError, match="This export has no setting 'top_p'"):
        client.generate("To", top_p=0.5)
    with pytest.raises(TypeError, match="wants the input 'odd'"):
        settings.fit({"text": []}, [], {"text", "odd"})


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"top_pp": 1}, TypeError, "Did you mean 'top_p'"),
        ({"temperature": "hot"}, TypeError, "`temperature` must be a number"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"top_k": 1.5}, TypeError, "`top_k` must be an integer"),
        ({"top_k": True}, TypeError, "integer"),
        ({"top_p": 1.1}, ValueError, r"\[0, 1\]"),
        ({"seed": -2}, ValueError, "seed"),
        ({"max_new_tokens": [1, 2, 3]}, ValueError, "2 values"),
        ({"stop": 5}, TypeError, "stop"),
        ({"stop": [["a"]]}, TypeError, "each of the 2"),
        ({"stop": "x" * 257}, ValueError, "256 bytes"),
        ({"stop": ["x"] * 65}, ValueError, "64 stop strings"),
    ],
)
def test_wrong_settings_never_travel(client, rest, options, error, words):
    with pytest.raises(error, match=words):
        client.generate(["a", "b"], **options)
    assert not rest.requests


def test_numbers_of_other_libraries(client, rest):
    import numpy as np

    client.generate(["a", "b"], top_k=np.int64(3), top_p=np.float32(0.5),
                    max_new_tokens=np.array([1, 2]))  # fmt: skip
    inputs = rest.bodies()[0]["inputs"]
    assert (
        inputs["top_k"] == [3] and inputs["top_p"] == [0.5] and inputs["max_new_tokens"] == [1, 2]
    )


@pytest.mark.parametrize("wrong", [5, [1], None, {"a": 1}])
def test_wrong_prompts(client, wrong):
    with pytest.raises(TypeError, match="`prompts` must be a string"):
        client.generate(wrong)


@pytest.mark.parametrize("url", ["localhost:8501", "ftp://a", "http://", ""])
def test_wrong_urls(url):
    with pytest.raises(ValueError, match="`url` must begin with"):
        Client(url)


# Trouble ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [refusal(503), refusal(429), httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone"),
     httpx.ReadError("reset")],
    ids=["503", "429", "connect", "disconnect", "reset"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(rest, trouble):
    rest.first = [trouble, trouble]
    assert make(rest).tokenize("a").ids == [97]
    assert len(rest.requests) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, failures.InvalidRequest), (401, failures.Unauthorized), (404, failures.ModelNotFound),
     (500, failures.ServerFault), (504, failures.DeadlineExceeded), (418, failures.ServerFault)],
)  # fmt: skip
def test_what_does_not_pass_is_not(rest, status, kind):
    rest.first = [refusal(status, "it says:\n why.")]
    with pytest.raises(kind) as caught:
        make(rest, version=2).tokenize("a")
    assert len(rest.requests) == 1
    message = str(caught.value)
    assert message.startswith("Model 'm' (version 2) at http://host:8501 ")
    assert message.endswith(f"({status}): it says: why.") and "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # crosses processes


def test_giving_up(rest):
    rest.first = [httpx.ConnectError("connection refused")] * 9
    with pytest.raises(failures.Unreachable) as caught:
        make(rest, retries=2).tokenize("a")
    assert str(caught.value) == (
        "Model 'm' (newest version) at http://host:8501 cannot be reached: connection refused;"
        " 3 attempts."
    )
    assert len(rest.requests) == 3 and isinstance(caught.value.__cause__, httpx.ConnectError)


def test_a_server_without_xla_is_explained(rest):
    rest.first = [refusal(500, "XLA compilation disabled")]
    with pytest.raises(ClientError, match="--xla_cpu_compilation_enabled=true"):
        make(rest).tokenize("a")


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(200, json={}),
     httpx.Response(200, json={"outputs": {"ids": [[1]]}}),
     httpx.Response(200, json={"outputs": {"ids": [[1]] * 2, "num_tokens": [1, 1]}}),
     httpx.Response(200, json=[1])],
)  # fmt: skip
def test_answers_that_break_the_contract(rest, answer):
    rest.first = [answer]
    with pytest.raises(failures.BadAnswer, match="gave"):
        make(rest).tokenize("a")


def test_pauses_grow_and_keep_to_the_limit():
    now, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    def fail(left):
        now[0] += 0.01
        raise failures.ServerBusy(failures.Place("u", "m", None), "is busy", retry_after=after)

    after = None
    retrying._FIRST_PAUSE = 0.1  # the fixture puts it back
    with pytest.raises(failures.ServerBusy):
        retrying.attempt_within(fail, timeout=10, retries=99, sleep=sleep, clock=lambda: now[0])
    assert now[0] <= 10 and len(pauses) > 4
    for attempt, seconds in enumerate(pauses):
        most = min(5.0, 0.1 * 2**attempt)
        assert most / 2 <= seconds <= most
    assert len(set(pauses)) == len(pauses)  # random
    after, pauses[:] = 2.0, []
    with pytest.raises(failures.ServerBusy):
        retrying.attempt_within(fail, timeout=5, retries=99, sleep=sleep, clock=lambda: now[0])
    assert pauses == [2.0, 2.0]


class Drip(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            time.sleep(0.05)

    def log_message(self, *unused):
        pass


def test_the_time_limit_holds_for_a_server_that_drips():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", timeout=0.3) as client:
            begin = time.monotonic()
            with pytest.raises(failures.DeadlineExceeded, match="within 0.3 s"):
                client.tokenize("a")
            assert time.monotonic() - begin < 1
    finally:
        server.shutdown()


def test_nobody_there():
    with Client("http://127.0.0.1:9", retries=1) as client:
        with pytest.raises(failures.Unreachable, match="cannot be reached"):
            client.status()


def test_waiting_for_a_server(rest):
    def state(name):
        version = {"version": "1", "state": name, "status": {"error_code": "OK"}}
        return httpx.Response(200, json={"model_version_status": [version]})

    rest.first = [httpx.ConnectError("refused"), refusal(404), state("LOADING"), state("AVAILABLE")]
    make(rest).wait_until_ready()
    assert len(rest.requests) == 4
    rest.first = [state("LOADING")] * 99
    with pytest.raises(failures.DeadlineExceeded, match=r"within 0.3 s \(version 1 is LOADING\)"):
        make(rest).wait_until_ready(0.3)
    rest.first = [refusal(401)]
    with pytest.raises(failures.Unauthorized):
        make(rest).wait_until_ready()


# Streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 7, 64])
def test_a_stream_is_the_text(client, rest, chunk_tokens):
    stream = client.stream("To", max_new_tokens=500, chunk_tokens=chunk_tokens)
    pieces = list(stream)
    assert "".join(pieces) == stream.text == TEXT[2:] and all(pieces)
    assert stream.finish_reason == "eos" and len(pieces) > 1
    assert not any("\ufffd" in piece for piece in pieces)
    # No request ends within a character: the tokenizer would read U+FFFD.
    assert all(isinstance(body["inputs"]["text"][0], str) for body in rest.bodies())


@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 8])
@pytest.mark.parametrize(
    "stop", ["\n\n", ["zzz", "日本"], "question.\n\nN", ["be", "or not"], "👩‍🚀"]
)
def test_stop_strings_never_leak(client, stop, chunk_tokens):
    whole = client.generate("To", max_new_tokens=500, stop=stop)
    stream = client.stream("To", max_new_tokens=500, stop=stop, chunk_tokens=chunk_tokens)
    assert "".join(stream) == whole.text
    assert stream.finish_reason == whole.finish_reason == "stop"


def test_streams_end_at_the_limit(client):
    stream = client.stream("To", max_new_tokens=10, chunk_tokens=4)
    assert list(stream) == [" be,", " or ", "no"]
    assert (stream.finish_reason, stream.num_tokens) == ("length", 10)
    cut = TEXT.index("日")  # the limit falls into a character
    stream = client.stream(TEXT[:cut], max_new_tokens=4, chunk_tokens=9)
    assert "".join(stream) == "日\ufffd"
    assert list(client.stream("To", max_new_tokens=0)) == []


def test_each_request_of_a_stream_has_its_own_noise(client, rest):
    stream = client.stream("", temperature=1, seed=5, max_new_tokens=64, chunk_tokens=8)
    text = "".join(stream)
    parts = [text[start : start + 8] for start in range(0, 64, 8)]
    assert len(set(parts)) == 8
    assert parts[0] == client.generate("", temperature=1, seed=5, max_new_tokens=8).text
    assert "".join(client.stream("", temperature=1, seed=5, max_new_tokens=64)) == text
    seeds = [body["inputs"]["seed"][0] for body in rest.bodies()[:8]]
    assert len(set(seeds)) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert [body["inputs"]["min_new_tokens"] for body in rest.bodies()[:8]] == [[0]] * 8


def test_streams_of_random_pieces():
    """Any cut of any bytes: the pieces joined are the decoded text up to the stop string."""
    draw = random.Random(0)
    for _ in range(300):
        letters = draw.choices(["é", "日", "👍", "a", "b", "\n"], k=draw.randint(0, 12))
        raw = "".join(letters).encode() + draw.choice([b"", b"\xff", b"\xe6"])
        stops = [draw.choice(["ab", "\n", "b\n", "日a", "éé"]) for _ in range(draw.randint(0, 2))]
        size = draw.randint(1, 5)

        def ask(prompt, values, raw=raw):
            done = len(prompt) - 1
            part = raw[done : done + values["max_new_tokens"]]
            reason = "eos" if done + len(part) == len(raw) else "length"
            return fake_generation(part, reason)

        values = {"max_new_tokens": 500, "min_new_tokens": 0, "seed": 0}
        stream = streaming.TextStream(ask, b"P", values, [s.encode() for s in stops], size)
        pieces = list(stream)
        cut = streaming.first_stop(raw, [s.encode() for s in stops], 0)
        expected = (raw if cut < 0 else raw[:cut]).decode(errors="replace")
        assert "".join(pieces) == expected
        assert stream.finish_reason == ("eos" if cut < 0 else "stop")


def fake_generation(text, reason):
    from tfgpt2.serving.client.records import Generation

    ids = list(range(len(text)))
    return Generation(text.decode(errors="replace"), text, ids, 1, 0, 0.0, [0.0] * len(ids), reason)


def test_wrong_streams(client):
    with pytest.raises(TypeError, match="continues one text"):
        client.stream(["a"])
    with pytest.raises(ValueError, match="chunk_tokens"):
        client.stream("a", chunk_tokens=0)
    with pytest.raises(TypeError, match="Did you mean 'seed'"):
        client.stream("a", sed=1)


def test_json_is_what_the_server_reads(client, rest):
    client.generate("a\ud800", seed=2**63 - 1)  # half a surrogate pair is no character
    inputs = json.loads(rest.requests[0].content)["inputs"]
    assert inputs["text"] == [{"b64": "Ye2ggA=="}] and inputs["seed"] == [2**63 - 1]


def test_several_texts_of_a_prompt_are_lists():
    one = fake_model.generate(
        {"text": [b"", b"To"], "max_new_tokens": [3], "temperature": [0], "stop": [[b""]]}
    )
    columns = {name: [value, value] for name, value in one.items()}  # [2, 2, ...]
    columns["score"] = [[-0.5, -0.7], [-0.1, -0.2]]
    found = records.generations(columns)
    assert [[text.text for text in row] for row in found] == [one["text"]] * 2
    assert found[1][1].score == -0.2 and found[0][0].top_logprobs is None
    columns = one | {"top_ids": [[[7, 8]] * 3] * 2, "top_logprobs": [[[-0.1, -2.0]] * 3] * 2}
    assert records.generations(columns)[0].top_logprobs == [{7: -0.1, 8: -2.0}] * 3

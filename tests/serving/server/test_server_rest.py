"""REST against a running server: formats, errors, limits, concurrent requests."""

import base64
import concurrent.futures
import json
import threading

import httpx
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from tests.support.server_requests import (
    MODEL,
    OFF,
    column_request,
    predict,
    random_request,
    same_outputs,
)

PREDICT = f"/v1/models/{MODEL}:predict"


@pytest.fixture(scope="module")
def client(served):
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=served.url, timeout=120, limits=limits) as client:
        yield client


def test_status_is_tensorflow_servings_message(client):
    answer = client.get(f"/v1/models/{MODEL}/versions/1")
    found = json_format.Parse(answer.text, get_model_status_pb2.GetModelStatusResponse())
    assert [(one.version, one.state) for one in found.model_version_status] == [(1, 30)]
    assert answer.json()["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    both = client.get(f"/V1/Models/{MODEL}").json()  # paths are case-insensitive
    assert both["model_version_status"] == answer.json()["model_version_status"]
    assert both["id"] == MODEL and both["object"] == "model"


def test_metadata_is_tensorflow_servings_message(client):
    answer = client.get(f"/v1/models/{MODEL}/metadata").json()
    assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": "1"}
    packed = json_format.ParseDict(
        answer["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    )
    assert set(OFF) < set(packed.signature_def["generate"].inputs)
    assert packed.signature_def["generate"].method_name == "tensorflow/serving/predict"


def test_rows(client):
    answer = client.post(PREDICT, json={"instances": [{"text": "To be"}, {"text": "So"}]}).json()
    assert set(answer) == {"predictions"} and len(answer["predictions"]) == 2
    row = answer["predictions"][0]
    assert base64.b64decode(row["text_bytes"]["b64"]).decode() == row["text"]
    plain = {"signature_name": "tokenize", "instances": ["To be, or not"]}
    tokens = client.post(PREDICT, json=plain).json()["predictions"]
    assert tokens[0]["num_tokens"] == len(tokens[0]["ids"])
    settings = {"text": "To be", **OFF, "stop": ["."]}
    asked = {"signature_name": "generate", "instances": [settings, settings | {"seed": 9}]}
    assert len(client.post(PREDICT, json=asked).json()["predictions"]) == 2


def test_columns_and_versions(client):
    outputs = predict(client, column_request(["To be", "ROMEO:\n"]))
    assert outputs["finish_reason"] == ["length", "length"] and outputs["num_tokens"] == [12, 12]
    path = f"/v1/models/{MODEL}/versions/1:predict"
    assert (
        client.post(path, json=column_request("To be")).json()["outputs"]["text"]
        == outputs["text"][:1]
    )
    assert predict(client, column_request([]))["text"] == []


def test_bytes_go_in_and_out_as_base64(client):
    wrong = {"b64": base64.b64encode(b"To be \xff\xfe").decode()}
    document = column_request("x")
    document["inputs"]["text"] = [wrong, "To be \ufffd\ufffd"]
    outputs = predict(client, document)
    assert outputs["text"][0] == outputs["text"][1]  # converted to U+FFFD
    ids = predict(client, {"signature_name": "tokenize", "inputs": ["你"]})["ids"]
    cut = {"signature_name": "detokenize", "inputs": [ids[0][:1]]}
    outputs = predict(client, cut)  # an incomplete character
    assert outputs["text"] == ["\ufffd"]
    assert "你".encode().startswith(base64.b64decode(outputs["text_bytes"][0]["b64"]))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", PREDICT, b"", 400, "The document is empty"),
        ("POST", PREDICT, b"{", 400, "JSON Parse error"),
        ("POST", PREDICT, b'{"instances": ["\xff"]}', 400, "JSON Parse error"),
        ("POST", PREDICT, b'{"instances": [5]}', 400, "not of expected type: string"),
        ("POST", PREDICT, b'{"instances": [["a"]]}', 400, "must have the shape [any]"),
        ("POST", PREDICT, b'{"inputs": "a"}', 400, "must have the shape [any]. Received: []"),
        ("POST", PREDICT, b'{"signature_name": "x", "inputs": ["a"]}', 400, '"x\\" not found'),
        ("POST", PREDICT, b'{"signature_name": "generate", "inputs": {"text": ["a"]}}', 400,
         "Missing named input"),
        ("POST", PREDICT, json.dumps({"inputs": ["a"] * 33}).encode(), 400, "Task size 33"),
        ("POST", PREDICT.replace(MODEL, "x"), b"{}", 404, "not found for request: Latest(x)"),
        ("POST", f"/v1/models/{MODEL}/versions/7:predict", b"{}", 404, f"Specific({MODEL}, 7)"),
        ("POST", f"/v1/models/{MODEL}/labels/x:predict", b"{}", 400, "version label: x"),
        ("POST", f"/v1/models/{MODEL}:classify", b"{}", 501, "Use :predict"),
        ("POST", f"/v1/models/{MODEL}:train", b"{}", 400, "Malformed request: POST"),
        ("GET", PREDICT, b"", 400, "Malformed request: GET"),
        ("DELETE", f"/v1/models/{MODEL}", b"", 400, "Malformed request: DELETE"),
        ("GET", f"/v1/models/{MODEL}/versions/7", b"", 404, "Could not find version 7"),
        ("GET", f"/v1/models/{MODEL}/versions/{10**30}", b"", 400, "to numeric"),
        ("GET", "/v1/models/x/metadata", b"", 404, "Servable not found"),
        ("GET", "/nothing", b"", 404, "Not Found"),
        ("POST", PREDICT, b'{"inputs": ["' + b"a" * 10_000_000 + b'"]}', 413, "4194304 bytes"),
    ],
)  # fmt: skip
def test_errors_have_tensorflow_servings_status_and_message(
    client, method, path, body, status, message
):
    answer = client.request(method, path, content=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"} and message in answer.text
    assert answer.headers["content-type"] == "application/json"


def test_a_chunked_body_is_limited(client):
    def parts():
        for _ in range(200):
            yield b"a" * 65536

    try:
        assert client.post(PREDICT, content=parts()).status_code == 413
    except httpx.TransportError:  # the server closed the connection before all was sent
        pass
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"max_new_tokens": -5}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": -0.5},
        {"repetition_penalty": 0.0}, {"seed": -7}, {"min_new_tokens": 10**9},
        {"temperature": float("nan")},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_clamped(client, changed):
    content = json.dumps(column_request("To be", **changed)).encode()
    answer = client.post(PREDICT, content=content)
    assert answer.status_code == 200, answer.text
    json.loads(answer.text, parse_constant=pytest.fail)  # no NaN, no Infinity


def test_a_huge_prompt_and_a_huge_limit(client):
    outputs = predict(client, column_request("word " * 200_000))
    assert outputs["truncated"][0] > 100_000
    answer = client.post(PREDICT, json=column_request("a", max_new_tokens=5000))
    assert answer.status_code == 400 and "at most 4096 on this server" in answer.text


def test_concurrent_requests_with_different_settings_get_the_outputs_of_sequential_ones(client):
    asked = [random_request(number) for number in range(16)]
    alone = [predict(client, one) for one in asked]
    before = client.get("/metrics").text
    gate = threading.Barrier(16)

    def ask(document):
        gate.wait(30)
        return predict(client, document)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, asked))
    assert all(same_outputs(*pair) for pair in zip(alone, together, strict=True))
    rows, rounds = (
        rounds_of(client.get("/metrics").text, one) - rounds_of(before, one)
        for one in ("sum", "count")
    )
    assert rows > 1.5 * rounds  # they shared rounds


def rounds_of(page, what):
    name = f'tfgpt2_batch_rows_{what}{{model="{MODEL}",signature="engine_advance"}} '
    return float(next(line for line in page.splitlines() if line.startswith(name)).split()[-1])


def test_metrics_health_and_page(client):
    page = client.get("/monitoring/prometheus/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for name in (
        "requests_total",
        "request_seconds_bucket",
        "queue_depth",
        "generated_tokens_total",
    ):
        assert f"tfgpt2_{name}" in page.text
    assert client.get("/healthz").text == "ok"
    answer = client.get("/")
    assert answer.status_code == 200 and "<html" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/v1/models").json()["data"][0]["id"] == MODEL


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_request_breaks_the_server(client, data):
    names = st.sampled_from(["text", "stop", *OFF, "x"])
    inputs = data.draw(
        JSON_VALUES
        | st.dictionaries(names, JSON_VALUES, max_size=11)
        | st.fixed_dictionaries({name: JSON_VALUES for name in ("text", "stop", *OFF)})
    )
    signature = data.draw(
        st.sampled_from(["generate", "tokenize", "score", "detokenize", "", "no"])
    )
    key = data.draw(st.sampled_from(["inputs", "instances"]))
    content = json.dumps({"signature_name": signature, key: inputs}).encode()
    answer = client.post(PREDICT, content=content)
    assert answer.status_code in (200, 400), answer.text
    json.loads(answer.text, parse_constant=pytest.fail)

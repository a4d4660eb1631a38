"""No request of a client is answered with an error of the server: damaged requests, by seed."""

import asyncio
import json
import random

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.asgi import send_request
from tests.support.byte_servable import ByteServable
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.grpc_api import make_server
from tfgpt2.serving.server.server_core import ModelSpec, ServerCore
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.signature import Signature, TensorInfo
from tfgpt2.serving.server.version_manager import ModelRegistry, VersionManager

LONGEST_ERROR = 3000  # characters: a message of the server, and a few hundred of the request
DEEP = {depth: f'"deep {depth}"' for depth in (9, 200, 900, 990, 100_000)}  # replaced in the text

NASTY = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**39, 10**400, -(10**4000),
    0.5, 1e308, float("inf"), float("-inf"), float("nan"), "", "a", "\ud800", "\udfff\ud800", "é😀",
    "\0", "a" * 5000, [], [[]], [[], []], [1], [1, "a"], [None], [True], ["\ud800"], [[["a"]]],
    ["a"] * 33, ["a"] * 200, {}, {"a": 1}, {"b64": "/w=="}, {"b64": "?"}, {"b64": "\ud800"},
    {"\ud800": 1}, {"k" * 5000: 1}, {"b64": "YQ==", "x": 1}, [float("nan")], [10**400],
    [float("inf")], *(f"deep {depth}" for depth in DEEP),
]  # fmt: skip
KEYS = ["text", "max_new_tokens", "\ud800", "", "n" * 5000, "b64", "instances", "inputs", "x\ud83d"]

SETTINGS = {"max_new_tokens": 3, "temperature": 0.5, "top_k": 1, "seed": 1, "stop": ["."]}
DOCUMENTS = {
    b"/v1/models/m:predict": [
        {"instances": ["a", "b"]},
        {"instances": [{"text": "a"}, {"text": {"b64": "/w=="}}]},
        {"inputs": {"text": ["a", "b"]}},
        {"inputs": []},
        {"signature_name": "generate", "instances": [{"text": "a", **SETTINGS}]},
        {"signature_name": "generate", "inputs": {"text": ["a", "b"], "stop": [["."]]}
         | {name: [value] for name, value in SETTINGS.items() if name != "stop"}},
        {"signature_name": "detokenize", "inputs": [[1, 2], [3, 4]]},
        {"signature_name": "inspect_ids", "inputs": ["97 98"]},
    ],
    b"/v1/completions": [
        {"model": "m", "prompt": "a"},
        {"model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 3, "seed": 4},
        {"model": "m", "prompt": [[97, 98], [99]], "max_tokens": 5, "temperature": 0, "stop": "q"},
        {"model": "m", "prompt": "ab", "logprobs": 1, "echo": True, "user": "u"},
        {"model": "m", "prompt": "a", "stream": True, "stream_options": {"include_usage": True}},
        {"model": "m", "prompt": "a", "min_tokens": 0, "top_p": 1, "min_p": 0, "suffix": "",
         "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0, "top_k": 2},
    ],
    b"/v1/chat/completions": [
        {"model": "m", "messages": [{"role": "user", "content": "a"}]},
        {"model": "m", "messages": [{"role": "system", "content": "a"},
                                    {"role": "user", "content": [{"type": "text", "text": "b"}]}]},
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "n": 2, "stop": ["q"],
         "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 1, "tools": []},
        {"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True,
         "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none"},
    ],
    b"/tokenize": [{"model": "m", "prompt": "a b"}, {"prompt": "a"}],
    b"/detokenize": [{"model": "m", "tokens": [97, 98]}, {"tokens": []}],
}  # fmt: skip
PATHS = [
    b"/v1/models/m", b"/v1/models/m/metadata", b"/v1/models/m/versions/1", b"/v1/models",
    b"/v1/models/m/versions/0001/metadata", b"/v1/models/m/labels/x", b"/v1/models/m:classify",
    b"/v1/models/m/versions/1:predict", b"/v1/models/m/labels/x:predict", b"/healthz", b"/metrics",
]  # fmt: skip
PIECES = [
    b"9" * 25, b"9" * 500, b"9" * 5000, b"%ED%A0%80", b"%FF", b"\xff\xfe", b"%", b"%00", b"0", b"/",
    b":", b"{name}", b"%7Bname%7D", b"a" * 5000, b"..", b"-1", b"?", b"%E4%BD%A0", b"%F0%9F%98%80",
]  # fmt: skip


def damaged(chance, value):
    """A copy of a JSON value, in which each part may be replaced, left out or added."""
    if chance.random() < 0.12:
        return chance.choice(NASTY)
    if isinstance(value, dict):
        copy = {k: damaged(chance, v) for k, v in value.items() if chance.random() < 0.95}
        if chance.random() < 0.15:
            copy[chance.choice(KEYS)] = chance.choice(NASTY)
        return copy
    if isinstance(value, list):
        return [
            damaged(chance, one) for one in value for _ in range(chance.choice([0, 1, 1, 1, 2]))
        ]
    return value


def damaged_body(chance, document):
    text = json.dumps(damaged(chance, document))
    for depth, placeholder in DEEP.items():
        text = text.replace(placeholder, "[" * depth + "]" * depth)
    body = bytearray(text.encode())
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(body) + 1)
            body[start : start + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
    return bytes(body)


def damaged_path(chance, path):
    for _ in range(chance.randrange(3)):
        start = chance.randrange(4, len(path) + 1)
        path = path[:start] + chance.choice(PIECES) + path[start + chance.randrange(3) :]
    return path


def rest_request(chance):
    """Method, path and body."""
    if chance.random() < 0.3:
        path = damaged_path(chance, chance.choice([*PATHS, *DOCUMENTS]))
        return chance.choice(["GET", "GET", "POST", "DELETE"]), path, chance.choice([b"", b"{}"])
    path = chance.choice([*DOCUMENTS])
    return "POST", path, damaged_body(chance, chance.choice(DOCUMENTS[path]))


def damaged_tensor(chance, value):
    """A message of a tensor, in which type, shape and content need not fit together."""
    proto = tf.make_tensor_proto(value)
    if chance.random() < 0.5:
        proto.dtype = chance.choice([*range(32), *range(101, 124), 1000])
    if chance.random() < 0.5:
        del proto.tensor_shape.dim[:]
        sizes = [0, 0, 1, 1, 2, 3, 33, -1, -2, 2**20, 2**31, 2**40, 2**62, 2**63 - 1]
        for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 9, 200])):
            proto.tensor_shape.dim.add().size = chance.choice(sizes)
        proto.tensor_shape.unknown_rank = chance.random() < 0.05
    if chance.random() < 0.3:
        proto.tensor_content = chance.randbytes(chance.choice([0, 1, 4, 8, 64]))
    if chance.random() < 0.3:
        for field in ("int_val", "int64_val", "bool_val", "string_val", "float_val", "half_val"):
            del getattr(proto, field)[:]
    if chance.random() < 0.3:
        proto.float_val.extend([chance.choice([float("inf"), float("nan"), 1e38])])
        proto.int_val.extend([chance.choice([0, -1, 2**31 - 1, 2**31 - 1])])
        proto.string_val.extend([b"", b"\xff"])
    return proto


def predict_request(chance):
    request = predict_pb2.PredictRequest()
    name = chance.choice(["generate", "generate", "detokenize", "inspect", "", "\u4f60" * 3000])
    request.model_spec.name = chance.choice(
        ["m", "m", "m", "m", "", "x" * 5000, "{name}", "😀" * 999]
    )
    request.model_spec.signature_name = name
    if chance.random() < 0.2:
        request.model_spec.version.value = chance.choice([1, 0, -1, 2**63 - 1])
    if chance.random() < 0.1:
        request.model_spec.version_label = "l" * chance.choice([1, 5000])
    values = {"ids": [[1]]} if name == "detokenize" else {"text": ["a", "b"]}
    if name == "generate":
        values |= {"max_new_tokens": [2], "seed": np.array([1]), "stop": [["."]], "top_k": [1],
                   "temperature": np.array([0.5], np.float32)}  # fmt: skip
    for key, value in values.items():
        if chance.random() < 0.9:
            good = chance.random() < 0.6
            made = tf.make_tensor_proto(value) if good else damaged_tensor(chance, value)
            request.inputs[key].CopyFrom(made)
    if chance.random() < 0.1:
        request.inputs["x" * chance.choice([1, 5000])].CopyFrom(tensor_pb2.TensorProto())
    if chance.random() < 0.1:
        request.output_filter.extend(["text", chance.choice(["text", "y" * 5000])])
    return request


async def serve(folder):
    """The parts of a server of the model `m`, loaded."""
    core = ServerCore(ServerSettings(models={"m": folder}, port=0, max_new_tokens=64))
    (folder / "1").mkdir(exist_ok=True)
    (folder / "1" / "saved_model.pb").touch()
    manager = VersionManager("m", folder, {}, load=ByteServable)
    core.models = ModelRegistry({"m": manager}, poll_seconds=3600)
    await core.models.start()
    return core


@pytest.mark.parametrize("seed", range(4))
def test_rest(tmp_path, seed):
    chance = random.Random(seed)

    async def main():
        core = await serve(tmp_path)
        app, statuses = make_app(core), set()
        for _ in range(400):
            method, path, body = rest_request(chance)
            answer = await send_request(app, method, path, body)
            shown = (method, path[:300], body[:300], answer.text[:300])
            statuses.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == 501, shown  # Unimplemented
            if answer.status_code != 200:
                assert "error" in answer.json(), shown
                assert len(answer.text) < LONGEST_ERROR, shown
        await core.close()
        return statuses

    assert {200, 400, 404} <= asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_grpc(tmp_path, seed):
    chance = random.Random(seed)

    async def main():
        core = await serve(tmp_path)
        server = make_server(core)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        codes = set()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(300):
                request = predict_request(chance)
                try:
                    await stub.Predict(request, timeout=60)
                    codes.add("OK")
                except grpc.RpcError as error:
                    code, details = error.code().name, error.details()
                    codes.add(code)
                    shown = (str(request)[:500], code, details[:500])
                    assert len(details) < LONGEST_ERROR, shown
                    assert code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"), shown
            for size in (1, 5000):
                metadata = get_model_metadata_pb2.GetModelMetadataRequest()
                metadata.model_spec.name = "m"
                metadata.metadata_field.append("😀" * size)
                status = get_model_status_pb2.GetModelStatusRequest()
                status.model_spec.name = "😀" * size
                models = model_service_pb2_grpc.ModelServiceStub(channel)
                for call, request in (
                    (stub.GetModelMetadata, metadata),
                    (models.GetModelStatus, status),
                ):
                    with pytest.raises(grpc.RpcError) as caught:
                        await call(request, timeout=60)
                    assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")
        await server.stop(0)
        await core.close()
        return codes

    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= asyncio.run(main())


@pytest.mark.parametrize("path", DOCUMENTS)
def test_undamaged_requests_are_answered(tmp_path, path):
    answers = post(tmp_path, path, [json.dumps(one).encode() for one in DOCUMENTS[path]])
    assert {answer.status_code for answer in answers} == {200}, [a.text[:300] for a in answers]


def test_a_compressed_message_counts_at_its_full_size(tmp_path):
    """40 MB of one letter are 40 KB when they are sent."""

    async def main():
        core = await serve(tmp_path)
        server = make_server(core)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        codes, options = [], {"compression": grpc.Compression.Gzip}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", **options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for size in (2**20, 40 * 2**20):
                request = predict_pb2.PredictRequest()
                request.model_spec.name, request.model_spec.signature_name = "m", "generate"
                request.inputs["text"].CopyFrom(tf.make_tensor_proto(["a" * size]))
                try:
                    await stub.Predict(request, timeout=60)
                    codes.append("OK")
                except grpc.RpcError as error:
                    codes.append(error.code().name)
        await server.stop(0)
        await core.close()
        return codes

    assert asyncio.run(main()) == ["OK", "RESOURCE_EXHAUSTED"]


COMPLETIONS = [
    b'{"model": "m", "prompt": "a", "temperature": 1' + b"0" * 400 + b"}",
    b'{"model": "m", "prompt": "a", "\\ud800": 1}',
    b'{"model": "\\ud800", "prompt": "a"}',
    b'{"model": "m", "prompt": "a", "max_tokens": 1e999}',
    b'{"model": "m", "prompt": "a", "max_tokens": NaN}',
    b'{"model": "m", "prompt": "a", "n": 1' + b"0" * 4000 + b"}",
]
PREDICTIONS = [
    b'{"signature_name": "\\ud800", "inputs": ["a"]}',
    b'{"instances": [{"\\ud800": "a"}]}',
    b'{"instances": [{"text": "a", "\\ud800": "a"}]}',
]


@pytest.mark.parametrize("body", COMPLETIONS)
def test_wrong_completions_are_errors_of_the_client(tmp_path, body):
    (answer,) = post(tmp_path, b"/v1/completions", [body])
    assert answer.status_code == 400


@pytest.mark.parametrize("body", PREDICTIONS)
def test_wrong_predictions_are_errors_of_the_client(tmp_path, body):
    (answer,) = post(tmp_path, b"/v1/models/m:predict", [body])
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("path", "start", "end"),
    [
        (b"/v1/completions", b'{"model": "m", "prompt": ', b"}"),
        (b"/v1/completions", b'{"model": "m", "prompt": "a", "stop": ', b"}"),
        (b"/v1/completions", b'{"model": "m", "prompt": "a", "logit_bias": ', b"}"),
        (b"/v1/chat/completions", b'{"model": "m", "messages": ', b"}"),
        (b"/v1/chat/completions", b'{"model": "m", "messages": [{"role": "a", "content": ', b"}]}"),
        (b"/tokenize", b'{"prompt": ', b"}"),
        (b"/detokenize", b'{"tokens": ', b"}"),
        (b"/v1/models/m:predict", b'{"inputs": ', b"}"),
        (b"/v1/models/m:predict", b'{"inputs": [{"b64": ', b"}]}"),
        (b"/v1/models/m:predict", b'{"inputs": 1, "instances": ', b"}"),
        (b"/v1/models/m:predict", b'{"instances": [{"text": ', b"}]}"),
        (b"/v1/models/m:predict", b'{"instances": [{"text": "a", "x": ', b"}]}"),
        (b"/v1/models/m:predict", b'{"signature_name": ', b', "inputs": ["a"]}'),
    ],
)
def test_deep_nesting(tmp_path, path, start, end):
    # Some of these depths can be parsed, but not shown by a function that calls itself.
    deep = [start + b"[" * depth + b"]" * depth + end for depth in range(700, 1010, 2)]
    deep += [start + b'{"a":' * depth + b"1" + b"}" * depth + end for depth in range(700, 1010, 2)]
    assert {answer.status_code for answer in post(tmp_path, path, deep)} == {400}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 65.0])
@pytest.mark.parametrize("dtype", [tf.float32, tf.int32])
def test_numbers_of_tokens_that_are_none(tmp_path, value, dtype):
    """Also for a model of another program, whose `max_new_tokens` is a float."""
    signature = Signature(
        "s", {"max_new_tokens": TensorInfo(np.dtype(dtype.as_numpy_dtype), (-1,))}, {}, {}
    )
    inputs = {"max_new_tokens": np.array([1, value], np.float32)}

    async def main():
        core = await serve(tmp_path)
        with core.lease(ModelSpec("m")) as servable:
            with pytest.raises(ServingError) as caught:
                await core.run(servable, signature, inputs)
        await core.close()
        return caught.value

    error = asyncio.run(main())
    assert error.code == "INVALID_ARGUMENT" and "at most 64" in error.message


def test_a_path_with_a_number_of_thousands_of_digits(tmp_path):
    for digits in (20, 500, 5000):
        path = b"/v1/models/m/versions/" + b"1" * digits
        (answer,) = post(tmp_path, path + b":predict", [b"{}"])
        assert answer.status_code == 400 and "to numeric" in answer.text and len(answer.text) < 400


def post(folder, path, bodies):
    """Returns the responses of one server, one request after the other."""

    async def main():
        core = await serve(folder)
        app = make_app(core)
        answers = [await send_request(app, "POST", path, body) for body in bodies]
        await core.close()
        return answers

    return asyncio.run(main())

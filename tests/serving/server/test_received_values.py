"""Errors show a few hundred characters of what was received, and never build the rest."""

import json
import tracemalloc

import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tests.support.byte_servable import GENERATE
from tests.support.fake_servable import ECHO, tensor_info
from tfgpt2.serving.server import completion_request
from tfgpt2.serving.server.json_request import parse_json, parse_predict
from tfgpt2.serving.server.serving_error import ServingError, cut
from tfgpt2.serving.server.signature import Signature, find_signature
from tfgpt2.serving.server.tensor_protos import inputs_from_protos

LONG = 4 * 2**20
NUMBERS = Signature(
    "numbers", {"i": tensor_info("int32", -1), "f": tensor_info("float32", -1)}, {}, {}
)
SIGNATURES = {one.name: one for one in (ECHO, GENERATE, NUMBERS)}
VALUES = {
    "text": "a" * LONG,
    "list": [None] * (LONG // 5),
    "texts": ["a" * 9] * (LONG // 12),
    "object": {"a" * LONG: 1},
    "objects": [{"a": 1}] * (LONG // 9),
    "wide": [[[["a" * LONG]]]],
}


def error_of(function, *arguments):
    """Returns the error, after checking that it is short and was made from short texts."""
    tracemalloc.start()
    try:
        with pytest.raises(ServingError) as caught:
            function(*arguments)
        assert tracemalloc.get_traced_memory()[1] < LONG / 2
    finally:
        tracemalloc.stop()
    error = caught.value
    assert len(error.message) < 800 and len(error.param or "") < 300
    assert str(error) == error.message
    return error


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("field", ["max_tokens", "temperature", "stream", "stream_options", "n"])
def test_completions(field, value):
    document = {"model": "m", "prompt": "a", field: value}
    assert error_of(completion_request.parse, document).param == field


def test_names_of_completions():
    for document in ({"a" * LONG: 1}, {"prompt": "a", "model": ["a" * LONG]}, {"prompt": {}}):
        error_of(completion_request.parse, {"model": "m"} | document)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_predictions(value, monkeypatch):
    documents = [
        {"signature_name": value, "inputs": []},
        {"signature_name": "numbers", "inputs": {"i": [value], "f": [1]}},
        {"signature_name": "numbers", "inputs": {"i": [1, value], "f": [1]}},
        {"signature_name": "numbers", "instances": [{"i": value, "f": 1}]},
        {"signature_name": "numbers", "instances": [{"i": 1, "f": 2, "g": value}]},
        {"signature_name": "numbers", "instances": [{"i": 1, "g" * LONG: value}]},
        {"signature_name": "numbers", "instances": {"a": value}},
        {"instances": value, "inputs": value},
    ]
    for document in documents:
        # What parsing itself needs does not count.
        monkeypatch.setattr(json, "loads", lambda body, document=document: document)
        error_of(parse_predict, b"-", SIGNATURES, 32)
    monkeypatch.setattr(json, "loads", lambda body: [value])
    error_of(parse_json, b"-")


def test_names_over_grpc():
    text = tf.make_tensor_proto(["a"])
    given = {"x" * LONG: text} | {f"{i}": text for i in range(1000)}
    assert "Missing but required: {stop,text}" in error_of(inputs_from_protos, ECHO, given).message
    error_of(find_signature, SIGNATURES, "x" * LONG)


def test_shapes_over_grpc():
    proto = tensor_pb2.TensorProto(dtype=tf.int32.as_datatype_enum)
    for _ in range(8):
        proto.tensor_shape.dim.add().size = 2**62
    cube = Signature("cube", {"x": tensor_info("int32")._replace(shape=None)}, {}, {})
    error_of(inputs_from_protos, cube, {"x": proto}, LONG)
    error_of(inputs_from_protos, NUMBERS, {"i": proto, "f": proto}, LONG)


def test_lone_surrogates_are_escaped():
    error = ServingError("NOT_FOUND", "no \ud800x", param="\udfff")
    assert error.message == r"no \ud800x" and error.param == r"\udfff"
    json.dumps(error.message, ensure_ascii=False).encode()
    assert cut("é" * 300) == "é" * 200 + "..."

"""Random requests are parsed or rejected with a `ServingError`."""

import json

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from tests.support.fake_servable import ECHO
from tfgpt2.serving.server import completion_request
from tfgpt2.serving.server.json_request import parse_json
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.tensor_protos import inputs_from_protos

FIELDS = [*completion_request._FIELDS, "user", "suffix", "logit_bias", "x"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.text(alphabet=st.characters(categories=["Cs"]), max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["include_usage", "a"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_completions(document):
    try:
        asked = completion_request.parse({"model": "m", "prompt": "a"} | document)
    except ServingError as error:
        assert error.http == 400 and error.param
        json.dumps(error.message).encode()
        return
    assert asked.best_of >= asked.n and asked.prompts
    hash(asked)  # it is immutable


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_bodies(body):
    try:
        assert isinstance(parse_json(body), dict)
    except ServingError as error:
        assert error.http == 400


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.integers(-1, 30),
    shape=st.lists(st.integers(-2, 2**40), max_size=3),
    content=st.binary(max_size=16),
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    strings=st.lists(st.binary(max_size=3), max_size=3),
)
def test_tensors_of_grpc(dtype, shape, content, numbers, strings):
    proto = tensor_pb2.TensorProto()
    try:
        proto.dtype = dtype
    except ValueError:
        return
    proto.tensor_content = content
    proto.int_val.extend(numbers)
    proto.string_val.extend(strings)
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    full = {"text": proto, "stop": proto}
    try:
        for array in inputs_from_protos(ECHO, full, 2**20).values():
            assert isinstance(array, np.ndarray) and array.nbytes <= 2**20
        ECHO.check(inputs_from_protos(ECHO, full, 2**20))
    except ServingError as error:
        assert error.http == 400


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_messages_of_grpc(raw):
    try:
        proto = tensor_pb2.TensorProto.FromString(raw)
    except DecodeError:
        return
    try:
        ECHO.check(inputs_from_protos(ECHO, {"text": proto, "stop": proto}, 2**20))
    except ServingError as error:
        assert error.http == 400

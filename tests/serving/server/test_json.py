"""The JSON of predict, by the rules of tensorflow/serving's json_tensor_test.cc."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_servable import ECHO, tensor_info
from tfgpt2.serving.server.json_request import parse_predict
from tfgpt2.serving.server.json_response import encode_response
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.signature import Signature

ONE = Signature("serving_default", {"text": tensor_info("string", -1)}, {}, {})
NUMBERS = Signature(
    "numbers",
    {
        "f": tensor_info("float32", -1),
        "i": tensor_info("int32", -1),
        "l": tensor_info("int64", -1),
        "b": tensor_info("bool", -1),
    },
    {},
    {},
)
SIGNATURES = {one.name: one for one in (ONE, ECHO, NUMBERS)}


def parse(document, raw=None):
    body = json.dumps(document).encode() if raw is None else raw
    return parse_predict(body, SIGNATURES, 32)


def numbers(**changed):
    inputs = {"f": [0.5], "i": [1], "l": [2], "b": [True]} | changed
    return {"signature_name": "numbers", "inputs": inputs}


def test_rows_of_objects_become_columns():
    rows = [{"text": "a", "n": 1, "stop": ["x", "y"]}, {"text": "b", "n": 2, "stop": ["", ""]}]
    found = parse({"signature_name": "echo", "instances": rows})
    assert found.rows
    assert found.inputs["text"].tolist() == [b"a", b"b"]
    assert found.inputs["n"].tolist() == [1, 2] and found.inputs["n"].dtype == np.int32
    assert found.inputs["stop"].tolist() == [[b"x", b"y"], [b"", b""]]


def test_a_single_input_needs_no_name():
    assert parse({"instances": ["a", {"b64": "/w=="}]}).inputs["text"].tolist() == [b"a", b"\xff"]
    assert parse({"inputs": ["a", "é"]}).inputs["text"].tolist() == [b"a", "é".encode()]
    assert parse({"inputs": {"b64": "/w"}}).inputs["text"].tolist() == b"\xff"


def test_columns_keep_their_shapes():
    inputs = {
        "text": ["a", "b"],
        "n": [1],
        "stop": [["x"]],
        "other": 1,
    }  # ignored, as by TensorFlow Serving
    found = parse({"signature_name": "echo", "inputs": inputs})
    assert not found.rows
    assert {k: v.shape for k, v in found.inputs.items()} == {
        "text": (2,),
        "n": (1,),
        "stop": (1, 1),
    }
    empty = parse({"inputs": []}).inputs["text"]
    assert empty.shape == (0,) and empty.dtype == object


def test_numbers_of_every_type():
    found = parse(numbers(f=[1, -0.25, 1e30], l=[2**40])).inputs
    assert found["f"].tolist() == [1.0, -0.25, float(np.float32(1e30))]
    assert found["l"].tolist() == [2**40]
    # Python writes NaN as TensorFlow Serving reads it.
    assert np.isnan(parse(numbers(f=[float("nan")])).inputs["f"][0])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "Missing 'inputs' or 'instances' key"),
        ([1], "Is not object"),
        ({"instances": ["a"], "inputs": ["a"]}, "expecting only one of"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": "a"}, "to be an list/array"),
        ({"signature_name": 5, "instances": ["a"]}, "'signature_name' key must be a string value"),
        ({"signature_name": "no", "instances": ["a"]}, 'name: "no" not found in signature def'),
        ({"instances": [1]}, "Type: Number is not of expected type: string"),
        ({"instances": [{"text": "a", "x": 1}]}, "does not have named input: x"),
        ({"instances": [{"text": "a"}, "b"]}, "Expecting object but got list at item 1"),
        ({"instances": ["a", {"text": "b"}]}, "Expecting value/list but got object at item 1"),
        ({"instances": ["a", ["b"]]}, "Expecting shape [] but got: [1]"),
        ({"instances": [["a"], ["a", "b"]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": [{"b64": "?"}]}, "Unable to base64 decode"),
        ({"instances": [None]}, "Type: Null"),
        ({"inputs": ["a", ["b"]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": [["a"], "b"]}, "found at incorrect level: 2"),
        ({"inputs": [["a"], ["b", "c"]]}, "Encountered list at unexpected size: 2 at level: 1"),
        ({"inputs": [[[[[[[[["a"]]]]]]]]]}, "nested more than 8 deep"),
        ({"signature_name": "echo", "inputs": {"text": ["a"]}}, "Missing named input: n"),
        ({"signature_name": "echo", "inputs": ["a"]}, "expecting an object as multiple"),
        ({"signature_name": "echo", "instances": ["a"]}, "instances is a plain list"),
        ({"signature_name": "echo", "instances": [{"text": "a"}]}, "must be equal to: n,stop,text"),
        (numbers(i=[1.0]), "is not of expected type: int32"),
        (numbers(i=[True]), "Type: True is not of expected type: int32"),
        (numbers(i=[2**31]), "is not of expected type: int32"),
        (numbers(f=["1"]), "Type: String is not of expected type: float"),
        (numbers(f=[2**24]), "to float without loss of precision"),
        (numbers(f=[1e39]), "to float without loss of precision"),
        (numbers(b=[1]), "is not of expected type: bool"),
    ],
)  # fmt: skip
def test_invalid_requests_are_rejected(document, message):
    with pytest.raises(ServingError) as caught:
        parse(document)
    assert message in caught.value.message
    assert caught.value.code == "INVALID_ARGUMENT" and caught.value.http == 400


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"inputs": ["\xff"]}', b'{"inputs": ["\\ud800"]}', b"[" * 100000, b"1" * 5000,
     b'{"inputs": ["a"]} x'],
)  # fmt: skip
def test_bodies_that_are_not_valid_json(raw):
    with pytest.raises(ServingError, match="JSON"):
        parse(None, raw)


def test_responses_in_row_and_column_format():
    outputs = {
        "text": np.array([b"a", b"\xff"], object),
        "x_bytes": np.array([b"a", b"\xff"], object),
        "f": np.array([[0.2, 1.0], [np.nan, np.inf]], np.float32),
    }
    columns = json.loads(encode_response(outputs, rows=False))["outputs"]
    assert columns["text"] == ["a", "\ufffd"]
    assert [base64.b64decode(one["b64"]) for one in columns["x_bytes"]] == [b"a", b"\xff"]
    assert columns["f"] == [[0.2, 1.0], [None, None]]  # not 0.20000000298023224, not NaN
    rows = json.loads(encode_response(outputs, rows=True))["predictions"]
    assert rows[0] == {"text": "a", "x_bytes": {"b64": "YQ=="}, "f": [0.2, 1.0]}
    assert json.loads(encode_response({"n": np.array([1, 2])}, rows=True)) == {
        "predictions": [1, 2]
    }
    assert json.loads(encode_response({"n": np.array([[1]])}, rows=False)) == {"outputs": [[1]]}


def test_outputs_with_different_rows_have_no_row_format():
    with pytest.raises(ServingError, match="inconsistent batch size: 1 expecting: 2"):
        encode_response({"a": np.zeros(2), "b": np.zeros(1)}, rows=True)
    with pytest.raises(ServingError, match="has no shape information"):
        encode_response({"a": np.zeros(())}, rows=True)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "n", "stop", "b64", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(ANY_JSON, st.sampled_from(["instances", "inputs"]), st.sampled_from(["", "echo", "numbers"]))
def test_any_json_is_parsed_or_rejected(value, key, name):
    try:
        found = parse({"signature_name": name, key: value})
        for array in found.inputs.values():
            assert array.dtype != object or all(isinstance(one, bytes) for one in array.ravel())
    except ServingError as error:
        assert error.http == 400

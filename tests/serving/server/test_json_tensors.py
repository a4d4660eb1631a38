"""The JSON rules of predict, as json_tensor_test.cc of tensorflow/serving states them."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_servable import ECHO, spec
from tfgpt2.serving.server.json_tensors import answer, parse_predict
from tfgpt2.serving.server.saved_model import Signature, find
from tfgpt2.serving.server.status import ServingError

ONE = Signature("serving_default", {"text": spec("string", -1)}, {}, {})
NUMBERS = Signature(
    "numbers",
    {
        "f": spec("float32", -1),
        "i": spec("int32", -1),
        "l": spec("int64", -1),
        "b": spec("bool", -1),
    },
    {},
    {},
)
SIGNATURES = {one.name: one for one in (ONE, ECHO, NUMBERS)}


def parse(document, raw=None):
    body = json.dumps(document).encode() if raw is None else raw
    return parse_predict(body, lambda name: find(SIGNATURES, name))


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
    inputs = {"text": ["a", "b"], "n": [1], "stop": [["x"]], "other": 1}  # as the real server
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
    # Python writes NaN as the real server reads it.
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
def test_what_is_refused(document, message):
    with pytest.raises(ServingError) as caught:
        parse(document)
    assert message in caught.value.message
    assert caught.value.code == "INVALID_ARGUMENT" and caught.value.http == 400


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"inputs": ["\xff"]}', b'{"inputs": ["\\ud800"]}', b"[" * 100000, b"1" * 5000,
     b'{"inputs": ["a"]} x'],
)  # fmt: skip
def test_what_is_no_json(raw):
    with pytest.raises(ServingError, match="JSON"):
        parse(None, raw)


def test_answers_in_rows_and_columns():
    outputs = {
        "text": np.array([b"a", b"\xff"], object),
        "x_bytes": np.array([b"a", b"\xff"], object),
        "f": np.array([[0.2, 1.0], [np.nan, np.inf]], np.float32),
    }
    columns = json.loads(answer(outputs, rows=False))["outputs"]
    assert columns["text"] == ["a", "\ufffd"]
    assert [base64.b64decode(one["b64"]) for one in columns["x_bytes"]] == [b"a", b"\xff"]
    assert columns["f"] == [[0.2, 1.0], [None, None]]  # not 0.20000000298023224, not NaN
    rows = json.loads(answer(outputs, rows=True))["predictions"]
    assert rows[0] == {"text": "a", "x_bytes": {"b64": "YQ=="}, "f": [0.2, 1.0]}
    assert json.loads(answer({"n": np.array([1, 2])}, rows=True)) == {"predictions": [1, 2]}
    assert json.loads(answer({"n": np.array([[1]])}, rows=False)) == {"outputs": [[1]]}


def test_rows_that_do_not_agree_are_no_rows():
    with pytest.raises(ServingError, match="inconsistent batch size: 1 expecting: 2"):
        answer({"a": np.zeros(2), "b": np.zeros(1)}, rows=True)
    with pytest.raises(ServingError, match="has no shape information"):
        answer({"a": np.zeros(())}, rows=True)


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
def test_any_json_is_read_or_refused(value, key, name):
    try:
        found = parse({"signature_name": name, key: value})
        for array in found.inputs.values():
            assert array.dtype != object or all(isinstance(one, bytes) for one in array.ravel())
    except ServingError as error:
        assert error.http == 400

"""Parsing the JSON of predict requests, by TensorFlow Serving's rules.

Source: tensorflow/serving util/json_tensor.cc, for what is accepted and the error messages.
Requests that are not valid UTF-8 are rejected; TensorFlow Serving passes them on.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.errors import shorten
from tfgpt2.serving.server.request_size import MAX_AXES, check_rows
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.server.signature import Arrays, Signature, TensorInfo, find_signature

_MAX_FLOAT_INTEGER = {"float32": 2**24 - 1, "float64": 2**53 - 1}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
_MAX_SHOWN = 100  # characters of a wrong value in a message


class PredictRequest(NamedTuple):
    """A parsed request.

    Attributes:
        signature: The requested signature.
        inputs: An array for each input.
        rows: Whether it has the row format: `instances` in, `predictions` out.
    """

    signature: Signature
    inputs: Arrays
    rows: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """Parses a body, which must be an object.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error or 'Too deep'}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_show(document)} Is not object")
    return document


def parse_predict(
    body: bytes, signatures: Mapping[str, Signature], max_rows: int
) -> PredictRequest:
    """Parses a predict request.

    Args:
        body: The body.
        signatures: Those of the model, by name.
        max_rows: Rows of a request.

    Returns:
        Its tensors, of the types of the signature; `Signature.check` checks their shapes.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    document = parse_json(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_show(document)} not formatted correctly."
            " 'signature_name' key must be a string value."
        )
    signature = find_signature(signatures, name)
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs'"
            " or 'instances' keys to exist "
        )
    if "instances" in document:
        return PredictRequest(
            signature, _parse_rows(document["instances"], signature, max_rows), True
        )
    if "inputs" in document:
        return PredictRequest(
            signature, _parse_columns(document["inputs"], signature, max_rows), False
        )
    raise invalid("Missing 'inputs' or 'instances' key")


def _parse_rows(instances: Any, signature: Signature, max_rows: int) -> Arrays:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_show(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
    check_rows(len(instances), max_rows)
    if not isinstance(instances[0], dict) and len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    columns: dict[str, list[np.ndarray]] = {}
    for number, item in enumerate(instances):
        if named != _is_object(item):
            kinds = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {kinds[0]} but got {kinds[1]} at item {number} of input list")
        values = item if named else {next(iter(signature.inputs)): item}
        for name, value in values.items():
            where = f"element: {number}" + (f" key: {cut(name)}" if named else "")
            try:
                array = _parse_value(name, value, signature, columns.get(name))
            except ServingError as error:
                raise invalid(
                    f"Failed to process {where} of 'instances' list."
                    f" Error: {error.code}: {error.message}",
                    param=name,
                ) from None
            columns.setdefault(name, []).append(array)
        if set(values) != set(signature.inputs):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object:"
                f" {_show(item)} keys must be equal to: {','.join(sorted(signature.inputs))}"
            )
    return {name: np.stack(columns[name]) for name in signature.inputs}


def _parse_value(
    name: str, value: Any, signature: Signature, previous: list[np.ndarray] | None
) -> np.ndarray:
    """Parses one value of one row; its shape must be that of the previous rows."""
    if name not in signature.inputs:
        raise invalid(f"JSON object: does not have named input: {cut(name)}")
    array = _parse_tensor(value, signature.inputs[name])
    if previous and previous[0].size != array.size:
        raise invalid(f"Expecting tensor size: {previous[0].size} but got: {array.size}")
    if previous and previous[0].shape != array.shape:
        raise invalid(f"Expecting shape {list(previous[0].shape)} but got: {list(array.shape)}")
    return array


def _parse_columns(inputs: Any, signature: Signature, max_rows: int) -> Arrays:
    if not _is_object(inputs):
        if len(signature.inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        name = next(iter(signature.inputs))
        return {name: _parse_column(inputs, signature.inputs[name], max_rows)}
    # Other keys are ignored, as by TensorFlow Serving: clients may rely on that.
    arrays = {}
    for name, info in signature.inputs.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.", param=name)
        arrays[name] = _parse_column(inputs[name], info, max_rows)
    return arrays


def _parse_column(value: Any, info: TensorInfo, max_rows: int) -> np.ndarray:
    if isinstance(value, list):
        check_rows(len(value), max_rows)
    return _parse_tensor(value, info)


def _is_object(value: Any) -> bool:
    """Whether a value is an object that is not base64 data."""
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _parse_tensor(value: Any, info: TensorInfo) -> np.ndarray:
    """Converts a nested list; its shape is that of the first elements."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if len(shape) > MAX_AXES:  # and no function recurses deeper
            raise invalid(f"A list is nested more than {MAX_AXES} deep.")
        inner = inner[0] if inner else None
    flat: list[Any] = []
    _flatten(value, 0, shape, _value_parser(info), flat)
    dtype = info.dtype
    array = np.empty(len(flat), dtype)
    array[:] = flat
    return array.reshape(shape)


def _flatten(
    value: Any, level: int, shape: list[int], parse: Callable[[Any], Any], flat: list[Any]
) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM."
                f" Expected at level: {len(shape)}"
            )
        flat.append(parse(value))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level}"
            f" expected size: {shape[level]}"
        )
    for inner in value:
        _flatten(inner, level + 1, shape, parse, flat)


def _value_parser(info: TensorInfo) -> Callable[[Any], Any]:
    """Returns the function that parses one value of a type."""
    name = info.type_name
    if info.is_string:
        return _parse_string
    if name in _MAX_FLOAT_INTEGER:
        return lambda value: _parse_float(value, name)
    if name == "bool":
        return lambda value: value if isinstance(value, bool) else _wrong_type(value, name)
    if name in _INTEGERS:
        allowed = range(np.iinfo(name).min, int(np.iinfo(name).max) + 1)
        return lambda value: (
            value if type(value) is int and value in allowed else _wrong_type(value, name)
        )
    raise ServingError("UNIMPLEMENTED", f"Conversion of JSON values to type: {name}")


def _parse_float(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        return _wrong_type(value, name)
    whole = isinstance(value, int)
    if (whole and abs(value) > _MAX_FLOAT_INTEGER[name]) or (
        not whole and np.isfinite(value) and abs(value) > float(np.finfo(name).max)
    ):
        raise invalid(
            f"Cannot convert JSON value: {_show(value)} to {_cpp_type(name)} without loss of"
            " precision."
        )
    return float(value)


def _parse_string(value: Any) -> bytes:
    if isinstance(value, dict):
        if not _is_base64(value):
            raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
        try:
            text = value["b64"]
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid("Unable to base64 decode") from error
    if not isinstance(value, str):
        return _wrong_type(value, "string")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from error


def _wrong_type(value: Any, name: str) -> Any:
    kinds = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    kind = str(value) if isinstance(value, bool) else kinds.get(type(value), "Number")
    raise invalid(
        f"JSON Value: {_show(value)} Type: {kind} is not of expected type: {_cpp_type(name)}"
    )


def _cpp_type(name: str) -> str:
    """Returns the name of a type in C++."""
    return {"float32": "float", "float64": "double"}.get(name, name)


def _show(value: Any) -> str:
    """Shows a value as JSON if it is short; objects and lists may be deep, and anything long."""
    if isinstance(value, (dict, list, str)):
        return shorten(value, _MAX_SHOWN)
    return cut(json.dumps(value), _MAX_SHOWN)

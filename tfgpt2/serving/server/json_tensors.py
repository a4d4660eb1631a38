"""The JSON of predict requests and answers, by the real server's rules.

Source: tensorflow/serving util/json_tensor.cc, for what is accepted and in which words.
Where the real server writes JSON that no parser accepts, this one does not: numbers that are not
finite become `null`, and bytes that are not UTF-8 become U+FFFD in outputs whose name does not
end in `_bytes`. It also rejects requests that are not valid UTF-8, which the real one passes on.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.serving.server.saved_model import Arrays, Signature, TensorSpec
from tfgpt2.serving.server.status import ServingError, invalid

_DEEPEST = 8  # axes of a tensor; a deep list must not become deep recursion
_LARGEST_FLOAT_INTEGER = {"float32": 2**24 - 1, "float64": 2**53 - 1}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
_SHOWN = 100  # characters of a wrong value in a message
_BYTES_SUFFIX = "_bytes"


class PredictRequest(NamedTuple):
    """A parsed request.

    Attributes:
        signature: What is asked.
        inputs: An array for each input.
        rows: Whether it came as `instances`, and so is answered as `predictions`.
    """

    signature: Signature
    inputs: Arrays
    rows: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """Reads a body whose top level is an object.

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


def parse_predict(body: bytes, find: Callable[[str], Signature]) -> PredictRequest:
    """Reads a predict request.

    Args:
        body: As it came.
        find: Gives the signature of a name; an empty name is the default one.

    Returns:
        Its tensors. Their types are the signature's; `Signature.check` looks at their shapes.

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
    signature = find(name)
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs'"
            " or 'instances' keys to exist "
        )
    if "instances" in document:
        return PredictRequest(signature, _from_rows(document["instances"], signature), True)
    if "inputs" in document:
        return PredictRequest(signature, _from_columns(document["inputs"], signature), False)
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_rows(instances: Any, signature: Signature) -> Arrays:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_show(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
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
            where = f"element: {number}" + (f" key: {name}" if named else "")
            try:
                array = _instance(name, value, signature, columns.get(name))
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


def _instance(
    name: str, value: Any, signature: Signature, before: list[np.ndarray] | None
) -> np.ndarray:
    """One row's value of one input, of the shape that the rows before it had."""
    if name not in signature.inputs:
        raise invalid(f"JSON object: does not have named input: {name}")
    array = _tensor(value, signature.inputs[name])
    if before and before[0].size != array.size:
        raise invalid(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        raise invalid(f"Expecting shape {list(before[0].shape)} but got: {list(array.shape)}")
    return array


def _from_columns(inputs: Any, signature: Signature) -> Arrays:
    if not _is_object(inputs):
        if len(signature.inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        name = next(iter(signature.inputs))
        return {name: _tensor(inputs, signature.inputs[name])}
    # Other keys are not looked at, as in the real server: clients may rely on that.
    arrays = {}
    for name, spec in signature.inputs.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.", param=name)
        arrays[name] = _tensor(inputs[name], spec)
    return arrays


def _is_object(value: Any) -> bool:
    """Whether a value is an object that is not base64 data."""
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _tensor(value: Any, spec: TensorSpec) -> np.ndarray:
    """A nested list as a tensor of a type; its shape is that of the first elements."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if len(shape) > _DEEPEST:
            raise invalid(f"A list is nested more than {_DEEPEST} deep.")
        inner = inner[0] if inner else None
    flat: list[Any] = []
    _fill(value, 0, shape, _reader(spec), flat)
    dtype = spec.dtype.as_numpy_dtype
    array = np.empty(len(flat), dtype)
    array[:] = flat
    return array.reshape(shape)


def _fill(
    value: Any, level: int, shape: list[int], read: Callable[[Any], Any], flat: list[Any]
) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_show(value)} found at incorrect level: {level + 1} in the JSON DOM."
                f" Expected at level: {len(shape)}"
            )
        flat.append(read(value))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level}"
            f" expected size: {shape[level]}"
        )
    for inner in value:
        _fill(inner, level + 1, shape, read, flat)


def _reader(spec: TensorSpec) -> Callable[[Any], Any]:
    """The function that reads one value of a type."""
    name = spec.dtype.name
    if spec.is_string:
        return _string
    if name == "bool":
        return lambda value: value if isinstance(value, bool) else _wrong(value, name)
    if name in _INTEGERS:
        limits = np.iinfo(name)
        return lambda value: (
            value
            if isinstance(value, int)
            and not isinstance(value, bool)
            and limits.min <= value <= limits.max
            else _wrong(value, name)
        )
    if name in _LARGEST_FLOAT_INTEGER:
        return lambda value: _decimal(value, name)
    raise ServingError("UNIMPLEMENTED", f"Conversion of JSON values to type: {name}")


def _decimal(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _wrong(value, name)
    whole = isinstance(value, int)
    if (whole and abs(value) > _LARGEST_FLOAT_INTEGER[name]) or (
        not whole and np.isfinite(value) and abs(value) > float(np.finfo(name).max)
    ):
        raise invalid(
            f"Cannot convert JSON value: {_show(value)} to {_cc_name(name)} without loss of"
            " precision."
        )
    return float(value)


def _string(value: Any) -> bytes:
    if isinstance(value, dict):
        if not _is_base64(value):
            raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
        try:
            text = value["b64"]
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid("Unable to base64 decode") from error
    if not isinstance(value, str):
        return _wrong(value, "string")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from error


def _wrong(value: Any, name: str) -> Any:
    kinds = {type(None): "Null", bool: str(value), dict: "Object", list: "Array", str: "String"}
    raise invalid(
        f"JSON Value: {_show(value)} Type: {kinds.get(type(value), 'Number')}"
        f" is not of expected type: {_cc_name(name)}"
    )


def _cc_name(name: str) -> str:
    """A type as TensorFlow's C++ calls it."""
    return {"float32": "float", "float64": "double"}.get(name, name)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def answer(outputs: Arrays, *, rows: bool) -> bytes:
    """Writes an answer.

    Args:
        outputs: By name, at least one.
        rows: Row form (`predictions`), which needs the same first axis everywhere; else columns.

    Returns:
        Valid JSON, whatever the tensors hold.

    Raises:
        ServingError: Outputs cannot be told apart by rows.

    Example:
        >>> answer({"x": np.array([1, 2])}, rows=True)
        b'{"predictions": [1, 2]}'
    """
    if rows:
        count = -1
        for name, array in outputs.items():
            if not array.ndim:
                raise invalid(f"Tensor name: {name} has no shape information ")
            if count not in (-1, len(array)):
                raise invalid(
                    f"Tensor name: {name} has inconsistent batch size: {len(array)}"
                    f" expecting: {count}"
                )
            count = len(array)
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if not rows:
        return _dump({"outputs": plain if len(plain) > 1 else next(iter(plain.values()))})
    if len(plain) == 1:
        return _dump({"predictions": next(iter(plain.values()))})
    items = [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]
    return _dump({"predictions": items})


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _plain(name: str, array: np.ndarray) -> Any:
    """A tensor as nested lists of what JSON knows."""
    if array.dtype == object:
        as_bytes = name.endswith(_BYTES_SUFFIX)
        flat = [_text(value, as_bytes) for value in array.ravel()]
    elif array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        # The shortest digits that give the same float32, not those of the nearest double.
        flat = [float(text) for text in array.ravel().astype(np.float32).astype(str)] \
            if array.dtype.itemsize <= 4 else array.ravel().tolist()  # fmt: skip
        flat = [value if np.isfinite(value) else None for value in flat]
    else:
        flat = array.ravel().tolist()
    if not array.ndim:
        return flat[0]
    filled = np.empty(len(flat), object)
    filled[:] = flat
    return filled.reshape(array.shape).tolist()


def _text(value: bytes, as_bytes: bool) -> Any:
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")

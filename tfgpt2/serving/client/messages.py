"""The protocol messages of TensorFlow Serving that a client needs, without TensorFlow.

The official stubs (`tensorflow-serving-api`) import all of TensorFlow, seconds and hundreds of
megabytes, because they refer to `tensorflow.core`. The wire format has only field numbers and
types; those are listed here, in a descriptor pool of their own, so that both can be used in one
process. A test compares every field with the official stubs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "bool": _FIELD.TYPE_BOOL,
    "float": _FIELD.TYPE_FLOAT, "double": _FIELD.TYPE_DOUBLE, "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
}  # fmt: skip

# "name = number: type", with `[]` for repeated fields and `{}` for maps from string.
# Enumerations are read as int32, which is the same on the wire.
MESSAGES = {
    "Int64Value": "value=1: int64",
    "Any": "type_url=1: string, value=2: bytes",
    "Dim": "size=1: int64, name=2: string",
    "TensorShapeProto": "dim=2: Dim[], unknown_rank=3: bool",
    "TensorProto": "dtype=1: int32, tensor_shape=2: TensorShapeProto, version_number=3: int32,"
    " tensor_content=4: bytes, float_val=5: float[], double_val=6: double[], int_val=7: int32[],"
    " string_val=8: bytes[], int64_val=10: int64[], bool_val=11: bool[]",
    "TensorInfo": "name=1: string, dtype=2: int32, tensor_shape=3: TensorShapeProto",
    "SignatureDef": "inputs=1: TensorInfo{}, outputs=2: TensorInfo{}, method_name=3: string,"
    " defaults=4: TensorProto{}",
    "SignatureDefMap": "signature_def=1: SignatureDef{}",
    "ModelSpec": "name=1: string, version=2: Int64Value, signature_name=3: string,"
    " version_label=4: string",
    "PredictRequest": "model_spec=1: ModelSpec, inputs=2: TensorProto{}, output_filter=3: string[]",
    "PredictResponse": "outputs=1: TensorProto{}, model_spec=2: ModelSpec",
    "GetModelStatusRequest": "model_spec=1: ModelSpec",
    "StatusProto": "error_code=1: int32, error_message=2: string",
    "ModelVersionStatus": "version=1: int64, state=2: int32, status=3: StatusProto",
    "GetModelStatusResponse": "model_version_status=1: ModelVersionStatus[]",
    "GetModelMetadataRequest": "model_spec=1: ModelSpec, metadata_field=2: string[]",
    "GetModelMetadataResponse": "model_spec=1: ModelSpec, metadata=2: Any{}",
}
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
         "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
         "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
         "UNAUTHENTICATED")  # fmt: skip
# Type of a tensor: its number, its field in `TensorProto`, its letter for `struct`.
DTYPES = {
    "DT_FLOAT": (1, "float_val", "f"), "DT_DOUBLE": (2, "double_val", "d"),
    "DT_INT32": (3, "int_val", "i"), "DT_UINT8": (4, "int_val", "B"),
    "DT_INT8": (6, "int_val", "b"), "DT_STRING": (7, "string_val", ""),
    "DT_INT64": (9, "int64_val", "q"), "DT_BOOL": (10, "bool_val", "?"),
}  # fmt: skip
_BY_NUMBER = {number: (name, field, code) for name, (number, field, code) in DTYPES.items()}
_PACKAGE = "tfgpt2.wire"


def _parse(fields: str) -> Iterator[tuple[str, int, str, str]]:
    """Yields name, number, type and kind (`""`, `"[]"` or `"{}"`) of each field."""
    for field in fields.split(","):
        left, kind = (part.strip() for part in field.split(":"))
        name, number = left.split("=")
        suffix = kind[-2:] if kind.endswith(("[]", "{}")) else ""
        yield name.strip(), int(number), kind.removesuffix(suffix), suffix


def _fill(field: Any, name: str, number: int, kind: str, repeated: bool) -> None:
    field.name, field.number = name, number
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"


def _build() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="tfgpt2_wire.proto", package=_PACKAGE)
    file.syntax = "proto3"
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, kind, suffix in _parse(fields):
            if suffix == "{}":  # a map is a repeated message of key and value
                entry = made.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
                entry.options.map_entry = True
                _fill(entry.field.add(), "key", 1, "string", False)
                _fill(entry.field.add(), "value", 2, kind, False)
                kind = f"{message}.{entry.name}"
            _fill(made.field.add(), name, number, kind, bool(suffix))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in MESSAGES
    }


CLASSES = _build()


def to_tensor(value: Any, dtype: str, tensor: Any) -> None:
    """Writes nested lists into a `TensorProto`.

    Args:
        value: Numbers, or strings as bytes, in lists nested once per dimension.
        dtype: A name of `DTYPES`.
        tensor: The message to fill.

    Raises:
        ValueError: The lists differ in length.
    """
    number, field, _ = DTYPES[dtype]
    tensor.dtype = number
    shape, flat = [], value
    while isinstance(flat, (list, tuple)):
        shape.append(len(flat))
        if not flat:
            break
        flat = flat[0]
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    getattr(tensor, field).extend(_flatten(value, shape))


def _flatten(value: Any, shape: Sequence[int]) -> Iterator[Any]:
    if not shape:
        yield value
        return
    if not isinstance(value, (list, tuple)) or len(value) != shape[0]:
        raise ValueError(f"the lists of an input differ in length; expected {shape[0]} entries")
    for one in value:
        yield from _flatten(one, shape[1:])


def from_tensor(tensor: Any) -> Any:
    """Reads a `TensorProto` as nested lists; strings are bytes.

    Raises:
        ValueError: The type is unknown, or the number of values does not match the shape.
    """
    if tensor.dtype not in _BY_NUMBER:
        raise ValueError(f"tensors of type {tensor.dtype} are not supported")
    _, field, code = _BY_NUMBER[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = 1
    for size in shape:
        count *= size
    if tensor.tensor_content and code:
        values = list(struct.unpack(f"<{count}{code}", tensor.tensor_content))
    else:
        values = list(getattr(tensor, field))
        if values and len(values) < count:  # the last value stands for the rest
            values += values[-1:] * (count - len(values))
    if len(values) != count:
        raise ValueError(f"a tensor of shape {shape} came with {len(values)} values")
    for size in reversed(shape[1:]):
        starts = range(0, len(values), size) if size else ()
        values = [values[start : start + size] for start in starts]
    if shape[1:].count(0):  # no values, but rows of empty lists
        values = _empty(shape)
    return values if shape else values[0]


def _empty(shape: Sequence[int]) -> list[Any]:
    return [_empty(shape[1:]) for _ in range(shape[0])] if shape else []

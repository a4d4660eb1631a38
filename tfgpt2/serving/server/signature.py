"""Signatures of a SavedModel: tensors, checks, and inputs from gRPC messages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.serving.server.request_size import MAX_AXES, check_bytes, shape_bytes
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid

Arrays = dict[str, np.ndarray]  # strings are object arrays of bytes

DEFAULT_SIGNATURE = "serving_default"
_MAX_NAMES = 10  # unknown inputs that an error lists


class TensorInfo(NamedTuple):
    """Type and shape of an input or output.

    Attributes:
        dtype: TensorFlow's type.
        shape: Length of each axis, -1 where any is allowed; None if the rank is unknown.
    """

    dtype: tf.DType
    shape: tuple[int, ...] | None

    @property
    def is_string(self) -> bool:
        """Whether it holds bytes."""
        return self.dtype == tf.string

    def check(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Checks the type and the shape of a tensor.

        Args:
            name: The input's name, for the message.
            dtype: NumPy's type; strings are objects.
            shape: Length of each axis.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        if dtype != self.dtype.as_numpy_dtype:
            received = "string" if dtype.kind == "O" else dtype.name
            raise invalid(
                f"Input {name!r} must be {self.dtype.name}."
                f" Received: {received}. Send it as {self.dtype.name}.",
                param=name,
            )
        if not self.accepts_shape(shape):
            sizes = ", ".join("any" if size < 0 else str(size) for size in self.shape)
            raise invalid(
                f"Input {name!r} must have the shape [{sizes}]. Received: {list(shape)}.",
                param=name,
            )

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have a shape."""
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(size in (-1, given) for size, given in zip(self.shape, shape, strict=True))
        )


class Signature(NamedTuple):
    """Inputs and outputs of a signature.

    Attributes:
        name: Its key in the SavedModel.
        inputs: By name.
        outputs: By name.
        defaults: Values of inputs that a client may leave out (over gRPC).
    """

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    defaults: Arrays

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Checks types and shapes.

        Args:
            inputs: All inputs, by name.

        Raises:
            ServingError: INVALID_ARGUMENT, naming the input.
        """
        for name, info in self.inputs.items():
            info.check(name, inputs[name].dtype, inputs[name].shape)

    def empty_outputs(self) -> Arrays:
        """Makes the outputs of a request without rows, for which no model runs.

        Returns:
            All outputs with 0 rows; other axes that may have any length have length 0.

        Raises:
            ServingError: INVALID_ARGUMENT: the outputs of this model are not rows.
        """
        arrays = {}
        for name, info in self.outputs.items():
            rows, *others = (-1,) if info.shape is None else info.shape or (1,)
            if rows > 0:
                raise invalid("The request has no rows. Send at least one.")
            shape = (0, *(max(size, 0) for size in others))
            arrays[name] = np.empty(shape, info.dtype.as_numpy_dtype)
        return arrays


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Returns the signature of a name; an empty name is `serving_default`.

    Raises:
        ServingError: INVALID_ARGUMENT: there is none.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(
            f'Serving signature name: "{cut(name)}" not found in signature def.'
            f" The model has: {', '.join(sorted(signatures))}."
        )
    return signatures[name]


def inputs_from_protos(
    signature: Signature, protos: Mapping[str, Any], max_bytes: float = math.inf
) -> Arrays:
    """Converts the tensors of a gRPC request and adds the defaults of those left out.

    Args:
        signature: The requested signature.
        protos: `TensorProto` by name.
        max_bytes: Bytes of all arrays, without those of strings.

    Returns:
        An array for each input of the signature.

    Raises:
        ServingError: INVALID_ARGUMENT: an input is missing, unknown, malformed or of another type
            or shape, or the arrays are too large; known before any of them is made.
    """
    unknown = sorted(set(protos) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(protos) - set(signature.defaults))
    if unknown or missing:
        # Source of the wording: tensorflow/serving predict_util.cc::VerifyRequestInputsSize.
        raise invalid(
            f"input size does not match signature: {len(protos)}!={len(signature.inputs)}."
            f" Sent extra: {{{_join(unknown)}}}. Missing but required: {{{_join(missing)}}}."
        )
    size = sum(_check_proto(name, signature.inputs[name], proto) for name, proto in protos.items())
    check_bytes(size, max_bytes)
    given = {name: _array(name, proto) for name, proto in protos.items()}
    return {name: given.get(name, signature.defaults.get(name)) for name in signature.inputs}


def _check_proto(name: str, info: TensorInfo, proto: Any) -> int:
    """Checks the type and shape of a message, and returns the bytes of its array."""
    axes = [axis.size for axis in itertools.islice(proto.tensor_shape.dim, MAX_AXES + 1)]
    if proto.tensor_shape.unknown_rank or len(axes) > MAX_AXES or min(axes, default=0) < 0:
        raise _parsing_error(name)
    try:
        dtype = np.dtype(tf.as_dtype(proto.dtype).as_numpy_dtype)
    except (TypeError, KeyError) as error:  # no type, or one of references and resources
        raise _parsing_error(name) from error
    info.check(name, dtype, tuple(axes))
    return shape_bytes(axes, dtype)


def _array(name: str, proto: Any) -> np.ndarray:
    try:
        array = tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise _parsing_error(name) from error
    if array.dtype == object and not proto.string_val:
        return np.full(array.shape, b"", object)  # TensorFlow fills it with `str`
    return array


def _parsing_error(name: str) -> ServingError:
    return invalid(f"tensor parsing error: {name}", param=name)


def _join(names: Iterable[str]) -> str:
    """Lists names; there may be as many, and as long ones, as a message can hold."""
    return ",".join(map(cut, itertools.islice(names, _MAX_NAMES)))

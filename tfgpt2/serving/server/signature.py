"""Signatures of a SavedModel: tensors, checks, and inputs from gRPC messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.serving.server.serving_error import invalid

Arrays = dict[str, np.ndarray]  # strings are object arrays of bytes

DEFAULT_SIGNATURE = "serving_default"
_MAX_VALUES = 2**24  # of a tensor in a message: a few bytes can claim to be gigabytes


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
            array = inputs[name]
            if array.dtype != info.dtype.as_numpy_dtype:
                received = "string" if array.dtype == object else array.dtype.name
                raise invalid(
                    f"Input {name!r} must be {info.dtype.name}."
                    f" Received: {received}. Send it as {info.dtype.name}.",
                    param=name,
                )
            if not info.accepts_shape(array.shape):
                sizes = ", ".join("any" if size < 0 else str(size) for size in info.shape)
                raise invalid(
                    f"Input {name!r} must have the shape [{sizes}]. Received: {list(array.shape)}.",
                    param=name,
                )


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Returns the signature of a name; an empty name is `serving_default`.

    Raises:
        ServingError: INVALID_ARGUMENT: there is none.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(
            f'Serving signature name: "{name}" not found in signature def.'
            f" The model has: {', '.join(sorted(signatures))}."
        )
    return signatures[name]


def inputs_from_protos(signature: Signature, protos: Mapping[str, Any]) -> Arrays:
    """Converts the tensors of a gRPC request and adds the defaults of those left out.

    Args:
        signature: The requested signature.
        protos: `TensorProto` by name.

    Returns:
        An array for each input of the signature.

    Raises:
        ServingError: INVALID_ARGUMENT: an input is missing, unknown or malformed.
    """
    unknown = sorted(set(protos) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(protos) - set(signature.defaults))
    if unknown or missing:
        # Source of the wording: tensorflow/serving predict_util.cc::VerifyRequestInputsSize.
        raise invalid(
            f"input size does not match signature: {len(protos)}!={len(signature.inputs)}."
            f" Sent extra: {{{','.join(unknown)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    given = {name: _array(name, proto) for name, proto in protos.items()}
    return {name: given.get(name, signature.defaults.get(name)) for name in signature.inputs}


def _array(name: str, proto: Any) -> np.ndarray:
    values = 1
    for axis in proto.tensor_shape.dim:
        values *= axis.size
    try:
        if not 0 <= values <= _MAX_VALUES or proto.tensor_shape.unknown_rank:
            raise ValueError("invalid shape")
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name}", param=name) from error

"""Inputs of a signature from TensorFlow's messages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.serving.server.request_size import MAX_AXES, check_bytes, shape_bytes
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid
from tfgpt2.serving.server.signature import Arrays, Signature, TensorInfo

_MAX_NAMES = 10  # unknown inputs that an error lists


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

"""Weights stored in 16 or 8 bits.

A compiled program reads the matrices as they are stored: see `tfgpt2.nn.light`. Everything else in
16 bits is widened when the SavedModel is loaded: the file holds the small type, and an initializer,
which every server runs after it has restored the variables, writes float32 variables. Without XLA
there is no fast product of a light matrix, so the matrices are widened in the same way, and the
answers are those of the compiled model.
"""

from __future__ import annotations

import uuid
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import nearest, value_error
from tfgpt2.nn import quantization

TYPES = ("float32", "float16", "bfloat16", "int8")


def check_type(weights: str | None) -> str | None:
    """Checks the name of a weight type.

    Raises:
        ValueError: The type is unknown.
    """
    if weights is None or weights in TYPES:
        return weights
    problem = f"`weights` must be one of {', '.join(TYPES)}."
    raise value_error(problem, fix=nearest(str(weights), TYPES), weights=weights)


def convert(
    model: Any, weights: str | None, *, compiled: bool = True
) -> tuple[Any, list[tf.Variable | Any]]:
    """Converts a model's weights to the type in which an export stores them.

    Args:
        model: The model; it is not changed.
        weights: A type of `TYPES`; None is the model's own.
        compiled: Whether XLA compiles the export.

    Returns:
        The model to export, which computes with the stored values, and the resources that the
        SavedModel must track.

    Raises:
        ValueError: A value is too large for the type, or the model is quantized and the type is
            not int8.
    """
    if weights == "int8" or (weights is None and model.is_quantized):
        return _convert_int8(model, compiled=compiled)
    if weights is not None:
        quantization.require_float(model, f"An export with weights={weights!r}")
    own = {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights}
    if weights is None or own == {weights}:
        return model, [weight.value for weight in model.weights]
    copy = type(model)(model.config, dtype="float32")
    for old, new in zip(model.weights, copy.weights, strict=True):
        new.assign(_rounded(old, weights))
    if weights == "float32":
        return copy, [weight.value for weight in copy.weights]
    if compiled:
        for layer in quantization.matrix_layers(copy):
            layer.to_light(weights)
    return copy, [_stored(weight.value, weights) for weight in copy.weights]


def _rounded(weight: keras.Variable, weights: str) -> tf.Tensor:
    """The values of a weight as float32, rounded to a type.

    Raises:
        ValueError: A value is too large for the type.
    """
    value = tf.cast(tf.cast(weight.value, weights), tf.float32)
    if not np.all(np.isfinite(value)) and np.all(np.isfinite(weight.numpy())):
        raise value_error(
            f"A weight is too large for {weights}.",
            fix="Use weights='bfloat16', which has float32's range.",
            weight=weight.path,
            largest=float(np.max(np.abs(weight.numpy()))),
        )
    return value


def _stored(variable: tf.Variable, weights: str) -> tf.Variable | _WidenedVariable:
    """What the SavedModel stores of a variable."""
    if variable.dtype != tf.float32:
        return variable  # a light matrix
    return _WidenedVariable(tf.cast(variable, weights), variable)


def _convert_int8(model: Any, *, compiled: bool) -> tuple[Any, list[tf.Variable | Any]]:
    """`convert` to int8."""
    if compiled and model.is_quantized:
        return model, [weight.value for weight in model.weights]
    copy = quantization.quantized_copy(model)
    tracked = []
    if not compiled:
        for layer in quantization.matrix_layers(copy):
            stored = layer.weight_int8.value
            tracked.append(_WidenedVariable(stored, layer.store_as_float32()))
    return copy, [*tracked, *(weight.value for weight in copy.weights)]


class _WidenedVariable(tf.saved_model.experimental.TrackableResource):
    """A float32 variable that is not stored, but made from a smaller one when it is loaded.

    It is never destroyed: in Python that would happen together with the loaded object, while
    functions taken from it (`tf.saved_model.load(path).signatures`) are still in use. A session,
    and so a server, frees it with everything else.

    Args:
        stored: The values to store.
        live: The float32 variable that the traced functions read.
    """

    def __init__(self, stored: tf.Tensor, live: tf.Variable) -> None:
        super().__init__()
        self.stored = tf.Variable(stored, trainable=False)
        self._shape = live.shape
        self._live = live  # keeps the handle alive; it is not stored
        self._name = f"widened-{uuid.uuid4().hex}"
        # The functions captured this handle; the SavedModel maps it to the resource made below.
        self._resource_handle = live.handle

    def _create_resource(self) -> tf.Tensor:
        # Loading in Python adds a number to the name, so that two models never share a variable.
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=self._shape, shared_name=self._name)

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(
            resource=self.resource_handle, value=tf.cast(self.stored.read_value(), tf.float32)
        )

    def _trackable_children(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super()._trackable_children(*args, **kwargs) | {"stored": self.stored}

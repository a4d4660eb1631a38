"""Weights stored in 16 or 8 bits, with which a SavedModel computes in float32.

    compiled   the variables are of the small type, and programs widen what they read: a decode step
               of a few rows does it inside its products, a prompt or a batch once per call
    plain      the file is as small, and an initializer, which every server runs after it has
               restored the variables, widens them into float32 variables: TensorFlow's own products
               are fast in float32 only

The answers of both are the same.
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
) -> tuple[Any, list[tf.Module | tf.Variable | Any]]:
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
    light = compiled and weights != "float32"
    policy = _ComputesInFloat32(weights) if light else "float32"
    copy = type(model)(model.config, dtype=policy)
    tracked = []
    for old, new in zip(model.weights, copy.weights, strict=True):
        stored = tf.cast(old.value, weights)
        if not np.all(np.isfinite(tf.cast(stored, "float32"))) and np.all(
            np.isfinite(tf.cast(old.value, "float32"))
        ):
            raise value_error(
                f"A weight is too large for {weights}.",
                fix="Use weights='bfloat16', which has float32's range.",
                weight=old.path,
                largest=float(np.max(np.abs(old.numpy()))),
            )
        new.assign(tf.cast(stored, new.dtype))
        kept = light or weights == "float32"
        tracked.append(new.value if kept else _WidenedVariable(stored, new.value))
    return copy, tracked


class _ComputesInFloat32(keras.DTypePolicy):
    """A policy of float32 layers whose variables have the type that is its name."""

    @property
    def compute_dtype(self) -> str:
        """The type of a layer's computations."""
        return "float32"


def _convert_int8(model: Any, *, compiled: bool) -> tuple[Any, list[tf.Variable | Any]]:
    """`convert` to int8."""
    if compiled and model.is_quantized:
        return model, [weight.value for weight in model.weights]
    copy = quantization.quantized_copy(model)
    tracked = []
    if not compiled:
        for layer in quantization.int8_layers(copy):
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

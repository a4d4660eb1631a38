"""Blocks that are alike are traced once.

Tracing is a good part of a first call, and blocks differ in their weights only. One function of the
weights serves them all:

    block 0 ─┐
    block 1 ─┼─ alike? ─> function(weights, x, options), traced with block 0
    block 2 ─┘
    block 3 ─── pruned heads, an adapter of its own, ... ─> another function

XLA writes each call out, so its program is the same as without. TensorFlow's own executor does not
always, so functions are shared only where XLA compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras
import tensorflow as tf

_OF_KERAS = {"name", "build", "quantize"}  # what Keras sets in each layer, and no result depends on
_OWN_LAYERS = __name__.rpartition(".")[0] + "."


class SharedTraces:
    """The functions of one forward pass, by what their traces depend on."""

    def __init__(self) -> None:
        self._functions: dict[Hashable, Callable[..., Any]] = {}

    def run(self, block: keras.layers.Layer, x: tf.Tensor, options: Mapping[str, Any]) -> Any:
        """Calls a block in the function that it shares with blocks like it.

        Args:
            block: A built layer.
            x: Its input.
            options: Its keyword arguments: nested tensors, and plain values.

        Returns:
            What `block(x, **options)` returns.
        """
        # The order in which weights are exchanged is part of it.
        key = trace_key(block), tuple((weight.name, *weight.shape) for weight in block.variables)
        if key not in self._functions:
            self._functions[key] = tf.function(functools.partial(_run, block), autograph=False)
        weights = [tf.convert_to_tensor(weight.value) for weight in block.variables]
        return self._functions[key](weights, x, dict(options))


def _run(
    block: keras.layers.Layer, weights: list[tf.Tensor], x: tf.Tensor, options: dict[str, Any]
) -> Any:
    """Calls a block with other weights in place of its own."""
    with keras.StatelessScope(state_mapping=list(zip(block.variables, weights, strict=True))):
        return block(x, **options)


def trace_key(value: Any) -> Hashable:
    """What the trace of a layer depends on, other than the values of its weights.

    Layers with equal keys compute the same function of weights and inputs. The key of what is not
    known to be safe, such as a layer from elsewhere or a method that was replaced, is its identity,
    which nothing else shares.

    Args:
        value: A built layer, or the value of one of its attributes.

    Example:
        >>> from tfgpt2.nn.layers import LayerNorm
        >>> norms = [LayerNorm(8, epsilon=epsilon) for epsilon in (1e-5, 1e-5, 1e-6)]
        >>> for norm in norms:
        ...     norm.build()
        >>> first, second, third = map(trace_key, norms)
        >>> first == second, first == third
        (True, False)
    """
    if isinstance(value, keras.Variable):
        return tuple(value.shape), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(trace_key, value))
    if isinstance(value, keras.layers.Layer) and type(value).__module__.startswith(_OWN_LAYERS):
        attributes = {k: v for k, v in vars(value).items() if not k.startswith("_")}
        kept = sorted(attributes.keys() - _OF_KERAS)
        policy = value.variable_dtype, value.compute_dtype
        return type(value), policy, *((name, trace_key(attributes[name])) for name in kept)
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value), value
    return id(value)

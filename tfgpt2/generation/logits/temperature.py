"""Temperature: flatter or steeper distributions."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper, ProcessorContext
from tfgpt2.generation.options import REQUEST_OPTIONS

# A lower temperature acts like it: the likeliest token, and no overflow on the way.
_LOWEST = 1e-6


class Temperature(LogitsWarper):
    """Divides scores by the temperature; rows of temperature 0 are greedy and stay as they are.

    Source: transformers' `TemperatureLogitsWarper`.
    """

    option = REQUEST_OPTIONS["temperature"]

    def __call__(
        self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext | None
    ) -> tf.Tensor:
        return tf.maximum(scores / divisor(value)[:, None], tf.float32.min)


def divisor(temperature: tf.Tensor) -> tf.Tensor:
    """What scores are divided by: float32 `[R]`, 1 for greedy rows."""
    return tf.where(temperature > 0, tf.maximum(temperature, _LOWEST), 1.0)

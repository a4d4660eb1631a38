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
        divisor = tf.where(value > 0, tf.maximum(value, _LOWEST), 1.0)  # [R]
        return tf.maximum(scores / divisor[:, None], tf.float32.min)

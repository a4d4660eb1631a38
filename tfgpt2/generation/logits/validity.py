"""Scores that are valid numbers: infinities removed, distributions normalized again."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.vocab_ops import RULED_OUT
from tfgpt2.generation.options import Option


class RemoveInvalidValues(LogitsProcessor):
    """Makes scores finite: NaN becomes 0, infinities the largest numbers there are.

    Source: transformers' `InfNanRemoveLogitsProcessor`.
    """

    option = Option(
        "remove_invalid_values", False, "yes, per row", "bool", False, 0, 1, "True or False"
    )

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        finite = tf.where(tf.math.is_nan(scores), 0.0, scores)
        finite = tf.clip_by_value(finite, tf.float32.min, tf.float32.max)
        return tf.where(value[:, None], finite, scores)


class RenormalizeLogits(LogitsProcessor):
    """Makes warped scores log-probabilities again; applied last. Ruled-out tokens stay ruled out.

    Source: transformers' `LogitNormalization`.
    """

    option = Option(
        "renormalize_logits", False, "yes, per row", "bool", False, 0, 1, "True or False"
    )

    def __call__(
        self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext | None
    ) -> tf.Tensor:
        changed = value[:, None] & (scores > RULED_OUT)  # also where no other token is left
        return tf.where(changed, tf.nn.log_softmax(scores), scores)

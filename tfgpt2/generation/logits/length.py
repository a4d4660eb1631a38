"""End tokens that become likelier with length."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.id_lists import per_row
from tfgpt2.generation.logits.vocab_ops import RULED_OUT, mark_ids
from tfgpt2.generation.options import MAX_TOKENS, Option
from tfgpt2.nn.attention import MASK_VALUE

_LARGEST = 1e6  # factor


class Decay(NamedTuple):
    """Value of `ExponentialDecayLengthPenalty`.

    Attributes:
        start: int32 `[R]`, new tokens after which it begins.
        factor: float32 `[R]`.
    """

    start: tf.Tensor
    factor: tf.Tensor


def decay_length(
    logits: tf.Tensor, eos: tf.Tensor, start: tf.Tensor, factor: tf.Tensor, length: tf.Tensor
) -> tf.Tensor:
    """Makes end tokens likelier with each token past `start`.

    An end token's logit `x` becomes `x + |x| * (factor ** (length - start) - 1)`.

    Args:
        logits: float32 `[B, V]`.
        eos: int32 `[B, E]`, the end tokens; -1 is none. A forbidden one stays forbidden.
        start: int32 `[B]`, tokens after which it begins, the prompt's included.
        factor: float32 `[B]`, above 0; 1 is off.
        length: int32 `[B]`, tokens of the row so far, the prompt's included.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `ExponentialDecayLengthPenalty`, which counts `start` from the prompt's
        end when it is made.
    """
    over = tf.maximum(length - start, 0)  # [B]
    growth = tf.minimum(tf.pow(factor, tf.cast(over, tf.float32)), -MASK_VALUE) - 1.0
    penalty = tf.minimum(tf.abs(logits) * growth[:, None], -MASK_VALUE)  # [B, V], finite
    changed = mark_ids(eos, logits.shape[-1]) & ((over > 0) & (factor != 1))[:, None]
    return tf.where(changed & (logits > RULED_OUT), logits + penalty, logits)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """See `decay_length`."""

    option = Option("exponential_decay_length_penalty", None, "yes, per row as a list of pairs")

    def is_asked(self, config: Any) -> bool:
        """Whether there is a pair."""
        return config.exponential_decay_length_penalty is not None

    def values(self, config: Any, rows: int, vocab_size: int) -> Decay:
        """See `LogitsProcessor`."""
        value = config.exponential_decay_length_penalty
        pairs = per_row(self.option.name, value, rows, 1)
        try:
            starts, factors = zip(*pairs, strict=True)
            fits = all(0 <= operator.index(start) <= MAX_TOKENS for start in starts)
            fits &= all(0 < float(factor) <= _LARGEST for factor in factors)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise value_error(
                "`exponential_decay_length_penalty` must be (start, factor): an integer from 0 to"
                f" {MAX_TOKENS} and a number above 0, at most {_LARGEST:g}.",
                fix="For example (20, 1.05): from the 21st new token on, ends become likelier.",
                exponential_decay_length_penalty=value,
            )
        return Decay(tf.constant(starts, tf.int32), tf.constant(factors, tf.float32))

    def __call__(self, scores: tf.Tensor, value: Decay, context: ProcessorContext) -> tf.Tensor:
        ends = context.params.eos_token_ids
        return decay_length(scores, ends, value.start, value.factor, context.num_new_tokens)

"""Tokens that are forbidden or forced at their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.id_lists import id_rows, is_empty
from tfgpt2.generation.logits.vocab_ops import mark_ids
from tfgpt2.generation.options import REQUEST_OPTIONS, Option
from tfgpt2.nn.attention import MASK_VALUE


def forbid(logits: tf.Tensor, tokens: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Rules tokens out in some rows.

    Args:
        logits: float32 `[B, V]`.
        tokens: bool `[B, V]`.
        rows: bool `[B]`.

    Returns:
        float32 `[B, V]`.
    """
    return tf.where(tokens & rows[:, None], MASK_VALUE, logits)


def force_token(logits: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Leaves some rows nothing but the tokens listed for them, all alike.

    Args:
        logits: float32 `[B, V]`.
        ids: int32 `[B, E]`; -1 is none, and a row without any stays as it is.
        rows: bool `[B]`: for `forced_bos_token_id` those that hold one token, for
            `forced_eos_token_id` those about to choose their last one.

    Returns:
        float32 `[B, V]`, 0 at the tokens and `MASK_VALUE` elsewhere.

    Source: transformers' `ForcedBOSTokenLogitsProcessor` and `ForcedEOSTokenLogitsProcessor`.
    """
    forced = mark_ids(ids, logits.shape[-1])  # [B, V]
    rows &= tf.reduce_any(forced, axis=-1)  # [B]
    return tf.where(rows[:, None], tf.where(forced, 0.0, MASK_VALUE), logits)


class MinNewTokens(LogitsProcessor):
    """Forbids end tokens until a row has so many new tokens.

    Source: transformers' `MinNewTokensLengthLogitsProcessor`.
    """

    option, skips = REQUEST_OPTIONS["min_new_tokens"], True

    def active(self, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        """See `LogitsProcessor`."""
        return context.num_new_tokens < value

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        ends = mark_ids(context.params.eos_token_ids, scores.shape[-1])  # [R, V]
        return forbid(scores, ends, self.active(value, context))


class IdListProcessor(LogitsProcessor):
    """A processor whose option is a list of ids, or one list per row.

    Its value is int32 `[R, U]`, -1 in the place of an id that is missing.
    """

    def is_asked(self, config: Any) -> bool:
        """Whether there is an id."""
        value = getattr(config, self.option.name)
        return value is not None and not is_empty(value)

    def values(self, config: Any, rows: int, vocab_size: int) -> tf.Tensor:
        """See `LogitsProcessor`."""
        value = getattr(config, self.option.name)
        value = [value] if isinstance(value, (int, np.integer)) else value
        return id_rows(self.option.name, value, rows, vocab_size)


class SuppressTokens(IdListProcessor):
    """Rules out listed tokens.

    Source: transformers' `SuppressTokensLogitsProcessor`.
    """

    option = Option("suppress_tokens", None, "yes, per row as a list of lists")

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        return tf.where(mark_ids(value, scores.shape[-1]), MASK_VALUE, scores)


class BeginSuppressTokens(IdListProcessor):
    """Rules out listed tokens in the place of the first new one.

    After a prompt of one token with a forced first token, that is the second.

    Source: transformers' `SuppressTokensAtBeginLogitsProcessor`; `begin_index` in
        `generation/utils.py::_get_logits_processor`.
    """

    option = Option("begin_suppress_tokens", None, "yes, per row as a list of lists")

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        first = context.num_new_tokens == 0
        if ForcedBosToken.option.name in context.params.options:  # then the first one is not free
            alone = context.lengths - context.num_new_tokens == 1
            first = context.num_new_tokens == tf.cast(alone, tf.int32)
        return forbid(scores, mark_ids(value, scores.shape[-1]), first)


class ForcedBosToken(IdListProcessor):
    """Forces the token after a prompt of one token."""

    option = Option("forced_bos_token_id")

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        return force_token(scores, value, context.lengths == 1)


class ForcedEosToken(IdListProcessor):
    """Forces the last token that fits."""

    option = Option("forced_eos_token_id")

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        last = context.num_new_tokens == context.max_new_tokens - 1
        return force_token(scores, value, last)

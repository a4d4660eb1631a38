"""Repeated n-grams: runs of tokens that must not occur again."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.history import OUTSIDE, history_end
from tfgpt2.generation.logits.vocab_ops import mark_ids
from tfgpt2.generation.options import MAX_TOKENS, Option
from tfgpt2.nn.attention import MASK_VALUE


def forbid_repeated_ngrams(
    logits: tf.Tensor,
    tokens: tf.Tensor,
    written: tf.Tensor,
    size: tf.Tensor,
    source: tf.Tensor | None = None,
) -> tf.Tensor:
    """Rules out tokens that would repeat a run of `size` tokens.

    Args:
        logits: float32 `[B, V]`.
        tokens: int32 `[B, S]`.
        written: bool `[B, S]`, one run of columns per row: its history.
        size: int32 `[B]`, tokens of a run; 1 allows each token once, 0 is off.
        source: bool `[B, S]`, a run that begins where the history does: the part that must not be
            repeated, such as the prompt; None is all of it.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `NoRepeatNGramLogitsProcessor`, and with the prompt as `source`
        `EncoderNoRepeatNGramLogitsProcessor`. Unlike there, padding is not part of the history.

    Example:
        >>> tokens = tf.constant([[4, 1, 2, 3, 1, 2]])
        >>> written, size = tf.ones([1, 6], tf.bool), tf.constant([3])
        >>> logits = forbid_repeated_ngrams(tf.zeros([1, 5]), tokens, written, size)
        >>> (logits == 0).numpy().tolist()
        [[True, True, True, False, True]]
    """
    columns = tf.shape(tokens)[1]
    end = history_end(written)  # [B]
    held = tf.where(written, tokens, OUTSIDE)  # [B, S]

    def narrow(back: tf.Tensor, moved: tf.Tensor, same: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Column j of `moved` holds the token `back` columns before j.
        moved = tf.concat([tf.fill([tf.shape(tokens)[0], 1], OUTSIDE), moved[:, :-1]], axis=1)
        last = tf.gather(held, tf.maximum(end - back, 0), batch_dims=1)[:, None]  # [B, 1]
        # An earlier run leaves the history before its end does, so no two outsides meet.
        return back + 1, moved, same & ((moved == last) | (back >= size)[:, None])

    longest = tf.minimum(tf.reduce_max(size), columns + 1)
    _, _, same = tf.while_loop(
        lambda back, moved, same: back < longest,
        narrow,
        (tf.constant(1), held, written & (size > 0)[:, None]),
    )  # True at the last token of each earlier run that the history's end begins
    if source is not None:
        same &= source
    return tf.where(mark_ids(tf.where(same, tokens, -1), logits.shape[-1]), MASK_VALUE, logits)


class NoRepeatNgram(LogitsProcessor):
    """See `forbid_repeated_ngrams`, over prompt and continuation."""

    option = Option(
        "no_repeat_ngram_size", 0, "yes, per row; padding is not part of the history",
        "int32", 0, 0, MAX_TOKENS, f"an integer of 0 (off) or more, at most {MAX_TOKENS}",
    )  # fmt: skip

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        return forbid_repeated_ngrams(scores, context.input_ids, context.mask, value)


class EncoderNoRepeatNgram(LogitsProcessor):
    """See `forbid_repeated_ngrams`, with the n-grams of the prompt."""

    option = Option(
        "encoder_no_repeat_ngram_size", 0, "yes, per row, n-grams of the prompt",
        "int32", 0, 0, MAX_TOKENS, f"an integer of 0 (off) or more, at most {MAX_TOKENS}",
    )  # fmt: skip

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        prompt = context.mask & context.in_prompt
        return forbid_repeated_ngrams(scores, context.input_ids, context.mask, value, source=prompt)

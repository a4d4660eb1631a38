"""What may be known of the texts so far when their scores are processed, and the usual process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation.logits.pipeline import seen
from tfgpt2.generation.logits.processors import forbid, penalize_repetition
from tfgpt2.generation.logits.vocab_ops import mark
from tfgpt2.generation.request import Request


class Told(NamedTuple):
    """The texts whose next token is scored; `R` of them, one per candidate.

    Attributes:
        tokens: int32 `[R, S]`, the prompt against the right edge of the first `P` columns, then
            what was generated; 0 elsewhere.
        written: bool `[R, S]`, the columns of the prompt and of what was generated.
        lengths: int32 `[R]`, tokens of the whole text.
        step: int32 `[]`, tokens generated so far.
    """

    tokens: tf.Tensor
    written: tf.Tensor
    lengths: tf.Tensor
    step: tf.Tensor


# From texts to bool `[R]`: those that end.
Ends = Callable[[Told], tf.Tensor]
# From scores float32 `[R, V]` and the texts to scores `[R, V]`.
Process = Callable[[tf.Tensor, Told], tf.Tensor]


def tell(ids: tf.Tensor, mask: tf.Tensor, tokens: tf.Tensor, step: tf.Tensor) -> Told:
    """Joins prompts and continuations.

    Args:
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        tokens: int32 `[R, T]`; `R` is a multiple of `B`, the texts of a prompt side by side.
        step: int32 `[]`, how many of the `T` are written.

    Example:
        >>> ids, new = tf.constant([[0, 7]]), tf.constant([[5, 0], [6, 0]])
        >>> told = tell(ids, tf.constant([[0, 1]]), new, tf.constant(1))
        >>> told.tokens.numpy().tolist(), told.lengths.numpy().tolist()
        ([[0, 7, 5, 0], [0, 7, 6, 0]], [2, 2])
    """
    copies = tf.shape(tokens)[0] // tf.shape(ids)[0]
    prompts = tf.repeat(ids * mask, copies, axis=0)  # [R, P]
    read = tf.repeat(mask, copies, axis=0) > 0  # [R, P]
    generated = tf.zeros_like(tokens, tf.bool) | (tf.range(tf.shape(tokens)[1]) < step)  # [R, T]
    return Told(
        tokens=tf.concat([prompts, tokens], axis=1),  # [R, S]
        written=tf.concat([read, generated], axis=1),  # [R, S]
        lengths=tf.repeat(tf.reduce_sum(mask, axis=1), copies) + step,  # [R]
        step=step,
    )


def standard(scores: tf.Tensor, told: Told, row: Request) -> tf.Tensor:
    """Repetition penalty and least length, for callers that bring no process of their own.

    Args:
        scores: float32 `[R, V]`.
        told: The texts so far.
        row: The settings, `[R]` each.

    Returns:
        float32 `[R, V]`.
    """
    scores = tf.cond(
        tf.reduce_any(row.repetition_penalty != 1),
        lambda: penalize_repetition(
            scores, seen(told.tokens, told.written, scores.shape[-1]), row.repetition_penalty
        ),
        lambda: scores,
    )
    ends = mark(row.eos, scores.shape[-1])  # [R, V]
    return forbid(scores, ends, told.step < row.min_new_tokens)

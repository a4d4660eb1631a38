"""What a step's logits owe to the order of earlier tokens: repeated n-grams, biased sequences.

A row's history is a run of columns of `tokens` `[B, S]`: `written` marks the prompt, pushed
against the right edge of its columns, and the continuation after it. Columns outside the run may
hold anything, so rows of different lengths share the tensor and padding is never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.buckets import default_buckets
from tfgpt2.generation.logits.vocab_ops import mark, spread
from tfgpt2.nn.attention import MASK_VALUE

# Tokens of a sequence, and sequences of a row; a program is compiled for each size that occurs.
LONGEST_SEQUENCE = 256
MOST_SEQUENCES = 4096
_WIDTHS = (1, 2, 4, 8, *default_buckets(LONGEST_SEQUENCE))
_COUNTS = (1, 4, *default_buckets(MOST_SEQUENCES))
# Two values that no token has and that differ: beyond a sequence, and beyond the history.
_NONE, _OUTSIDE = -1, -2


class SequenceBias(NamedTuple):
    """Sequences of tokens that each row favours or avoids.

    Attributes:
        ids: int32 `[B, Q, W]`, each sequence against the right edge, -1 before it; a sequence
            of -1 only is none.
        bias: float32 `[B, Q]`, added to a sequence's last token; `MASK_VALUE` rules it out.
    """

    ids: tf.Tensor
    bias: tf.Tensor


def lay_out_biases(rows: Sequence[Mapping[tuple[int, ...], float]]) -> SequenceBias:
    """Lays out each row's sequences and their biases; Python, so outside the compiled core.

    Number and length are padded to a few sizes, so that few requests ask for a new program.

    Args:
        rows: For each row, from a sequence of one or more ids to its bias; minus infinity becomes
            `MASK_VALUE`.

    Raises:
        ValueError: A sequence is empty or too long, or a row has too many.

    Example:
        >>> biases = lay_out_biases([{(5,): -1.0, (1, 2): 2.0}])
        >>> biases.ids.numpy().tolist()
        [[[-1, 5], [1, 2], [-1, -1], [-1, -1]]]
        >>> biases.bias.numpy().tolist()
        [[-1.0, 2.0, 0.0, 0.0]]
    """
    lengths = [len(sequence) for row in rows for sequence in row]
    if min(lengths, default=1) < 1 or max(lengths, default=1) > LONGEST_SEQUENCE:
        raise ValueError(
            explain(
                f"A biased sequence has 1 to {LONGEST_SEQUENCE} tokens.",
                fix="Leave out empty sequences and shorten long ones.",
                lengths=sorted(set(lengths)),
            )
        )
    most = max((len(row) for row in rows), default=0)
    if most > MOST_SEQUENCES:
        raise ValueError(
            explain(
                f"A row has at most {MOST_SEQUENCES} biased sequences.",
                fix="Pass fewer.",
                sequences=most,
            )
        )
    width = next(size for size in _WIDTHS if size >= max(lengths, default=1))
    number = next(size for size in _COUNTS if size >= most)
    ids = np.full([len(rows), number, width], _NONE, np.int32)  # [B, Q, W]
    bias = np.zeros([len(rows), number], np.float32)  # [B, Q]
    for row, biases in enumerate(rows):
        for place, (sequence, value) in enumerate(biases.items()):
            ids[row, place, width - len(sequence) :] = sequence
            bias[row, place] = max(value, MASK_VALUE)
    return SequenceBias(tf.constant(ids), tf.constant(bias))


def bad_words(
    words: Sequence[Sequence[int]], eos: Sequence[int] = ()
) -> dict[tuple[int, ...], float]:
    """Turns words that must not appear into biases for `lay_out_biases`.

    Args:
        words: Sequences of ids.
        eos: End tokens; a word that is nothing but one of them is left out, for a text must end.

    Source: transformers' `NoBadWordsLogitsProcessor`.

    Example:
        >>> bad_words([[7], [1, 7], [2]], eos=[7])
        {(1, 7): -1e+30, (2,): -1e+30}
    """
    return {tuple(word): MASK_VALUE for word in words if len(word) != 1 or word[0] not in eos}


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
        `EncoderNoRepeatNGramLogitsProcessor`. Unlike there, padding is no part of the history.

    Example:
        >>> tokens = tf.constant([[4, 1, 2, 3, 1, 2]])
        >>> written, size = tf.ones([1, 6], tf.bool), tf.constant([3])
        >>> logits = forbid_repeated_ngrams(tf.zeros([1, 5]), tokens, written, size)
        >>> (logits == 0).numpy().tolist()
        [[True, True, True, False, True]]
    """
    columns = tf.shape(tokens)[1]
    end = _end(written)  # [B]
    held = tf.where(written, tokens, _OUTSIDE)  # [B, S]

    def narrow(back: tf.Tensor, moved: tf.Tensor, same: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Column j of `moved` holds the token `back` columns before j.
        moved = tf.concat([tf.fill([tf.shape(tokens)[0], 1], _OUTSIDE), moved[:, :-1]], axis=1)
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
    return tf.where(mark(tf.where(same, tokens, _NONE), logits.shape[-1]), MASK_VALUE, logits)


def add_sequence_bias(
    logits: tf.Tensor, tokens: tf.Tensor, written: tf.Tensor, biases: SequenceBias
) -> tf.Tensor:
    """Adds a bias to the last token of each sequence whose beginning ends the history.

    A sequence of one token is always biased; two that end in the same token add up.

    Args:
        logits: float32 `[B, V]`.
        tokens: int32 `[B, S]`.
        written: bool `[B, S]`, one run of columns per row: its history.
        biases: Each row's sequences.

    Returns:
        float32 `[B, V]`.

    Source: transformers' `SequenceBiasLogitsProcessor`.

    Example:
        >>> biases = lay_out_biases([{(5,): -1.0, (1, 2): 2.0}])
        >>> tokens, written = tf.constant([[0, 1]]), tf.constant([[True, True]])
        >>> add_sequence_bias(tf.zeros([1, 6]), tokens, written, biases).numpy().tolist()
        [[0.0, 0.0, 2.0, 0.0, 0.0, -1.0]]
    """
    before = tf.shape(biases.ids)[2] - 1
    column = _end(written)[:, None] - before + tf.range(before)  # [B, W - 1], the last tokens
    held = tf.where(written, tokens, _OUTSIDE)  # [B, S]
    tail = tf.gather(held, tf.maximum(column, 0), batch_dims=1)
    tail = tf.where(column >= 0, tail, _OUTSIDE)[:, None]  # [B, 1, W - 1]
    beginning = biases.ids[:, :, :-1]  # [B, Q, W - 1]
    match = tf.reduce_all((beginning == tail) | (beginning == _NONE), axis=-1)  # [B, Q]
    last = tf.where(match & (biases.bias != 0), biases.ids[:, :, -1], _NONE)
    total = spread(last, tf.maximum(biases.bias, MASK_VALUE), logits.shape[-1])  # [B, V]
    return tf.where(total != 0, logits + total, logits)


def _end(written: tf.Tensor) -> tf.Tensor:
    """The column after each row's history: bool `[B, S]` -> int32 `[B]`, 0 for an empty one."""
    after = tf.range(tf.shape(written)[1]) + 1  # [S]
    return tf.reduce_max(tf.where(written, after, 0), axis=-1)

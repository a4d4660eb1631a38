"""Biases of single tokens as a request writes them: `"50256:-100 11:5.5"` for each row.

A row has any number of them, so they are one value of rank 1 for every server, as ids are.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation.buckets import round_up
from tfgpt2.nn.kv_cache import resize_axis

LARGEST = 100.0  # as in OpenAI's API, where it makes a token certain or impossible
_COUNTS = (1, 16, 128, 1024)  # of a row; XLA compiles a program for each that occurs
_PAIR = r"[0-9]{1,9}:[-+]?[0-9]{1,3}(\.[0-9]{1,20})?"


class TokenBiases(NamedTuple):
    """Biases of each row.

    Attributes:
        ids: int32 `[S, Q]`, the tokens; -1 is none.
        values: float32 `[S, Q]`, what is added to their logits.
    """

    ids: tf.Tensor
    values: tf.Tensor


def read_biases(text: tf.Tensor, vocab_size: int) -> tuple[TokenBiases, tf.Tensor]:
    """Reads the biases of each row.

    Args:
        text: string `[S]`: pairs of an id and a number, which is clamped to [-100, 100], with
            spaces between them. Those after the first 1,024 of a row are ignored.
        vocab_size: Number of ids.

    Returns:
        The biases, and bool `[S]`, whether all of a row's are pairs with an id that exists.

    Example:
        >>> biases, known = read_biases(tf.constant(["5:-100 2:1.5", "", "9:1"]), 6)
        >>> biases.ids[:, :2].numpy().tolist(), known.numpy().tolist()
        ([[5, 2], [-1, -1], [-1, -1]], [True, True, False])
    """
    pairs = tf.strings.split(text)  # [S, (Q)]
    flat = pairs.flat_values
    flat = tf.where(tf.strings.regex_full_match(flat, _PAIR), flat, f"{vocab_size}:0")
    ids = tf.strings.to_number(tf.strings.regex_replace(flat, ":.*", ""), tf.int32)
    values = tf.strings.to_number(tf.strings.regex_replace(flat, ".*:", ""), tf.float32)
    known = pairs.with_flat_values(ids < vocab_size)
    ids = pairs.with_flat_values(tf.where(ids < vocab_size, ids, -1))
    values = pairs.with_flat_values(tf.clip_by_value(values, -LARGEST, LARGEST))
    size = _size(tf.cast(pairs.row_lengths(), tf.int32))
    shape = tf.stack([-1, size])
    biases = TokenBiases(ids.to_tensor(-1, shape=shape), values.to_tensor(0.0, shape=shape))
    return biases, tf.reduce_all(known, axis=1)


def fit_biases(biases: TokenBiases, counts: tf.Tensor) -> TokenBiases:
    """Makes room for as many biases as the rows have, and no more than a size above it.

    Args:
        biases: Biases.
        counts: int32 `[S']`, how many each row has.
    """
    size = _size(counts)
    ids = resize_axis(biases.ids, 1, size, filler=-1)
    return TokenBiases(ids, resize_axis(biases.values, 1, size))


def _size(counts: tf.Tensor) -> tf.Tensor:
    return round_up(tf.reduce_max(tf.pad(counts, [[0, 1]])), _COUNTS)

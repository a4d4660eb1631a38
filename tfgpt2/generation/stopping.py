"""When a row ends: an end token, its own limit, or a stop string found in the text's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Codes of `finish_reason`, and their names at the border.
RUNNING, LENGTH, EOS, STOP = range(4)
FINISH_REASONS = ("running", "length", "eos", "stop")

_NO_BYTE = -1  # differs from every byte, so padding never matches


class TokenBytes(NamedTuple):
    """The bytes of every token, for matching stop strings across token boundaries.

    Attributes:
        table: int16 `[V, M]`, the bytes of each token, -1 after its end.
        lengths: int32 `[V]`.
    """

    table: tf.Tensor
    lengths: tf.Tensor


class StopStrings(NamedTuple):
    """Stop strings of each row, as bytes.

    Attributes:
        table: int16 `[B, Q, W]`, the bytes of each string, -1 after its end.
        lengths: int32 `[B, Q]`; 0 is no string.
    """

    table: tf.Tensor
    lengths: tf.Tensor


class StopState(NamedTuple):
    """What matching remembers of a row's text.

    Attributes:
        tail: int16 `[B, W]`, the last bytes; -1 before the text began.
        length: int32 `[B]`, bytes of text so far.
        cut: int32 `[B]`, where the first stop string begins in the text; -1 for none yet.
    """

    tail: tf.Tensor
    length: tf.Tensor
    cut: tf.Tensor


def token_bytes(tokens: Sequence[bytes]) -> TokenBytes:
    """Lays out a vocabulary's bytes as a table.

    Args:
        tokens: The bytes of each id; empty for ids that have no text, such as the end token.

    Example:
        >>> token_bytes([b"a", b"bc"]).table.numpy().tolist()
        [[97, -1], [98, 99]]
    """
    longest = max((len(token) for token in tokens), default=0)
    table = np.full([len(tokens), max(longest, 1)], _NO_BYTE, np.int16)  # [V, M]
    for row, token in zip(table, tokens, strict=True):
        row[: len(token)] = np.frombuffer(token, np.uint8)
    return TokenBytes(tf.constant(table), tf.constant([len(token) for token in tokens], tf.int32))


def stop_strings(stops: tf.Tensor, multiple: int = 16) -> StopStrings:
    """Lays out stop strings as bytes; string operations, so outside the compiled core.

    Args:
        stops: string `[B, Q]`; empty strings are no stops.
        multiple: The width `W` is rounded up to a multiple of this, so that few widths, and so
            few compiled programs, occur.

    Example:
        >>> stop_strings(tf.constant([["ab", "c"]]), 2).table.numpy().tolist()
        [[[97, 98], [99, -1]]]
    """
    lengths = tf.strings.length(stops)  # [B, Q], in bytes
    longest = tf.reduce_max(tf.concat([tf.reshape(lengths, [-1]), [1]], axis=0))
    width = (longest + multiple - 1) // multiple * multiple
    table = tf.cast(tf.io.decode_raw(stops, tf.uint8, fixed_length=width), tf.int16)  # [B, Q, W]
    inside = tf.range(width) < lengths[..., None]  # [B, Q, W]
    return StopStrings(tf.where(inside, table, tf.constant(_NO_BYTE, tf.int16)), lengths)


def start(stops: StopStrings) -> StopState:
    """Returns the state before any text."""
    shape = tf.shape(stops.table)
    return StopState(
        tail=tf.fill([shape[0], shape[2]], tf.constant(_NO_BYTE, tf.int16)),  # [B, W]
        length=tf.zeros([shape[0]], tf.int32),  # [B]
        cut=tf.fill([shape[0]], -1),  # [B]
    )


def advance(
    state: StopState, stops: StopStrings, vocabulary: TokenBytes, token: tf.Tensor
) -> StopState:
    """Reads one token's bytes into the text and looks for stop strings that end in them.

    Args:
        state: What is known of the text so far.
        stops: Each row's stop strings.
        vocabulary: The bytes of every token.
        token: int32 `[B]`; a row that has ended may pass anything, its `cut` stays.

    Returns:
        The state after the token.
    """
    new, count = tf.gather(vocabulary.table, token), tf.gather(vocabulary.lengths, token)
    text = tf.concat([state.tail, new], axis=1)  # [B, W + M]
    width, size = tf.shape(state.tail)[1], tf.shape(text)[1]

    def search() -> tf.Tensor:
        offsets = tf.range(size)[:, None] + tf.range(width)[None, :]  # [W + M, W]
        padded = tf.pad(text, [[0, 0], [0, width]], constant_values=_NO_BYTE)
        windows = tf.gather(padded, offsets, axis=1)  # [B, W + M, W], one per possible start
        strings = stops.table[:, :, None, :]  # [B, Q, 1, W]
        same = (windows[:, None] == strings) | (strings == _NO_BYTE)  # [B, Q, W + M, W]
        found = tf.reduce_all(same, axis=-1) & (stops.lengths > 0)[..., None]  # [B, Q, W + M]
        found = tf.reduce_any(found, axis=1)  # [B, W + M]
        first = tf.reduce_min(tf.where(found, tf.range(size), size), axis=1)  # [B]
        return tf.where(first < size, state.length - width + first, -1)

    none = tf.fill(tf.shape(token), -1)
    cut = tf.cond(tf.reduce_any(stops.lengths > 0), search, lambda: none)
    last = count[:, None] + tf.range(width)  # [B, W], the last W bytes of the text
    return StopState(
        tail=tf.gather(text, last, batch_dims=1),
        length=state.length + count,
        cut=tf.where(state.cut >= 0, state.cut, cut),
    )

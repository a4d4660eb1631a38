"""When a row ends: an end token, its length limit, a stop string, or a user's criterion.

Stop strings are matched against the text in which special tokens are written out as their content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.generation.buckets import round_up
from tfgpt2.generation.options import LONGEST_STOP, MOST_STOPS
from tfgpt2.generation.stop_lists import stop_lists

# Codes of `finish_reason`, and their names at the border.
RUNNING, LENGTH, EOS, STOP, TIME, NO_TOKEN = range(6)
FINISH_REASONS = ("running", "length", "eos", "stop", "time", "no_token")

# Sizes to which they are padded: a program is compiled for each that occurs.
_WIDTHS = (16, 64, LONGEST_STOP)
_COUNTS = (1, 4, 16, MOST_STOPS)
NO_BYTE = -1  # differs from every byte, so padding never matches


class TokenBytes(NamedTuple):
    """The bytes of every token, for matching stop strings across token boundaries.

    Attributes:
        flat: uint8 `[total bytes]`, the tokens one after the other; never empty.
        starts: int32 `[V + 1]`, where each token begins in `flat`.
        longest: Bytes of the longest token, `M`, at least 1.
    """

    flat: tf.Tensor
    starts: tf.Tensor
    longest: int

    def lookup(self, token: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """int32 `[B]` -> bytes int16 `[B, M]`, -1 after their end, and their number `[B]`."""
        start = tf.gather(self.starts, token)  # [B]
        count = tf.gather(self.starts, token + 1) - start  # [B]
        offset = tf.range(self.longest)[None]  # [1, M]
        place = tf.minimum(start[:, None] + offset, tf.size(self.flat) - 1)  # [B, M]
        text = tf.cast(tf.gather(self.flat, place), tf.int16)
        return tf.where(offset < count[:, None], text, tf.constant(NO_BYTE, tf.int16)), count


class StopStrings(NamedTuple):
    """Stop strings of each row, as bytes.

    Attributes:
        table: int16 `[B, Q, W]`, the bytes of each string, -1 after its end.
        lengths: int32 `[B, Q]`; 0 for none.
        before: int16 `[B, W]`, the last bytes before the text, in which a string may begin; -1 for
            none.
    """

    table: tf.Tensor
    lengths: tf.Tensor
    before: tf.Tensor


class StopState(NamedTuple):
    """State of the search for stop strings in a row's text.

    Attributes:
        tail: int16 `[B, W]`, the last bytes; -1 before the text began.
        length: int32 `[B]`, bytes of text so far.
        cut: int32 `[B]`, where the first stop string begins in the text; -1 for none yet.
    """

    tail: tf.Tensor
    length: tf.Tensor
    cut: tf.Tensor


def token_bytes(tokens: Sequence[bytes], size: int | None = None) -> TokenBytes:
    """Lays out a vocabulary's bytes.

    Args:
        tokens: The bytes of each id, see `TokenTexts.written`.
        size: `V` where the model has more ids than there are tokens; the rest have none.

    Example:
        >>> token_bytes([b"a", b"bc"]).lookup(tf.constant([0, 1]))[0].numpy().tolist()
        [[97, -1], [98, 99]]
    """
    tokens = [*tokens, *[b""] * ((size or 0) - len(tokens))]
    lengths = [len(token) for token in tokens]
    flat = np.frombuffer(b"".join(tokens) or b"\0", np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int32)]).astype(np.int32)
    return TokenBytes(tf.constant(flat), tf.constant(starts), max([1, *lengths]))


def encode_stop_strings(stops: tf.Tensor) -> StopStrings:
    """Lays out stop strings as bytes; string operations, so outside the compiled core.

    Number and length are padded to a few sizes, so that no request asks for a new program.

    Args:
        stops: string `[B, Q]`; empty strings are ignored. Strings of more than `LONGEST_STOP`
            bytes, and those after the first `MOST_STOPS` of a row, are not looked for.

    Example:
        >>> encode_stop_strings(tf.constant([["ab", "c"]])).table[0, :2, :3].numpy().tolist()
        [[97, 98, -1], [99, -1, -1]]
    """
    stops = stops[:, :MOST_STOPS]
    stops = tf.where(tf.strings.length(stops) > LONGEST_STOP, "", stops)
    rows, given = tf.unstack(tf.shape(stops))
    count = round_up(given, _COUNTS)
    stops = tf.concat([stops, tf.fill([rows, count - given], "")], axis=1)  # [B, Q]
    lengths = tf.strings.length(stops)  # [B, Q], in bytes
    width = table_size(lengths)[1]  # W
    table = tf.cast(tf.io.decode_raw(stops, tf.uint8, fixed_length=width), tf.int16)  # [B, Q, W]
    inside = tf.range(width) < lengths[..., None]  # [B, Q, W]
    none = tf.constant(NO_BYTE, tf.int16)
    return StopStrings(tf.where(inside, table, none), lengths, before=tf.fill([rows, width], none))


def table_size(lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The sizes `Q` and `W`, int32 `[]`, of a table for strings of so many bytes.

    Args:
        lengths: int32 `[B, Q]`; 0 for none.

    Example:
        >>> [int(size) for size in table_size(tf.constant([[2, 0], [0, 20]]))]
        [4, 64]
    """
    number = tf.range(1, tf.shape(lengths)[1] + 1)
    used = tf.where(lengths > 0, number, 0)  # [B, Q]
    padding = [[0, 1], [0, 1]]
    return (
        round_up(tf.reduce_max(tf.pad(used, padding)), _COUNTS),
        round_up(tf.reduce_max(tf.pad(lengths, padding)), _WIDTHS),
    )


def check_stop_strings(name: str, stop: Any, rows: int) -> tf.Tensor:
    """Checks stop strings and gives each row its own.

    Args:
        name: Name of the argument, for errors.
        stop: A string, a list of strings for all rows, or such a list for each row.
        rows: How many rows there are.

    Returns:
        string `[B, Q]`, padded with empty ones.

    Raises:
        TypeError: It is something else.
        ValueError: A string is too long, or there are too many.
    """
    texts = stop_lists(name, stop, rows)
    width = max([1, *(len(row) for row in texts)])
    padded = [[*row, *[b""] * (width - len(row))] for row in texts]
    return tf.constant(padded, tf.string, [rows, width])  # [B, Q]


def stopping_criteria_met(
    criteria: Sequence[Callable[..., tf.Tensor]], ids: tf.Tensor, mask: tf.Tensor
) -> tf.Tensor:
    """The rows that a user's criteria end: bool `[R]`, from ids and bool mask `[R, S]`."""
    mask = tf.cast(mask, tf.int32)
    met = tf.zeros(tf.shape(ids)[:1], tf.bool)
    for criterion in criteria:
        met |= tf.ensure_shape(tf.cast(criterion(ids, mask), tf.bool), [None])
    return met


def start_matching(stops: StopStrings) -> StopState:
    """Returns the state before any text."""
    rows = tf.shape(stops.table)[0]
    return StopState(
        tail=stops.before,  # [B, W]
        length=tf.zeros([rows], tf.int32),  # [B]
        cut=tf.fill([rows], -1),  # [B]
    )


def match_token(
    state: StopState, stops: StopStrings, vocabulary: TokenBytes, token: tf.Tensor
) -> StopState:
    """Reads one token's bytes into the text and looks for stop strings that end in them.

    Args:
        state: The state so far.
        stops: Each row's stop strings.
        vocabulary: The bytes of every token.
        token: int32 `[B]`; a row that has ended may pass anything, its `cut` stays.

    Returns:
        The state after the token.
    """
    new, count = vocabulary.lookup(token)  # [B, M], [B]
    text = tf.concat([state.tail, new], axis=1)  # [B, W + M]
    width, size = tf.shape(state.tail)[1], tf.shape(text)[1]

    def search() -> tf.Tensor:
        offsets = tf.range(size)[:, None] + tf.range(width)[None, :]  # [W + M, W]
        padded = tf.pad(text, [[0, 0], [0, width]], constant_values=NO_BYTE)
        windows = tf.gather(padded, offsets, axis=1)  # [B, W + M, W], one per possible start
        strings = stops.table[:, :, None, :]  # [B, Q, 1, W]
        same = (windows[:, None] == strings) | (strings == NO_BYTE)  # [B, Q, W + M, W]
        # The new bytes complete it: what lies before them may hold a whole one, in a prompt.
        ends_here = tf.range(size) + stops.lengths[..., None] > width  # [B, Q, W + M]
        found = tf.reduce_all(same, axis=-1) & (stops.lengths > 0)[..., None] & ends_here
        found = tf.reduce_any(found, axis=1)  # [B, W + M]
        first = tf.reduce_min(tf.where(found, tf.range(size), size), axis=1)  # [B]
        # One that begins before the text leaves nothing of it.
        return tf.where(first < size, tf.maximum(state.length - width + first, 0), -1)

    none = tf.fill(tf.shape(token), -1)
    cut = tf.cond(tf.reduce_any(stops.lengths > 0), search, lambda: none)
    last = count[:, None] + tf.range(width)  # [B, W], the last W bytes of the text
    return StopState(
        tail=tf.gather(text, last, batch_dims=1),
        length=state.length + count,
        cut=tf.where(state.cut >= 0, state.cut, cut),
    )

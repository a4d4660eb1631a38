r"""Texts as rows of segments inside the graph: added tokens, and the text between them.

Two bytes that no valid UTF-8 text holds mark the structure: `CUT` stands between segments, and
`SPECIAL` opens a segment that is an added token.

`R` is the number of rows, `S` of segments, `N` of any strings.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

CUT = b"\xff"
SPECIAL = b"\xfe"


class Rows(NamedTuple):
    """Strings of several rows, one after the other.

    Attributes:
        values: String tensor `[N]`.
        row_splits: int64 tensor `[R + 1]`; row `r` is `values[row_splits[r]:row_splits[r + 1]]`.
    """

    values: tf.Tensor
    row_splits: tf.Tensor


def valid_utf8(text: tf.Tensor) -> tf.Tensor:
    r"""Replaces invalid UTF-8 by U+FFFD, just like `bytes.decode("utf-8", errors="replace")`.

    Args:
        text: String tensor of any shape.

    Returns:
        String tensor of the same shape, valid UTF-8, so without the bytes `CUT` and `SPECIAL`.

    Example:
        >>> valid_utf8(tf.constant([b"a\xffb"])).numpy()[0].decode()
        'a�b'
    """
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def keep_special(text: Rows, changed: tf.Tensor) -> Rows:
    """Undoes a change of the segments that are added tokens.

    Args:
        text: Segments `[S]` before the change.
        changed: String tensor `[S]`, the segments after it.

    Returns:
        The changed segments, with the added tokens as they were.
    """
    return text._replace(values=tf.where(is_special(text.values), text.values, changed))


def is_special(segments: tf.Tensor) -> tf.Tensor:
    """Returns which segments `[N]` are added tokens, as a bool tensor `[N]`."""
    return tf.equal(tf.strings.substr(segments, 0, 1, unit="BYTE"), SPECIAL)


def split_at_cuts(text: Rows) -> Rows:
    """Splits segments at `CUT` and drops empty ones.

    Args:
        text: Segments `[S]`.

    Returns:
        The parts of all segments, with the row splits of the input's rows.
    """
    split = tf.raw_ops.StringSplit(input=text.values, delimiter=CUT, skip_empty=True)
    return regroup(text, split.values, split.indices[:, 0])


def regroup(text: Rows, parts: tf.Tensor, owners: tf.Tensor) -> Rows:
    """Returns the parts of segments as rows.

    Args:
        text: Segments `[S]`.
        parts: String tensor `[N]`, the parts of all segments in their order.
        owners: int64 tensor `[N]`, the segment that each part comes from.
    """
    splits = tf.RaggedTensor.from_value_rowids(
        parts, owners, nrows=tf.size(text.values, tf.int64), validate=False
    ).row_splits  # [S + 1]
    return Rows(parts, tf.gather(splits, text.row_splits))


def scatter_misses(
    words: Rows, ids: tf.Tensor, misses: tf.Tensor, text_of_miss: tf.Tensor, pieces: tf.RaggedTensor
) -> tf.RaggedTensor:
    """Returns the ids of words that are one token each, but for some.

    Args:
        words: Words `[W]` and the row splits `[R + 1]` of the rows they belong to.
        ids: Integer `[W]`, the id of each word.
        misses: int64 `[misses, 1]`, the words that are not one token.
        text_of_miss: int32 `[misses]`, the row of `pieces` for each of them.
        pieces: Like `ids`, `[U, (pieces)]`.

    Returns:
        int32 ids `[R, (tokens)]`.
    """
    # All ids in one pool: entry w for word w, then the pieces of the misses.
    pool = tf.concat([ids, pieces.values], axis=0)
    pieces_start = tf.size(ids, tf.int64) + pieces.row_splits
    places = tf.range(tf.size(ids, tf.int64))
    starts = tf.tensor_scatter_nd_update(
        places, misses, tf.gather(pieces_start[:-1], text_of_miss)
    )  # [W]
    stops = tf.tensor_scatter_nd_update(
        places + 1, misses, tf.gather(pieces_start[1:], text_of_miss)
    )  # [W]
    spans = tf.ragged.range(starts, stops)  # [W, (tokens)]
    return tf.RaggedTensor.from_row_splits(
        tf.cast(tf.gather(pool, spans.values), tf.int32),
        tf.gather(spans.row_splits, words.row_splits),
        validate=False,
    )  # [R, (tokens)]

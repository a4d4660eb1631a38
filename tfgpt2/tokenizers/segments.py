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

# Every code point but the surrogates; the regular expressions see UTF-8, so invalid bytes never
# match.
_VALID = r"[\x{0}-\x{d7ff}\x{e000}-\x{10ffff}]*"


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
    # Transcoding takes longer than all of the pre-tokenization, finding out whether it is needed a
    # tenth of that.
    return tf.cond(
        tf.reduce_all(tf.strings.regex_full_match(text, _VALID)),
        lambda: text,
        lambda: tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace"),
    )


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
    splits = tf.raw_ops.LowerBound(
        sorted_inputs=tf.expand_dims(owners, 0),
        values=tf.expand_dims(text.row_splits, 0),
        out_type=tf.int64,
    )
    return Rows(parts, tf.squeeze(splits, 0))


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
    # All ids in one pool: row w is the id of word w, then come the pieces of the misses.
    count = tf.size(ids, tf.int64)
    places = tf.range(count)
    pool = tf.RaggedTensor.from_row_splits(
        tf.concat([ids, pieces.values], axis=0),
        tf.concat([places, count + pieces.row_splits], axis=0),
        validate=False,
    )  # [W + U, (tokens)]
    rows = tf.tensor_scatter_nd_update(
        places, misses, count + tf.cast(text_of_miss, tf.int64)
    )  # [W]
    spans = tf.gather(pool, rows)  # [W, (tokens)]
    return tf.RaggedTensor.from_row_splits(
        tf.cast(spans.values, tf.int32),
        tf.gather(spans.row_splits, words.row_splits),
        validate=False,
    )  # [R, (tokens)]

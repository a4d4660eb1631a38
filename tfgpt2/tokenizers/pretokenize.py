r"""Segments of text to pre-tokens, inside the graph: GPT-2's pattern without its look-ahead.

GPT-2 splits text with `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
RE2, TensorFlow's engine, has no look-ahead, so the one place where it matters, a run of white space
before a word, is cut first.

A long text repeats itself, so it is first split at spaces, which takes a few operations on its
bytes, and the pattern sees each distinct part once.

Everything here is a pure function of string tensors. `R` is the number of rows, `S` of segments,
`P` of parts, `U` of distinct parts, `W` of pre-tokens.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.tokenizers.segments import CUT, SPECIAL, Rows, keep_special, split_at_cuts
from tfgpt2.tokenizers.unicode_classes import LETTERS, NUMBERS, WHITE_SPACE, character_class

_SPACE, _LETTER, _NUMBER = map(character_class, (WHITE_SPACE, LETTERS, NUMBERS))

# The last character of a run of white space goes with the word that follows; neither bracket can
# match CUT, so a run that ends at an added token or at the end of the text stays whole.
_LOOK_AHEAD = f"([{_SPACE}])([{_SPACE}][^{_SPACE}])"
_PATTERN = (
    f"'(?:[sdmt]|ll|ve|re)| ?[{_LETTER}]+| ?[{_NUMBER}]+"
    f"| ?[^{_SPACE}{_LETTER}{_NUMBER}]+|[{_SPACE}]+"
)

# Bytes from which splitting at spaces pays: twenty words are faster without it.
_MANY_BYTES = 16_384
_FIRST = b"\xfd"  # Opens the first part of a segment; like CUT, in no valid UTF-8.


class Parts(NamedTuple):
    """Parts of the segments of several rows, by their distinct values.

    Attributes:
        distinct: String tensor `[U]`.
        indices: int32 tensor `[P]`, the distinct part that each part is.
        row_splits: int64 tensor `[R + 1]`; row `r` has the parts from `row_splits[r]` to
            `row_splits[r + 1]`.
    """

    distinct: tf.Tensor
    indices: tf.Tensor
    row_splits: tf.Tensor


def prefix_space(text: tf.Tensor) -> tf.Tensor:
    """Puts a space before each segment of text that does not start with one.

    Args:
        text: Non-empty segments `[S]`; added tokens stay as they are.

    Returns:
        String tensor `[S]`.

    Source:
        `add_prefix_space` of `ByteLevel` in `tokenizers`.

    Example:
        >>> prefix_space(tf.constant(["a", " b"])).numpy().tolist()
        [b' a', b' b']
    """
    first = tf.strings.substr(text, 0, 1, unit="BYTE")
    keep = tf.equal(first, b" ") | tf.equal(first, SPECIAL)
    return tf.where(keep, text, tf.strings.join([b" ", text]))


def distinct_parts(text: Rows, many_bytes: int = _MANY_BYTES) -> Parts:
    """Splits long texts at spaces, see `split_at_spaces`.

    Args:
        text: See `split_words`; no added token may break at spaces.
        many_bytes: Texts with fewer bytes stay as they are, one part for each segment.

    Returns:
        Parts of which `split_words` makes the pre-tokens that it makes of the segments.
    """

    def keep() -> Parts:
        return Parts(text.values, tf.range(tf.size(text.values)), text.row_splits)

    size = tf.reduce_sum(tf.strings.length(text.values))
    return tf.cond(size >= many_bytes, lambda: split_at_spaces(text), keep)


def breaks_at_spaces(token: str) -> bool:
    """Returns whether `split_at_spaces` would split an added token.

    Example:
        >>> breaks_at_spaces("<|endoftext|>"), breaks_at_spaces("two words")
        (False, True)
    """
    return re.search(r"[!-~] ", token) is not None


def split_at_spaces(text: Rows) -> Parts:
    r"""Splits segments before spaces that follow a printable character of ASCII.

    The pattern always splits there: no alternative has white space behind another character. What
    is before the place does not end in white space, so it loses nothing to look ahead at; what is
    behind it is matched as it would be in the whole text.

    Args:
        text: See `distinct_parts`.

    Returns:
        The parts; no segment is without one.

    Example:
        >>> rows = Rows(tf.constant(["to be or", "to be"]), tf.constant([0, 1, 2], tf.int64))
        >>> parts = split_at_spaces(rows)
        >>> parts.distinct.numpy().tolist(), parts.indices.numpy().tolist()
        ([b'to', b' be', b' or'], [0, 1, 2, 0, 1])
        >>> parts.row_splits.numpy().tolist()
        [0, 3, 5]
    """
    joined = tf.strings.reduce_join(text.values, separator=CUT + _FIRST)
    byte = tf.io.decode_raw(tf.strings.join([_FIRST, joined]), tf.uint8)  # [bytes]
    before = tf.roll(byte, 1, axis=0)  # of the first byte, which is no space, it does not matter
    is_place = tf.equal(byte, 0x20) & (before - 0x21 < 0x5E)  # uint8: what is less wraps around
    cut = _to_string(tf.bitwise.bitwise_or(byte, 0xFF * tf.cast(is_place, tf.uint8)))
    # `CUT` stands in place of the spaces, and between segments.
    split = tf.raw_ops.StringSplit(input=cut[tf.newaxis], delimiter=CUT, skip_empty=False)
    values, indices = tf.unique(split.values)  # [U], [P]
    is_first = tf.equal(tf.strings.substr(values, 0, 1), _FIRST)  # [U]
    to_skip = tf.cast(is_first, tf.int32)
    rest = tf.strings.substr(values, to_skip, tf.fill(tf.shape(to_skip), tf.int32.max))
    starts = tf.where(tf.gather(is_first, indices))[:, 0]  # [S]
    ends = tf.concat([starts, [tf.size(indices, tf.int64)]], axis=0)  # [S + 1]
    return Parts(
        tf.strings.join([tf.where(is_first, "", " "), rest]),
        indices,
        tf.gather(ends, text.row_splits),
    )


def _to_string(byte: tf.Tensor) -> tf.Tensor:
    """Returns bytes, uint8 `[N]`, as a string `[]`: the inverse of `tf.io.decode_raw`.

    The contents are what a serialized tensor ends in.
    """
    size = tf.size(byte)
    return tf.strings.substr(tf.io.serialize_tensor(byte), -size, size)


def split_words(text: Rows, has_special: bool) -> Rows:
    """Splits segments of text into GPT-2's pre-tokens.

    Args:
        text: Segments `[S]` of valid UTF-8, or `SPECIAL` and an added token.
        has_special: Whether any segment may be an added token; False saves a pass.

    Returns:
        Pre-tokens `[W]` with the row splits of the input's rows.

    Example:
        >>> rows = Rows(tf.constant(["Hello  world"]), tf.constant([0, 1], tf.int64))
        >>> split_words(rows, has_special=False).values.numpy().tolist()
        [b'Hello', b' ', b' world']
    """
    cut = tf.strings.regex_replace(text.values, _LOOK_AHEAD, rb"\1" + CUT + rb"\2")
    cut = tf.strings.regex_replace(cut, _PATTERN, rb"\0" + CUT)
    return split_at_cuts(keep_special(text, cut) if has_special else text._replace(values=cut))

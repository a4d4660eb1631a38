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
from tensorflow_text.python.ops import byte_splitter

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
    """Splits long texts at spaces, and finds the parts that are equal.

    Args:
        text: See `split_at_spaces`.
        many_bytes: Texts with fewer bytes stay as they are, one part for each segment.

    Returns:
        Parts of which `split_words` makes the pre-tokens that it makes of the segments.
    """

    def split() -> Parts:
        parts = split_at_spaces(text)
        return Parts(*tf.unique(parts.values), parts.row_splits)

    def keep() -> Parts:
        return Parts(text.values, tf.range(tf.size(text.values)), text.row_splits)

    size = tf.reduce_sum(tf.strings.length(text.values))
    return tf.cond(size >= many_bytes, split, keep)


def breaks_at_spaces(token: str) -> bool:
    """Returns whether `split_at_spaces` would split an added token.

    Example:
        >>> breaks_at_spaces("<|endoftext|>"), breaks_at_spaces("two words")
        (False, True)
    """
    return re.search(r"[!-~][\t-\r ]", token) is not None


def split_at_spaces(text: Rows) -> Rows:
    r"""Splits segments before white space that follows a printable character, both of ASCII.

    The pattern always splits there: no alternative has white space behind another character. What
    is before the place ends no run of white space, so it loses nothing to look ahead at; what is
    behind it is matched as it would be in the whole text.

    Args:
        text: See `split_words`; added tokens without such a place, see `breaks_at_spaces`.

    Returns:
        Parts `[P]` with the row splits of the input's rows. The last part of each segment ends in
        `CUT`.

    Example:
        >>> rows = Rows(tf.constant(["a b\n c", "d"]), tf.constant([0, 1, 2], tf.int64))
        >>> split_at_spaces(rows).values.numpy().tolist()
        [b'a', b' b', b'\n c\xff', b'd\xff']
    """
    every = tf.strings.reduce_join(tf.concat([text.values, [""]], axis=0), separator=CUT)  # []
    byte = tf.io.decode_raw(every, tf.uint8)  # [bytes]
    following = tf.roll(byte, -1, axis=0)  # of the last byte, CUT, it does not matter
    is_space = tf.equal(following, 0x20) | (following - 0x09 < 5)  # uint8: less wraps around
    is_last = ((byte - 0x21 < 0x5E) & is_space) | tf.equal(byte, ord(CUT))  # of its part
    ends = tf.cast(tf.where(is_last)[:, 0], tf.int32) + 1  # [P]
    starts = tf.concat([[0], ends], axis=0)[:-1]  # [P]
    # TF Text's own `ByteSplitter` checks the offsets, with 160 operations.
    parts, _ = byte_splitter.gen_byte_splitter.tf_text_byte_split_by_offsets(
        every[tf.newaxis], starts, ends, tf.stack([0, tf.size(ends, tf.int64)])
    )
    lengths = tf.strings.length(text.values) + 1  # [S], with CUT
    segment_ends = tf.concat([[0], tf.cumsum(lengths)], axis=0)  # [S + 1]
    row_ends = tf.gather(segment_ends, text.row_splits)  # [R + 1]
    row_splits = tf.raw_ops.UpperBound(
        sorted_inputs=ends[tf.newaxis], values=row_ends[tf.newaxis], out_type=tf.int64
    )
    return Rows(parts, row_splits[0])


def split_words(text: Rows, has_special: bool) -> Rows:
    """Splits segments of text into GPT-2's pre-tokens.

    Args:
        text: Segments `[S]` of valid UTF-8, or `SPECIAL` and an added token, with or without `CUT`
            at the end.
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

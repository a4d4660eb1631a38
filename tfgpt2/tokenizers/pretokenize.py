r"""Text to pre-tokens, inside the graph: GPT-2's pattern without its look-ahead.

GPT-2 cuts text with `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
RE2, TensorFlow's engine, has no look-ahead, so the one place where it matters, a run of white space
before a word, is cut first. Two bytes that no valid UTF-8 text holds carry the structure: `CUT`
stands between pieces and `SPECIAL` opens a piece that is a special token.

Everything here is a pure function of string tensors. `R` is the number of rows, `S` of segments
(text between special tokens), `W` of pre-tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.tokenizers import unicode_classes

CUT = b"\xff"
SPECIAL = b"\xfe"

_SPACE = unicode_classes.character_class(unicode_classes.WHITE_SPACE)
_LETTER = unicode_classes.character_class(unicode_classes.LETTERS)
_NUMBER = unicode_classes.character_class(unicode_classes.NUMBERS)

# The last character of a run of white space goes with the word that follows; neither bracket can
# match CUT, so a run that ends at a special token or at the end of the text stays whole.
_LOOK_AHEAD = f"([{_SPACE}])([{_SPACE}][^{_SPACE}])"
_PATTERN = (
    f"'(?:[sdmt]|ll|ve|re)| ?[{_LETTER}]+| ?[{_NUMBER}]+"
    f"| ?[^{_SPACE}{_LETTER}{_NUMBER}]+|[{_SPACE}]+"
)


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


def split_off(text: Rows, pattern: str) -> Rows:
    """Makes a piece of its own of everything a pattern matches.

    Args:
        text: Segments `[S]`; those that start with `SPECIAL` are left alone.
        pattern: RE2 pattern of the special tokens, see `special_pattern`.

    Returns:
        Segments that are either text or `SPECIAL` followed by a special token.
    """
    marked = tf.strings.regex_replace(text.values, pattern, CUT + SPECIAL + rb"\1" + CUT)
    marked = tf.where(is_special(text.values), text.values, marked)
    pieces = _split(marked)
    return Rows(pieces.values, tf.gather(pieces.row_splits, text.row_splits))


def is_special(pieces: tf.Tensor) -> tf.Tensor:
    """Returns which pieces are special tokens.

    Args:
        pieces: String tensor `[N]`.

    Returns:
        bool tensor `[N]`.
    """
    return tf.equal(tf.strings.substr(pieces, 0, 1, unit="BYTE"), SPECIAL)


def prefix_space(text: tf.Tensor) -> tf.Tensor:
    """Puts a space before each segment of text that does not start with one.

    Args:
        text: Non-empty segments `[S]`; special tokens are left alone.

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


def split_words(text: Rows, has_special: bool) -> Rows:
    """Cuts segments of text into GPT-2's pre-tokens.

    Args:
        text: Segments `[S]` of valid UTF-8, or `SPECIAL` and a special token.
        has_special: Whether any segment may be a special token; False saves a pass.

    Returns:
        Pre-tokens `[W]` with the row splits of the input's rows.

    Example:
        >>> rows = Rows(tf.constant(["Hello  world"]), tf.constant([0, 1], tf.int64))
        >>> split_words(rows, has_special=False).values.numpy().tolist()
        [b'Hello', b' ', b' world']
    """
    cut = tf.strings.regex_replace(text.values, _LOOK_AHEAD, rb"\1" + CUT + rb"\2")
    cut = tf.strings.regex_replace(cut, _PATTERN, rb"\0" + CUT)
    if has_special:
        cut = tf.where(is_special(text.values), text.values, cut)
    words = _split(cut)
    return Rows(words.values, tf.gather(words.row_splits, text.row_splits))


def special_pattern(tokens: Sequence[str], strip_left: bool, strip_right: bool) -> str:
    r"""Returns the RE2 pattern that finds the longest special token at a place.

    Args:
        tokens: Special tokens, in any order.
        strip_left: Whether white space before a token belongs to it.
        strip_right: Whether white space after a token belongs to it.

    Returns:
        A pattern whose first group is the token.

    Example:
        >>> special_pattern(["to", "token"], False, False)
        '(token|to)'
    """
    longest_first = sorted(tokens, key=lambda token: len(token.encode()), reverse=True)
    group = "|".join(_quote(token) for token in longest_first)
    space = f"[{_SPACE}]*"
    return f"{space if strip_left else ''}({group}){space if strip_right else ''}"


def _quote(text: str) -> str:
    """Escapes RE2's own characters; `re.escape` knows only Python's."""
    return "".join(char if char.isalnum() else rf"\x{{{ord(char):x}}}" for char in text)


def _split(text: tf.Tensor) -> Rows:
    """Splits at `CUT` and drops empty pieces.

    Args:
        text: String tensor `[R]`.

    Returns:
        Pieces `[N]` with row splits `[R + 1]`.
    """
    split = tf.raw_ops.StringSplit(input=text, delimiter=CUT, skip_empty=True)
    rows = tf.RaggedTensor.from_value_rowids(
        split.values, split.indices[:, 0], nrows=tf.size(text, tf.int64), validate=False
    )  # [R, (pieces)]
    return Rows(rows.flat_values, rows.row_splits)

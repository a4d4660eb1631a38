r"""Texts as rows of segments inside the graph: added tokens are split off from the text between.

Two bytes that no valid UTF-8 text holds mark the structure: `CUT` stands between segments, and
`SPECIAL` opens a segment that is an added token.

`R` is the number of rows, `S` of segments, `N` of any strings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.unicode_classes import WHITE_SPACE, character_class

CUT = b"\xff"
SPECIAL = b"\xfe"

_SPACES = f"[{character_class(WHITE_SPACE)}]*"


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
    """Splits off everything that a pattern matches as a segment of its own.

    Args:
        text: Segments `[S]`; added tokens stay as they are.
        pattern: RE2 pattern whose first group is an added token, see `patterns_of`.

    Returns:
        Segments that are either text or `SPECIAL` followed by an added token.
    """
    marked = tf.strings.regex_replace(text.values, pattern, CUT + SPECIAL + rb"\1" + CUT)
    return split_at_cuts(keep_special(text, marked))


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
    parts = tf.RaggedTensor.from_value_rowids(
        split.values, split.indices[:, 0], nrows=tf.size(text.values, tf.int64), validate=False
    )  # [S, (parts)]
    return Rows(parts.flat_values, tf.gather(parts.row_splits, text.row_splits))


def patterns_of(tokens: Iterable[AddedToken]) -> tuple[str, ...]:
    """Returns the RE2 patterns that split off added tokens, one per pass over the text.

    Raises:
        ValueError: Two tokens of one pass overlap and strip white space differently.
    """
    kinds: dict[tuple[bool, bool, bool], list[str]] = {}
    for token in tokens:
        kinds.setdefault((token.normalized, token.lstrip, token.rstrip), []).append(token.content)
    for (first, some), (second, others) in itertools.combinations(kinds.items(), 2):
        for pair in itertools.product(some, others):
            if first[0] == second[0] and _overlap(*pair):
                # `tokenizers` looks for both in one pass, in which the leftmost and longest wins.
                raise value_error(
                    "Added tokens whose texts overlap must strip white space alike.",
                    fix="Give them the same `lstrip` and `rstrip`.",
                    tokens=pair,
                )
    return tuple(
        special_pattern(contents, lstrip, rstrip)
        for (_, lstrip, rstrip), contents in sorted(kinds.items())
    )


def special_pattern(tokens: Sequence[str], strip_left: bool, strip_right: bool) -> str:
    r"""Returns the RE2 pattern that finds the longest of several texts at a place.

    Args:
        tokens: The texts, in any order.
        strip_left: Whether white space before a text belongs to it.
        strip_right: Whether white space after a text belongs to it.

    Returns:
        A pattern whose first group is the text.

    Example:
        >>> special_pattern(["to", "token"], False, False)
        '(token|to)'
    """
    longest_first = sorted(tokens, key=lambda token: len(token.encode()), reverse=True)
    group = "|".join(_quote(token) for token in longest_first)
    return f"{_SPACES if strip_left else ''}({group}){_SPACES if strip_right else ''}"


def _quote(text: str) -> str:
    """Escapes RE2's own characters; `re.escape` knows only Python's."""
    return "".join(char if char.isalnum() else rf"\x{{{ord(char):x}}}" for char in text)


def _overlap(one: str, other: str) -> bool:
    """Returns whether both can occur in a text in such a way that they share a character."""
    if one in other or other in one:
        return True
    sizes = range(1, min(len(one), len(other)))
    return any(one.endswith(other[:n]) or other.endswith(one[:n]) for n in sizes)

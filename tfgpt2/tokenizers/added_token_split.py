r"""Added tokens are split off from texts inside the graph, as `tokenizers` does it.

There are at most two passes, one for the tokens that are not `normalized` and one for the others.
In a pass, the leftmost and longest token matches; then

* a `single_word` token between or beside word characters becomes text again;
* text loses its white space after a token with `rstrip` and before one with `lstrip`;
* a white space token with `lstrip` disappears where the token before has taken the white space,
  the token itself included.

White space that is an added token itself stays: only text can be taken.

Source: `find_matches` in `tokenizers`, `tokenizer/added_vocabulary.rs`.

`S` is the number of segments before a pass, `N` of their parts, texts and added tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.tokenizers.added_tokens import AddedToken
from tfgpt2.tokenizers.segments import (
    CUT,
    SPECIAL,
    Rows,
    is_special,
    keep_special,
    regroup,
    split_at_cuts,
)
from tfgpt2.tokenizers.unicode_classes import (
    LETTERS,
    WHITE_SPACE,
    WORD_PARTS,
    character_class,
    is_white_space,
)

_WORD = f"[{character_class(LETTERS)}{character_class(WORD_PARTS)}]"
_SPACES = f"[{character_class(WHITE_SPACE)}]+"


class Pass(NamedTuple):
    """RE2 patterns of the added tokens of one pass; "" stands for none of them.

    Attributes:
        normalized: Whether the pass comes after the normalizer.
        every: All tokens; the first group is the token.
        single_word: Those with `single_word`.
        lstrip: Those with `lstrip`.
        rstrip: Those with `rstrip`.
        white_space: Those with `lstrip` that are white space.
    """

    normalized: bool
    every: str
    single_word: str
    lstrip: str
    rstrip: str
    white_space: str


def make_passes(tokens: Iterable[AddedToken]) -> tuple[Pass, ...]:
    """Returns the passes that split off added tokens, in their order."""
    tokens = list(tokens)
    groups = {n: [t for t in tokens if t.normalized == n] for n in (False, True)}
    return tuple(
        Pass(
            normalized=normalized,
            every=literal_pattern([t.content for t in group]),
            single_word=literal_pattern([t.content for t in group if t.single_word]),
            lstrip=literal_pattern([t.content for t in group if t.lstrip]),
            rstrip=literal_pattern([t.content for t in group if t.rstrip]),
            white_space=literal_pattern(
                [t.content for t in group if t.lstrip and is_white_space(t.content)]
            ),
        )
        for normalized, group in groups.items()
        if group
    )


def literal_pattern(texts: Sequence[str]) -> str:
    r"""Returns the RE2 pattern that finds the longest of several texts at a place.

    Args:
        texts: The texts, in any order.

    Returns:
        A pattern whose first group is the text; "" if there are none.

    Example:
        >>> literal_pattern(["to", "token"])
        '(token|to)'
    """
    longest_first = sorted(texts, key=lambda text: len(text.encode()), reverse=True)
    return "(" + "|".join(map(_quote, longest_first)) + ")" if texts else ""


def split_off(text: Rows, tokens: Pass, has_special: bool) -> Rows:
    """Splits off the added tokens of a pass as segments of their own.

    Args:
        text: Segments `[S]`; added tokens of an earlier pass stay as they are.
        tokens: The tokens of this pass.
        has_special: Whether there may be such tokens; False saves operations.

    Returns:
        Segments that are either text or `SPECIAL` followed by an added token.
    """
    marked = tf.strings.regex_replace(text.values, tokens.every, CUT + SPECIAL + rb"\1" + CUT)
    text = keep_special(text, marked) if has_special else text._replace(values=marked)
    if not (tokens.single_word or tokens.lstrip or tokens.rstrip):
        return split_at_cuts(text)
    split = tf.raw_ops.StringSplit(input=text.values, delimiter=CUT, skip_empty=True)
    parts = _Parts(split.values, split.indices[:, 0])
    if tokens.single_word:
        parts = _restore_inside_words(parts, tokens)
    if tokens.lstrip or tokens.rstrip:
        parts = _strip_text(parts, tokens)
    if tokens.white_space and tokens.rstrip:
        parts = _drop_stripped(parts, tokens)
    return regroup(text, *parts)


class _Parts(NamedTuple):
    """Parts of segments.

    Attributes:
        values: String tensor `[N]`, none empty.
        owners: int64 tensor `[N]`, the segment that each part comes from.
    """

    values: tf.Tensor
    owners: tf.Tensor

    def select(self, which: tf.Tensor) -> _Parts:
        """Returns some of the parts.

        Args:
            which: Bool tensor `[N]`.
        """
        return _Parts(tf.boolean_mask(self.values, which), tf.boolean_mask(self.owners, which))

    def are(self, pattern: str) -> tf.Tensor:
        """Returns which parts are added tokens of a pattern, as a bool tensor `[N]`."""
        if not pattern:
            return tf.zeros_like(self.owners, tf.bool)
        return is_special(self.values) & tf.strings.regex_full_match(self.text, pattern)

    @property
    def text(self) -> tf.Tensor:
        """The texts of the parts, string `[N]`, without the mark of added tokens."""
        rest = tf.strings.substr(self.values, 1, tf.int32.max, unit="BYTE")
        return tf.where(is_special(self.values), rest, self.values)

    def after(self, flags: tf.Tensor) -> tf.Tensor:
        """Returns which parts follow a part of the same segment with a flag.

        Args:
            flags: Bool tensor `[N]`.
        """
        same = tf.equal(self.owners[1:], self.owners[:-1])  # [N - 1]
        return tf.concat([tf.zeros_like(flags[:1]), flags[:-1] & same], axis=0)

    def before(self, flags: tf.Tensor) -> tf.Tensor:
        """Returns which parts precede a part of the same segment with a flag; see `after`."""
        same = tf.equal(self.owners[1:], self.owners[:-1])  # [N - 1]
        return tf.concat([flags[1:] & same, tf.zeros_like(flags[:1])], axis=0)


def _restore_inside_words(parts: _Parts, tokens: Pass) -> _Parts:
    """Makes `single_word` tokens beside word characters part of the text again."""
    text = parts.text
    last = tf.strings.substr(text, -1, 1, unit="UTF8_CHAR")
    first = tf.strings.substr(text, 0, 1, unit="UTF8_CHAR")
    inside = parts.after(tf.strings.regex_full_match(last, _WORD))
    inside |= parts.before(tf.strings.regex_full_match(first, _WORD))
    restored = parts.are(tokens.single_word) & inside  # [N]
    is_text = restored | ~is_special(parts.values)
    # Neighbouring texts of a segment become one.
    starts = ~(is_text & parts.after(is_text))
    groups = tf.RaggedTensor.from_row_starts(
        tf.where(restored, text, parts.values), tf.where(starts)[:, 0], validate=False
    )  # [N', (parts)]
    return _Parts(
        tf.strings.reduce_join(groups, axis=-1), tf.boolean_mask(parts.owners, starts)
    )  # [N']


def _strip_text(parts: _Parts, tokens: Pass) -> _Parts:
    """Takes white space off the texts beside tokens with `lstrip` or `rstrip`."""
    special, values = is_special(parts.values), parts.values
    for pattern, stripped in (
        ("^" + _SPACES, parts.after(parts.are(tokens.rstrip))),
        (_SPACES + "$", parts.before(parts.are(tokens.lstrip))),
    ):
        shorter = tf.strings.regex_replace(values, pattern, "", replace_global=False)
        values = tf.where(stripped & ~special, shorter, values)
    return parts._replace(values=values).select(tf.not_equal(values, b""))


def _drop_stripped(parts: _Parts, tokens: Pass) -> _Parts:
    """Drops white space tokens with `lstrip` right after a token with `rstrip`."""
    return parts.select(~(parts.are(tokens.white_space) & parts.after(parts.are(tokens.rstrip))))


def _quote(text: str) -> str:
    """Escapes RE2's own characters; `re.escape` knows only Python's."""
    return "".join(char if char.isalnum() else rf"\x{{{ord(char):x}}}" for char in text)

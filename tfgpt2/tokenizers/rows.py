"""Rows of the host tokenizer: texts joined, truncated and padded, as plain functions on records.

A `Part` is what the tokenizer makes of one text, a `Row` what a model reads: one or two parts,
special tokens, padding.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import tokenizers

from tfgpt2.errors import type_error, value_error
from tfgpt2.tokenizers.base import TokenizerSpec
from tfgpt2.validation import check_choice, check_count

_TRUNCATION = (None, True, False, "longest_first", "only_first", "only_second", "do_not_truncate")
_PADDING = (False, True, "longest", "max_length", "do_not_pad")


class Part(NamedTuple):
    """The tokens of one text.

    Attributes:
        ids: Their ids.
        tokens: Their names in the vocabulary.
        offsets: Start and end of each in the text, in characters.
        words: The number of the word that each belongs to, or None.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    words: list[int | None]

    @classmethod
    def from_encoding(cls, encoding: tokenizers.Encoding) -> Part:
        """Takes over what the `tokenizers` library returned."""
        return cls(encoding.ids, encoding.tokens, encoding.offsets, encoding.word_ids)

    def cut(self, part: slice) -> Part:
        """The tokens in a range."""
        return Part(*(column[part] for column in self))

    def __add__(self, other: Part) -> Part:  # type: ignore[override]
        return Part(*(a + b for a, b in zip(self, other, strict=True)))


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch; every column has one entry for each token.

    Attributes:
        ids: The ids.
        tokens: The tokens, as in the vocabulary.
        offsets: Start and end of each token in its text; `(0, 0)` for special tokens.
        word_ids: The word that each token belongs to; None for special tokens.
        sequence_ids: 0 for the first text, 1 for the second, None for special tokens.
        type_ids: 0, and 1 in the second text.
        special_tokens_mask: 1 for special tokens and padding.
        attention_mask: 0 for padding.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    type_ids: list[int]
    special_tokens_mask: list[int]
    attention_mask: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self, width: int, side: str, pad_id: int, pad_token: str) -> Row:
        """The row with padding up to a width."""
        count = max(width - len(self), 0)
        filling = ([pad_id], [pad_token], [(0, 0)], [None], [None], [0], [1], [0])
        columns = [getattr(self, field.name) for field in dataclasses.fields(self)]
        pairs = zip(columns, filling, strict=True)
        if side == "left":
            return Row(*(one * count + column for column, one in pairs))
        return Row(*(column + one * count for column, one in pairs))


@dataclasses.dataclass(frozen=True)
class Truncation:
    """How rows are truncated.

    Attributes:
        strategy: None, `"longest_first"`, `"only_first"` or `"only_second"`.
        max_length: Most tokens of a row, or None.
        side: Side on which tokens are cut off.
        stride: Tokens that a row of overflowing tokens repeats from the one before.
    """

    strategy: str | None
    max_length: int | None
    side: str
    stride: int = 0

    @classmethod
    def from_options(
        cls,
        spec: TokenizerSpec,
        padding: bool | str,
        truncation: bool | str | None,
        max_length: int | None,
        stride: int = 0,
    ) -> Truncation:
        """Checks the options of a call and fills in the defaults of transformers."""
        check_choice("padding", padding, _PADDING)
        check_choice("truncation", truncation, _TRUNCATION)
        check_count("max_length", max_length, least=1)
        check_count("stride", stride, least=0, optional=False)
        if truncation is None:
            truncation = max_length is not None and padding in (False, "do_not_pad")
        strategy = "longest_first" if truncation is True else truncation or None
        strategy = None if strategy == "do_not_truncate" else strategy
        max_length = spec.model_max_length if max_length is None else max_length
        if max_length is None and (strategy or padding == "max_length"):
            what = "truncate" if strategy else "pad"
            warnings.warn(
                f"The tokenizer has no `model_max_length`, so there is no length to {what} to:"
                " pass `max_length=`.",
                stacklevel=3,
            )
            strategy = None
        return cls(strategy, max_length, spec.truncation_side, stride)


def read_texts(text: Any, pair: Any, words: bool) -> tuple[bool, list[Any], list[Any]]:
    """Checks the texts of a call.

    Args:
        text: A text, several, or several pairs of texts; with `words`, a list of words, or several.
        pair: As many second texts, or None.
        words: Whether texts are lists of words.

    Returns:
        Whether there is a single row, the texts, and as many second texts or None.

    Raises:
        TypeError: They are not texts.
        ValueError: There are not as many second texts as texts.
    """
    single = isinstance(text, str) or (words and _is_text(text, words=True) and len(text) > 0)
    firsts = [text] if single else text
    seconds = [pair] if single else pair
    if not isinstance(firsts, (list, tuple)):
        raise _not_texts("text", text, words)
    if pair is None:
        pairs = [_as_pair(one, words) for one in firsts]
        firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    if not isinstance(seconds, (list, tuple)) or len(firsts) != len(seconds):
        raise value_error(
            "There must be one `text_pair` for each `text`.",
            fix="Pass lists of the same length.",
            text=len(firsts),
            text_pair=len(seconds) if isinstance(seconds, (list, tuple)) else seconds,
        )
    if not all(_is_text(one, words) for one in firsts):
        raise _not_texts("text", text, words)
    if not all(one is None or _is_text(one, words) for one in seconds):
        raise _not_texts("text_pair", pair, words)
    return single, list(firsts), list(seconds)


def _is_text(value: Any, words: bool) -> bool:
    if not words:
        return isinstance(value, str)
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)


def _as_pair(one: Any, words: bool) -> tuple[Any, Any]:
    """An entry of a batch: a text alone, or a pair of texts."""
    if isinstance(one, (list, tuple)) and len(one) == 2 and all(_is_text(x, words) for x in one):
        return tuple(one)
    return one, None


def _not_texts(name: str, value: Any, words: bool) -> TypeError:
    form = "a list of words, or several," if words else "a string or a list of strings"
    return type_error(
        f"`{name}` must be {form} or pairs of those.",
        fix="Decode bytes first; tensors go to `TFGPT2Tokenizer`.",
        **{name: value},
    )


def join_pair(
    first: Part, second: Part | None, around: Sequence[tuple[Part, Part]], truncation: Truncation
) -> list[Row]:
    """Returns the row made of two texts, and behind it the rows of what overflows.

    Args:
        first: The first text.
        second: The second text, or None.
        around: For each text, the special tokens before and after it.
        truncation: How to truncate the row.

    Source: `Encoding::truncate` and `Encoding::merge_with` of `tokenizers`, `encoding.rs`.
    """
    texts = [first] if second is None else [first, second]
    num_special = sum(len(part.ids) for parts in around[: len(texts)] for part in parts)
    lengths = (len(first.ids), 0 if second is None else len(second.ids))
    kept = kept_lengths(*lengths, num_special, truncation)
    pieces = [_pieces(text, count, truncation) for text, count in zip(texts, kept, strict=False)]
    if second is None:
        return [_row([one], around) for one in pieces[0]]
    heads, tails = pieces
    combined = [(heads[0], tails[0]), *((a, b) for a in heads[1:] for b in tails)]
    combined += [(heads[0], b) for b in tails[1:]]
    return [_row(list(pair), around) for pair in combined]


def _pieces(text: Part, count: int, truncation: Truncation) -> list[Part]:
    """The tokens of a text that a row keeps, and then those that overflow, in rows of `count`."""
    total = len(text.ids)
    if count >= total:
        return [text]
    if not count:
        return [text.cut(slice(0)), text]
    if truncation.stride >= count:
        raise value_error(
            "`stride` must be smaller than the tokens that a row keeps of the text.",
            fix="Pass a smaller stride, or a larger max_length.",
            stride=truncation.stride,
            tokens=count,
        )
    step, pieces, begin = count - truncation.stride, [], 0
    while True:
        end = min(begin + count, total)
        left = truncation.side == "left"
        piece = slice(total - end, total - begin) if left else slice(begin, end)
        pieces.append(text.cut(piece))
        if end == total:
            return pieces
        begin += step


def _row(texts: list[Part], around: Sequence[tuple[Part, Part]]) -> Row:
    joined = Part([], [], [], [])
    sequences: list[int | None] = []
    types: list[int] = []
    mask: list[int] = []
    for index, text in enumerate(texts):
        before, after = around[index]
        joined += before + text + after
        first, count, last = len(before.ids), len(text.ids), len(after.ids)
        sequences += [None] * first + [index] * count + [None] * last
        types += [index] * (first + count + last)
        mask += [1] * first + [0] * count + [1] * last
    return Row(*joined, sequences, types, mask, [1] * len(joined.ids))


def kept_lengths(
    first: int, second: int, num_special: int, truncation: Truncation
) -> tuple[int, int]:
    """Returns how many tokens of each text stay in a row with `num_special` others.

    Source:
        `truncate_encodings` of `tokenizers`, `utils/truncation.rs`.
    """
    if truncation.strategy is None:
        return first, second
    limit = truncation.max_length - num_special
    excess = first + second - limit
    if excess <= 0:
        return first, second
    if truncation.strategy == "only_first":
        first -= excess
    elif truncation.strategy == "only_second":
        second -= excess
    else:
        short, long = min(first, second), max(first, second)
        long = max(short, limit - short)
        if short + long > limit:
            short, long = limit // 2, limit // 2 + limit % 2
        first, second = (long, short) if first > second else (short, long)
    if min(first, second) < 0:
        raise value_error(
            "The text that may be truncated is too short to make the row fit.",
            fix="Use truncation='longest_first', or a larger `max_length`.",
            truncation=truncation.strategy,
            max_length=truncation.max_length,
        )
    return first, second


def padded_width(lengths: Sequence[int], length: int | None, multiple: int | None) -> int:
    """Returns the number of columns of padded rows.

    Args:
        lengths: Tokens of each row.
        length: The least; None is that of the longest row.
        multiple: Rounds up to a multiple of this.

    Example:
        >>> padded_width([3, 5], None, 4)
        8
    """
    check_count("pad_to_multiple_of", multiple, least=1)
    width = max(lengths, default=0) if length is None else length
    return -(-width // multiple) * multiple if multiple else width

"""Normalizers and BERT's pre-tokenizer as changes of single characters, read from `tokenizers`.

The tables in the graph are those of the host, whose `BertNormalizer` and `BertPreTokenizer` look at
one character at a time. The one exception is the order of marks: decomposition sorts neighbouring
marks by their combining class, and not all of them are then removed.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Mapping

import tokenizers

from tfgpt2.tokenizers.code_point_map import SPACE

Changes = Mapping[int, tuple[int, ...]]

# Between the characters of one long text: a letter that no character becomes.
_MARK = "0"
# Code points beyond are unassigned, private or no characters, and those of a kind treated alike.
_ASSIGNED = (range(0x33500), range(0xE0000, 0xE1000))
_ALIKE = {
    0x33500: range(0x33500, 0xE0000),
    0xE1000: range(0xE1000, 0xF0000),
    0xF0000: (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)),
    0xFFFFE: (0xFFFFE, 0xFFFFF, 0x10FFFE, 0x10FFFF),
}
_OVERLAY = "\u0334"  # a mark of the lowest combining class, 1


@functools.cache
def read_changes(clean_text: bool, spaced_cjk: bool, strip_accents: bool, lower: bool) -> Changes:
    """Returns what `BertNormalizer` makes of each character, where it is not the character.

    Args:
        clean_text: Whether control characters go, and white space becomes a space.
        spaced_cjk: Whether CJK characters stand between spaces.
        strip_accents: Whether text is decomposed and loses its accents.
        lower: Whether text becomes lower-case.
    """
    normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=spaced_cjk,
        strip_accents=strip_accents,
        lowercase=lower,
    )
    return _spread(_changes_of(normalizer))


@functools.cache
def read_splits() -> Changes:
    """Returns spaces in place of what `BertPreTokenizer` cuts at: white space and punctuation."""
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    codes = [code for code in _codes() if chr(code) != _MARK]
    text = _MARK + "".join(chr(code) + _MARK for code in codes)  # codes[i] stands at 2 i + 1
    pieces = splitter.pre_tokenize_str(text)
    alone = {start for _, (start, end) in pieces if end == start + 1}
    inside = bytearray(len(text))
    for _, (start, end) in pieces:
        inside[start:end] = b"\x01" * (end - start)
    found = {}
    for i, code in enumerate(codes):
        if 2 * i + 1 in alone:
            found[code] = (SPACE, code, SPACE)
        elif not inside[2 * i + 1]:
            found[code] = (SPACE,)
    return _spread(found)


def compose(first: Changes, then: Changes) -> Changes:
    """Returns the changes of one table followed by those of another.

    Example:
        >>> compose({1: (2, 3)}, {3: (4, 4), 5: ()})
        {1: (2, 4, 4), 3: (4, 4), 5: ()}
    """
    both = {
        code: tuple(made for one in codes for made in then.get(one, (one,)))
        for code, codes in first.items()
    }
    return dict(sorted((dict(then) | both).items()))


def sorted_marks(changes: Changes) -> dict[int, int]:
    """Returns the combining class of each mark that decomposition sorts and `changes` leaves.

    Example:
        >>> 0x301 in sorted_marks(read_changes(True, True, True, True))
        False
    """
    made = {code for codes in changes.values() for code in codes}
    return {
        code: number
        for code, number in _combining_classes().items()
        if code in made or code not in changes
    }


@functools.cache
def _combining_classes() -> dict[int, int]:
    """Returns the combining class of each character that decomposition moves across others."""
    nfd = tokenizers.normalizers.NFD()
    return {
        code: unicodedata.combining(chr(code))
        for code in _codes()
        if unicodedata.combining(chr(code)) > 1
        and nfd.normalize_str(chr(code) + _OVERLAY) == _OVERLAY + chr(code)
    }


def _changes_of(normalizer: tokenizers.normalizers.Normalizer) -> dict[int, tuple[int, ...]]:
    codes = [code for code in _codes() if chr(code) != _MARK]
    text = _MARK.join(map(chr, codes))
    made = normalizer.normalize_str(text).split(_MARK)
    pairs = zip(codes, made, strict=True)
    return {code: tuple(map(ord, new)) for code, new in pairs if new != chr(code)}


def _codes() -> Iterator[int]:
    """Yields the code points to look at, halves of surrogate pairs left out."""
    for codes in (*_ASSIGNED, _ALIKE):
        yield from (code for code in codes if not 0xD800 <= code <= 0xDFFF)


def _spread(changes: Changes) -> Changes:
    """Returns changes for the code points, too, that are treated like one that was looked at."""
    alike = {
        code: changes[one] for one, codes in _ALIKE.items() if one in changes for code in codes
    }
    return dict(changes) | alike

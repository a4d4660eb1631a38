r"""Translates Python regular expressions, parsed by Python's own parser, to expressions and DFAs.

The language of a pattern is what `re.fullmatch(pattern, text)` matches, in UTF-8, with one
restriction: `\d`, `\w`, `\s` and their negations hold the characters on which ASCII and Unicode
matching agree: `\d` is 0-9, and neither `\w` nor `\W` holds an accented letter. So the output
matches in both modes, and automata stay small (Unicode's `\w` alone takes 310 states). A pattern
that begins with `(?u)` uses Unicode matching and `(?a)` ASCII matching, exactly as in Python.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.constraints.byte_dfa import ByteDFA
from tfgpt2.generation.constraints.byte_nfa import compile_expression
from tfgpt2.generation.constraints.expressions import (
    EMPTY_TEXT,
    MAX_CODE_POINT,
    Alternation,
    Anchor,
    CharClass,
    Concat,
    Expr,
    Ranges,
    Repeat,
    complement_ranges,
    intersect_ranges,
    merge_ranges,
)
from tfgpt2.generation.constraints.work import bounded, spend

try:  # the parser moved in Python 3.11
    from re import _parser
except ImportError:
    import sre_parse as _parser

MAX_PATTERN_LENGTH = 20_000  # characters
_CLASS_STEPS = 50_000  # for the code points of a class
ANY_CHARACTER: Ranges = ((0, MAX_CODE_POINT),)
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d", "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w", "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s", "CATEGORY_NOT_SPACE": r"\S",
}  # fmt: skip
# Unsupported constructs: the name of each, and what to write instead.
_UNSUPPORTED = {
    "ASSERT": ("look-around", "Spell out what may follow or precede, or list alternatives."),
    "ASSERT_NOT": ("look-around", "Spell out what may follow or precede as a class or list."),
    "GROUPREF": ("a back-reference", "Repeat the group's pattern, or list the pairs with `|`."),
    "GROUPREF_EXISTS": ("a conditional group", "Write both cases as alternatives with `|`."),
    "POSSESSIVE_REPEAT": ("a possessive repeat", "Use the plain repeat: `a+` for `a++`."),
    "ATOMIC_GROUP": ("an atomic group", "Use a plain group: `(?:...)` for `(?>...)`."),
    "AT_BOUNDARY": (r"a word boundary `\b`", "Spell out the characters around it."),
    "AT_NON_BOUNDARY": (r"`\B`", "Spell out the characters around it."),
}


@bounded
def compile_regex(pattern: str, special_tokens: Mapping[bytes, int] | None = None) -> ByteDFA:
    r"""Compiles a pattern to the minimal DFA over UTF-8 bytes.

    Supported: literals, classes, `.` (no line break, unless `(?s)`), `\d \w \s` and their
    negations, alternatives, groups, greedy and lazy repeats, the flags `(?i)`, `(?s)`, `(?x)`,
    `(?a)` and `(?u)`, and anchors at the ends, where they change nothing.

    Args:
        pattern: A pattern of Python's `re`, at most `MAX_PATTERN_LENGTH` characters.
        special_tokens: See `byte_nfa.compile_expression`.

    Returns:
        The DFA of all texts with `re.fullmatch(pattern, text)`.

    Raises:
        TypeError: The pattern is not a string.
        ValueError: It is not a valid pattern, uses an unsupported construct, or is too large.

    Example:
        >>> compile_regex(r"\d{4}-\d{2}").matches("2024-05")
        True
    """
    return compile_expression(parse_regex(pattern), special_tokens)


def parse_regex(pattern: str, *, search: bool = False) -> Expr:
    """Parses a pattern to an expression.

    Args:
        pattern: A pattern of Python's `re`.
        search: Whether the pattern may match anywhere in the text, as in JSON Schema; anchors
            then hold it to the ends.

    Raises:
        TypeError: The pattern is not a string.
        ValueError: It is not a valid pattern, or uses an unsupported construct.
    """
    if not isinstance(pattern, str):
        raise type_error("`regex` must be a string.", fix="Pass one like r'[a-z]+'.", regex=pattern)
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise value_error(
            f"A pattern can have {MAX_PATTERN_LENGTH} characters.",
            fix="Shorten it; long lists of words are better passed as `choices`.",
            regex=pattern,
        )
    try:
        parsed = _parser.parse(pattern)
        # The parser adds UNICODE where the pattern sets neither mode.
        flags = parsed.state.flags
        if not re.match(r"\(\?[a-zA-Z]*u", pattern):
            flags &= ~re.UNICODE
        expression = _Translator(pattern, search).sequence(parsed, flags, True, True)
    except (re.error, RecursionError, OverflowError) as error:
        raise value_error(
            f"`regex` is not a pattern that Python's `re` can parse: {error}.",
            fix="Try it with re.compile().",
            regex=pattern,
        ) from error
    anything = Repeat(CharClass(ANY_CHARACTER))
    return Concat((anything, expression, anything)) if search else expression


class _Translator:
    """Translates the parser's items, pairs of an operation and its argument, to expressions."""

    def __init__(self, pattern: str, search: bool) -> None:
        self.pattern, self.search = pattern, search

    def sequence(self, items: Iterable[Any], flags: int, first: bool, last: bool) -> Expr:
        """Translates items that follow one another.

        Args:
            items: The items.
            flags: Flags of `re` that apply here.
            first: Whether nothing can precede this sequence.
            last: Whether nothing can follow it.
        """
        items = list(items)
        consuming = [not _is_anchor(item) for item in items]
        parts = []
        for at, (operation, argument) in enumerate(items):
            is_first = first and not any(consuming[:at])
            is_last = last and not any(consuming[at + 1 :])
            parts.append(self.item(str(operation), argument, flags, is_first, is_last))
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def item(self, operation: str, argument: Any, flags: int, first: bool, last: bool) -> Expr:
        """Translates one item."""
        if operation == "AT":
            return self.anchor(str(argument), first, last)
        if operation == "BRANCH":
            branches = (self.sequence(items, flags, first, last) for items in argument[1])
            return Alternation(tuple(branches))
        if operation == "SUBPATTERN":
            _, added, removed, items = argument
            if added & (re.ASCII | re.UNICODE):
                flags &= ~(re.ASCII | re.UNICODE)
            return self.sequence(items, (flags | added) & ~removed, first, last)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = argument
            once = most == 1
            part = self.sequence(items, flags, first and once, last and once)
            return Repeat(part, int(least), None if most == _parser.MAXREPEAT else int(most))
        if operation in _UNSUPPORTED:
            self.fail(*_UNSUPPORTED[operation])
        return self.character(operation, argument, flags)

    def anchor(self, name: str, first: bool, last: bool) -> Expr:
        """Translates an anchor, which must stand at the start or the end."""
        if name in _UNSUPPORTED:
            self.fail(*_UNSUPPORTED[name])
        start = name in ("AT_BEGINNING", "AT_BEGINNING_STRING")
        if not (first if start else last):
            self.fail(
                f"the anchor {'^' if start else '$'} inside the pattern",
                "Anchors can stand at the ends only; the whole text is matched anyway.",
            )
        return Anchor(start) if self.search else EMPTY_TEXT

    def character(self, operation: str, argument: Any, flags: int) -> Expr:
        """Translates an item that matches one character."""
        if operation == "ANY":
            excluded = () if flags & re.DOTALL else ((10, 10),)  # the line break
            return CharClass(complement_ranges(excluded))
        if operation == "LITERAL" and not flags & re.IGNORECASE:
            return CharClass(((argument, argument),))
        if operation == "LITERAL":
            text = _escape(argument)
        elif operation == "NOT_LITERAL":
            text = "^" + _escape(argument)
        elif operation == "IN":
            text = "".join(map(self.class_item, argument))
        else:
            self.fail(f"the construct {operation}", "Write it in another way.")
        ranges = class_ranges(text, flags & (re.IGNORECASE | re.ASCII))
        has_category = operation == "IN" and any(str(one[0]) == "CATEGORY" for one in argument)
        if has_category and not flags & (re.ASCII | re.UNICODE):
            ascii_ranges = class_ranges(text, flags & re.IGNORECASE | re.ASCII)
            ranges = intersect_ranges(ranges, ascii_ranges)
        return CharClass(ranges)

    def class_item(self, item: Any) -> str:
        """Formats one part of a class as pattern text."""
        operation, argument = str(item[0]), item[1]
        if operation == "NEGATE":
            return "^"
        if operation == "LITERAL":
            return _escape(argument)
        if operation == "RANGE":
            return f"{_escape(argument[0])}-{_escape(argument[1])}"
        return _CATEGORIES[str(argument)]

    def fail(self, construct: str, fix: str) -> NoReturn:
        raise value_error(f"`regex` uses {construct}, which is not supported.", fix=fix,
                          regex=self.pattern)  # fmt: skip


def _is_anchor(item: Any) -> bool:
    """Returns whether an item is an anchor, or a group of nothing else."""
    operation, argument = str(item[0]), item[1]
    if operation == "SUBPATTERN":
        return all(map(_is_anchor, argument[3]))
    return operation == "AT"


def _escape(code_point: int) -> str:
    return f"\\U{code_point:08x}"


@functools.lru_cache(maxsize=1024)
def class_ranges(inside: str, flags: int = 0) -> Ranges:
    """Returns the code points that a class `[...]` matches, by running `re` on every one.

    So categories and case-insensitive letters mean what they mean in Python.

    Args:
        inside: The text between the brackets.
        flags: `re.IGNORECASE` and `re.ASCII`, or'ed.

    Returns:
        Sorted, disjoint ranges; surrogates, which have no UTF-8 encoding, are left out.

    Example:
        >>> class_ranges("a-c", re.IGNORECASE)
        ((65, 67), (97, 99))
    """
    spend(_CLASS_STEPS)
    found = re.compile(f"[{inside}]+", flags).finditer(_every_character())
    # The 2048 surrogates are missing in that text.
    ranges = [tuple(at + 2048 * (at >= 0xD800) for at in (m.start(), m.end() - 1)) for m in found]
    return merge_ranges(tuple(ranges))


@functools.cache
def _every_character() -> str:
    points = np.arange(MAX_CODE_POINT + 1, dtype="<u4")
    return points[(points < 0xD800) | (points > 0xDFFF)].tobytes().decode("utf-32-le")

r"""Regular expressions as languages over bytes: Python's own parser, another back end.

The language of a pattern is what `re.fullmatch(pattern, text)` matches, in UTF-8, with one choice:
`\d`, `\w`, `\s` and their opposites hold the characters on which Python's ASCII and Unicode
readings agree: `\d` is 0-9, and neither `\w` nor `\W` holds an accented letter. So what comes
out matches in both readings, and automata stay small (Unicode's `\w` alone takes 310 states). A
pattern that begins with `(?u)` means all of Unicode, `(?a)` ASCII, exactly as in Python.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton
from tfgpt2.generation.constraints.byte_nfa import (
    EMPTY,
    LAST_POINT,
    Anchor,
    Chars,
    Either,
    Node,
    Ranges,
    Repeat,
    Then,
    common,
    compile_node,
    complement,
    union,
)

try:  # the parser moved in Python 3.11
    from re import _parser
except ImportError:
    import sre_parse as _parser

LONGEST_PATTERN = 20_000  # characters
ANY_POINT: Ranges = ((0, LAST_POINT),)
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d", "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_WORD": r"\w", "CATEGORY_NOT_WORD": r"\W",
    "CATEGORY_SPACE": r"\s", "CATEGORY_NOT_SPACE": r"\S",
}  # fmt: skip
# What has no place in an automaton, or none yet: its name, and what to write instead.
_UNSUPPORTED = {
    "ASSERT": ("look-around", "Spell out what may follow or come before, or list alternatives."),
    "ASSERT_NOT": ("look-around", "Spell out what may follow or come before as a class or list."),
    "GROUPREF": ("a back-reference", "Repeat the group's pattern, or list the pairs with `|`."),
    "GROUPREF_EXISTS": ("a conditional group", "Write both cases as alternatives with `|`."),
    "POSSESSIVE_REPEAT": ("a possessive repeat", "Use the plain repeat: `a+` for `a++`."),
    "ATOMIC_GROUP": ("an atomic group", "Use a plain group: `(?:...)` for `(?>...)`."),
    "AT_BOUNDARY": (r"a word boundary `\b`", "Spell out the characters around it."),
    "AT_NON_BOUNDARY": (r"`\B`", "Spell out the characters around it."),
}
_ANCHORS = {
    "AT_BEGINNING": True, "AT_BEGINNING_STRING": True, "AT_END": False, "AT_END_STRING": False,
}  # fmt: skip


def regex_automaton(pattern: str) -> ByteAutomaton:
    r"""Compiles a pattern to the smallest automaton over UTF-8 bytes.

    Supported: literals, classes, `.` (no line break, unless `(?s)`), `\d \w \s` and their
    opposites, alternatives, groups, greedy and lazy repeats, the flags `(?i)`, `(?s)`, `(?x)`,
    `(?a)` and `(?u)`, and anchors at the ends, where they change nothing.

    Args:
        pattern: A pattern of Python's `re`, at most `LONGEST_PATTERN` characters.

    Returns:
        The automaton of all texts with `re.fullmatch(pattern, text)`.

    Raises:
        TypeError: The pattern is no string.
        ValueError: It is no pattern, uses a construct that is not supported, or is too large.

    Example:
        >>> regex_automaton(r"\d{4}-\d{2}").matches("2024-05")
        True
    """
    return compile_node(parse(pattern))


def parse(pattern: str, *, within: bool = False) -> Node:
    """Parses a pattern to a node.

    Args:
        pattern: A pattern of Python's `re`.
        within: JSON Schema's reading: the pattern is searched for anywhere in the text, and
            anchors hold it to the ends.

    Raises:
        TypeError: The pattern is no string.
        ValueError: It is no pattern, or uses a construct that is not supported.
    """
    if not isinstance(pattern, str):
        raise TypeError(
            explain("`regex` must be a string.", fix="Pass one like r'[a-z]+'.", regex=pattern)
        )
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(
            explain(
                f"A pattern can have {LONGEST_PATTERN} characters.",
                fix="Shorten it; long lists of words are better passed as `choices`.",
                regex=pattern,
            )
        )
    try:
        parsed = _parser.parse(pattern)
        # Without a word on it, neither reading is chosen; the parser would say Unicode.
        flags = parsed.state.flags
        if not re.match(r"\(\?[a-zA-Z]*u", pattern):
            flags &= ~re.UNICODE
        node = _Reader(pattern, within).sequence(parsed, flags, True, True)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            explain(
                f"`regex` is no pattern that Python's `re` understands: {error}.",
                fix="Try it with re.compile().",
                regex=pattern,
            )
        ) from error
    around = Repeat(Chars(ANY_POINT))
    return Then((around, node, around)) if within else node


class _Reader:
    """Turns what Python's parser found into nodes."""

    def __init__(self, pattern: str, within: bool) -> None:
        self.pattern, self.within = pattern, within

    def sequence(self, items: Iterable[Any], flags: int, first: bool, last: bool) -> Node:
        """One item after the other.

        Args:
            items: Pairs of an operation and its argument.
            flags: Flags of `re` that hold here.
            first: Nothing can come before this sequence.
            last: Nothing can come after it.
        """
        items = list(items)
        wide = [not _is_anchor(item) for item in items]
        nodes = []
        for at, (operation, argument) in enumerate(items):
            begins, ends = first and not any(wide[:at]), last and not any(wide[at + 1 :])
            nodes.append(self.item(str(operation), argument, flags, begins, ends))
        return nodes[0] if len(nodes) == 1 else Then(tuple(nodes))

    def item(self, operation: str, argument: Any, flags: int, first: bool, last: bool) -> Node:
        """One item."""
        if operation == "AT":
            return self.anchor(str(argument), first, last)
        if operation == "BRANCH":
            return Either(tuple(self.sequence(one, flags, first, last) for one in argument[1]))
        if operation == "SUBPATTERN":
            _, added, removed, inner = argument
            if added & (re.ASCII | re.UNICODE):
                flags &= ~(re.ASCII | re.UNICODE)
            return self.sequence(inner, (flags | added) & ~removed, first, last)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            once = most == 1
            node = self.sequence(inner, flags, first and once, last and once)
            return Repeat(node, int(least), None if most == _parser.MAXREPEAT else int(most))
        if operation in _UNSUPPORTED:
            self.refuse(*_UNSUPPORTED[operation])
        return self.chars(operation, argument, flags)

    def anchor(self, which: str, first: bool, last: bool) -> Node:
        """The begin or the end; elsewhere than there it is refused."""
        if which in _UNSUPPORTED:
            self.refuse(*_UNSUPPORTED[which])
        begin = _ANCHORS[which]
        if not (first if begin else last):
            self.refuse(
                f"the anchor {'^' if begin else '$'} inside the pattern",
                "Anchors can stand at the ends only; the whole text is matched anyway.",
            )
        return Anchor(begin) if self.within else EMPTY

    def chars(self, operation: str, argument: Any, flags: int) -> Node:
        """Whatever stands for one character."""
        if operation == "ANY":
            return Chars(ANY_POINT if flags & re.DOTALL else complement(((10, 10),)))
        if operation == "LITERAL":
            text = _escape(argument)
        elif operation == "NOT_LITERAL":
            text = "^" + _escape(argument)
        elif operation == "IN":
            text = "".join(map(self.class_item, argument))
        else:
            self.refuse(f"the construct {operation}", "Write it in another way.")
        if operation == "LITERAL" and not flags & re.IGNORECASE:
            return Chars(((argument, argument),))
        found = class_ranges(text, flags & (re.IGNORECASE | re.ASCII))
        categories = operation == "IN" and any(str(one[0]) == "CATEGORY" for one in argument)
        if categories and not flags & (re.ASCII | re.UNICODE):
            found = common(found, class_ranges(text, flags & re.IGNORECASE | re.ASCII))
        return Chars(found)

    def class_item(self, item: Any) -> str:
        """One part of a class, as text again."""
        operation, argument = str(item[0]), item[1]
        if operation == "NEGATE":
            return "^"
        if operation == "LITERAL":
            return _escape(argument)
        if operation == "RANGE":
            return f"{_escape(argument[0])}-{_escape(argument[1])}"
        return _CATEGORIES[str(argument)]

    def refuse(self, construct: str, fix: str) -> None:
        raise ValueError(
            explain(f"`regex` uses {construct}, which is not supported.", fix=fix,
                    regex=self.pattern)
        )  # fmt: skip


def _is_anchor(item: Any) -> bool:
    """An anchor, or a group of nothing else; such items take no room."""
    operation, argument = str(item[0]), item[1]
    if operation == "SUBPATTERN":
        return all(map(_is_anchor, argument[3]))
    return operation == "AT"


def _escape(point: int) -> str:
    return f"\\U{point:08x}"


@functools.lru_cache(maxsize=1024)
def class_ranges(inside: str, flags: int = 0) -> Ranges:
    """Says which code points a class `[...]` matches, by asking `re` about every one.

    So categories and letters without regard to case mean what they mean in Python.

    Args:
        inside: What stands between the brackets.
        flags: `re.IGNORECASE` and `re.ASCII`, or'ed.

    Returns:
        Sorted, disjoint ranges; half surrogate pairs, which UTF-8 cannot write, are left out.

    Example:
        >>> class_ranges("a-c", re.IGNORECASE)
        ((65, 67), (97, 99))
    """
    found = re.compile(f"[{inside}]+", flags).finditer(_every_character())
    # The 2048 half surrogate pairs are missing in that text.
    point = [tuple(at + 2048 * (at >= 0xD800) for at in (m.start(), m.end() - 1)) for m in found]
    return union(tuple(point))


@functools.lru_cache(maxsize=1)
def _every_character() -> str:
    points = np.arange(LAST_POINT + 1, dtype="<u4")
    return points[(points < 0xD800) | (points > 0xDFFF)].tobytes().decode("utf-32-le")

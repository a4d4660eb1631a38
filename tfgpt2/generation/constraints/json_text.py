"""How JSON is written: strings, numbers, literals and formats as languages over bytes.

Each value has one spelling, but for one optional space after a colon and after a comma. Strings
are raw UTF-8 in which only what must be escaped is, as `json.dumps(..., ensure_ascii=False)` does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tfgpt2.generation.constraints.byte_dfa import both
from tfgpt2.generation.constraints.byte_nfa import (
    EMPTY,
    LAST_POINT,
    NOTHING,
    Chars,
    Either,
    Graph,
    Literal,
    Machine,
    Node,
    Repeat,
    Then,
    common,
    compile_node,
    complement,
)
from tfgpt2.generation.constraints.regex import ANY_POINT, parse

INTEGER_DIGITS = 18  # so that every integer fits 64 bits
NUMBER_DIGITS = 15  # before the point, and after it: what a float64 holds for sure
_UNBOUNDED_DIGITS = 9  # before the point, where a number has a limit on one side only
_MUST_ESCAPE = (*range(0x20), ord('"'), ord("\\"))
_PLAIN = common(((0x20, LAST_POINT),), complement(((34, 34), (92, 92))))

SPACE = Repeat(Literal(b" "), 0, 1)
COMMA, COLON = Then((Literal(b","), SPACE)), Then((Literal(b":"), SPACE))
_DIGIT = Chars(((48, 57),))

# RFC 3339 and RFC 9562; years are 0001 to 9999, as Python's `datetime` has them.
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = (
    r"(?:(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26]))"  # divisible by 4 and not by 100
    r"|(?:0[48]|[2468][048]|[13579][26])00)"  # or by 400; there is no year 0
)
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_HOUR_MINUTE = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_MINUTE})"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_NAME = "[A-Za-z0-9_+-]"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    # A useful part of RFC 5321: no quotes, no comments, ASCII.
    "email": (
        rf"{_NAME}{{1,32}}(?:\.{_NAME}{{1,16}}){{0,2}}"
        rf"@{_LABEL}(?:\.{_LABEL}){{0,2}}\.[a-zA-Z]{{2,12}}"
    ),
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
}  # fmt: skip


def in_string(node: Node) -> Node:
    """Escapes the characters of a parsed pattern as they stand in a JSON string."""
    match node:
        case Chars():
            return _escaped(node.ranges)
        case Then():
            return Then(tuple(map(in_string, node.parts)))
        case Either():
            return Either(tuple(map(in_string, node.parts)))
        case Repeat():
            return Repeat(in_string(node.part), node.least, node.most)
    return node


@functools.lru_cache(maxsize=1024)
def _escaped(ranges: tuple[tuple[int, int], ...]) -> Node:
    plain = common(ranges, _PLAIN)
    escaped = [
        Literal(json.dumps(chr(point))[1:-1].encode())
        for point in _MUST_ESCAPE
        if any(low <= point <= high for low, high in ranges)
    ]
    parts = (*([Chars(plain)] if plain else []), *escaped)
    return parts[0] if len(parts) == 1 else Either(parts)


def quoted(content: Node) -> Node:
    """Puts a string's content between quotation marks."""
    return Then((Literal(b'"'), content, Literal(b'"')))


def string(
    least: int = 0, most: int | None = None, pattern: str | None = None, form: str | None = None
) -> Node:
    r"""Strings of `least` to `most` characters that hold a pattern and have a format.

    Example:
        >>> compile_node(string(1, 2)).matches('"\\n\u00e9"')
        True
    """
    machines = []
    if pattern is not None:
        machines.append(compile_node(in_string(parse(pattern, within=True))))
    if form is not None:
        machines.append(compile_node(in_string(parse(FORMATS[form]))))
    length = Repeat(_escaped(ANY_POINT), least, most)
    if not machines:
        return quoted(length)
    if least or most is not None:
        machines.append(compile_node(length))
    return quoted(Machine(functools.reduce(both, machines)))


def literal(value: Any) -> Node:
    """One JSON value, with the optional spaces.

    Raises:
        ValueError: It holds NaN or an infinity, or half a surrogate pair.
        TypeError: It is nothing that JSON has.
    """
    if isinstance(value, dict):
        entries = [Then((literal(str(key)), COLON, literal(one))) for key, one in value.items()]
        return Then((Literal(b"{"), *_separated(entries), Literal(b"}")))
    if isinstance(value, (list, tuple)):
        return Then((Literal(b"["), *_separated([literal(one) for one in value]), Literal(b"]")))
    return Literal(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def _separated(parts: list[Node]) -> list[Node]:
    return [node for at, part in enumerate(parts) for node in ((COMMA, part) if at else (part,))]


def array_of(first: Sequence[Node], rest: Node, least: int, most: int | None) -> Node:
    """An array; places are 2 * i before item i, and 2 * i + 1 before its comma."""
    unrolled = max(len(first), least, 1) if most is None else most
    start = 2  # places 0 and 1 are the begin and the end of all
    edges = [(0, start, Literal(b"[")), (start, start + 1, EMPTY)]
    for item in range(unrolled + 1):
        before, inside = start + 2 * item, start + 2 * item + 1
        if item:
            edges.append((before, inside, COMMA))
        if item >= least:
            edges.append((before, 1, Literal(b"]")))
        if item < unrolled:
            node = first[item] if item < len(first) else rest
            edges.append((inside, inside + 1, node))
        elif most is None:
            edges.append((inside, before, rest))
    return Graph(tuple(edges))


def object_of(entries: Sequence[tuple[Node, bool]], extra: Node | None) -> Node:
    """An object of entries in order, each required or not, and others of one kind after them."""
    edges: list[tuple[int, int, Node]] = [(0, 2, Literal(b"{"))]
    for place, (node, required) in enumerate(entries):
        # Nothing was written so far; something was; here the entry begins; the next two.
        bare, some, here, next_bare, next_some = (2 + 3 * place + step for step in range(5))
        edges += [(bare, here, EMPTY), (some, here, COMMA), (here, next_some, node)]
        if not required:
            edges += [(bare, next_bare, EMPTY), (some, next_some, EMPTY)]
    bare = 2 + 3 * len(entries)
    some, here = bare + 1, bare + 2
    edges += [(bare, 1, Literal(b"}")), (some, 1, Literal(b"}"))]
    if extra is not None:
        edges += [(bare, here, EMPTY), (some, here, COMMA), (here, some, extra)]
    return Graph(tuple(edges))


def number() -> Node:
    """Any number: `NUMBER_DIGITS` digits before the point and after it, and a short exponent."""
    some = Repeat(_DIGIT, 1, NUMBER_DIGITS)
    exponent = Then(
        (_one_of("eE"), Repeat(_one_of("+-"), 0, 1), Chars(((49, 57),)), Repeat(_DIGIT, 0, 1))
    )
    whole = _between_naturals(0, 10**NUMBER_DIGITS - 1)
    fraction = Repeat(Then((Literal(b"."), some)), 0, 1)
    return Then((Repeat(Literal(b"-"), 0, 1), whole, fraction, Repeat(exponent, 0, 1)))


def integer(low: int | None = None, high: int | None = None) -> Node:
    """Integers between two limits, themselves included; at most `INTEGER_DIGITS` digits.

    Example:
        >>> [n for n in range(-20, 200) if compile_node(integer(-3, 2)).matches(str(n))]
        [-3, -2, -1, 0, 1, 2]
    """
    largest = 10**INTEGER_DIGITS - 1
    low = -largest if low is None else max(low, -largest)
    high = largest if high is None else min(high, largest)
    negative = Then((Literal(b"-"), _between_naturals(max(1, -high), -low)))
    return Either((negative, _between_naturals(max(0, low), high)))


def number_between(
    low: Decimal | None, high: Decimal | None, beyond_low: bool, below_high: bool
) -> Node | None:
    """Numbers between two limits, without exponents.

    Digits are so few (15 in all) that different texts are different float64 numbers: a reader
    who rounds finds the limits kept.

    Args:
        low: The lower limit, or None.
        high: The upper limit, or None.
        beyond_low: The lower limit itself is excluded.
        below_high: The upper limit itself is excluded.

    Returns:
        The language, or None where the limits have too many digits.
    """
    given = [int(abs(limit)) for limit in (low, high) if limit is not None]
    whole = max([_UNBOUNDED_DIGITS, *(len(str(one)) for one in given)])
    if whole >= NUMBER_DIGITS:
        return None
    largest = Decimal(10**whole - 1)
    after = NUMBER_DIGITS - whole
    low, beyond_low = (-largest, False) if low is None else (low, beyond_low)
    high, below_high = (largest, False) if high is None else (high, below_high)
    parts = []
    if high >= 0:
        edge, past = (low, beyond_low) if low >= 0 else (Decimal(0), False)
        parts.append(_magnitude(edge, high, past, below_high, after))
    if low < 0:
        edge, past = (-high, below_high) if high < 0 else (Decimal(0), True)  # no "-0"
        parts.append(Then((Literal(b"-"), _magnitude(edge, -low, past, beyond_low, after))))
    return Either(tuple(parts))


def _magnitude(low: Decimal, high: Decimal, beyond: bool, below: bool, after: int) -> Node:
    """Numbers without a sign between two limits that have none, with `after` digits at most."""
    first, last = int(low), int(high)
    above = _fraction(_digits_of(low), True, not beyond, after)
    under = _fraction(_digits_of(high), False, not below, after)
    if first > last:
        return NOTHING
    if first == last:
        joined = Machine(both(compile_node(above), compile_node(under)))
        return Then((Literal(str(first).encode()), joined))
    some = Repeat(Then((Literal(b"."), Repeat(_DIGIT, 1, after))), 0, 1)
    return Either(
        (
            Then((Literal(str(first).encode()), above)),
            Then((_between_naturals(first + 1, last - 1), some)),
            Then((Literal(str(last).encode()), under)),
        )
    )


def _digits_of(value: Decimal) -> str:
    """The digits after the point, without zeros at the end."""
    return f"{value:f}".partition(".")[2].rstrip("0")


def _fraction(edge: str, above: bool, equal: bool, after: int) -> Node:
    """Texts from a point on that say at least (or at most) `0.edge`; no point says 0."""
    bare = (equal or bool(edge)) if not above else (equal and not edge)
    text = Then((Literal(b"."), _compared(edge, above, equal, after, True)))
    return Either((EMPTY, text)) if bare else text


def _compared(edge: str, above: bool, equal: bool, left: int, first: bool) -> Node:
    """Digits, `left` at most, that compare with those of `edge`; the `first` is needed."""
    ends = not first and ((equal and not edge) or (bool(edge) and not above))
    parts = [EMPTY] if ends else []
    if left:
        digit, rest = int(edge[:1] or "0"), edge[1:]
        same = Chars(((48 + digit, 48 + digit),))
        other = (49 + digit, 57) if above else (48, 47 + digit)
        if other[0] <= other[1]:
            parts.append(Then((Chars((other,)), Repeat(_DIGIT, 0, left - 1))))
        parts.append(Then((same, _compared(rest, above, equal, left - 1, False))))
    return Either(tuple(parts))


def _between_naturals(low: int, high: int) -> Node:
    """Natural numbers between two, themselves included, without zeros in front."""
    parts = []
    for length in range(len(str(low)), len(str(max(high, 0))) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        if first <= last:
            parts.append(_between_digits(str(first), str(last)))
    return Either(tuple(parts))


def _between_digits(low: str, high: str) -> Node:
    """Texts of digits between two of the same length."""
    if not low:
        return EMPTY
    first, last, rest = ord(low[0]), ord(high[0]), len(low) - 1
    if first == last:
        return Then((Literal(low[:1].encode()), _between_digits(low[1:], high[1:])))
    parts = []
    if low[1:].strip("0"):
        parts.append(Then((Literal(low[:1].encode()), _between_digits(low[1:], "9" * rest))))
        first += 1
    if high[1:].strip("9"):
        parts.append(Then((Literal(high[:1].encode()), _between_digits("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        parts.append(Then((Chars(((first, last),)), Repeat(_DIGIT, rest, rest))))
    return Either(tuple(parts))


def _one_of(letters: str) -> Node:
    return Chars(tuple(sorted((ord(letter), ord(letter)) for letter in letters)))

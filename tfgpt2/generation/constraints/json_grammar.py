"""The grammar of JSON values as expressions: strings, formats, numbers, arrays and objects.

Each value has one spelling, except for one optional space after a colon and after a comma. Strings
are UTF-8 and escape only what must be escaped, as `json.dumps(..., ensure_ascii=False)` does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from tfgpt2.generation.constraints.byte_nfa import compile_all_of
from tfgpt2.generation.constraints.expressions import (
    EMPTY_TEXT,
    MAX_CODE_POINT,
    NOTHING,
    Alternation,
    CharClass,
    Compiled,
    Concat,
    Expr,
    Graph,
    Literal,
    Ranges,
    Repeat,
    complement_ranges,
    intersect_ranges,
)
from tfgpt2.generation.constraints.regex import ANY_CHARACTER, parse_regex
from tfgpt2.generation.constraints.work import MAX_STATES, check_size

INTEGER_DIGITS = 18  # every such integer fits 64 bits
NUMBER_DIGITS = 15  # before the point, and after it; a float64 represents 15 digits exactly
_UNBOUNDED_DIGITS = 9  # before the point, where a number has a limit on one side only
_MUST_ESCAPE = (*range(0x20), ord('"'), ord("\\"))
_UNESCAPED = intersect_ranges(((0x20, MAX_CODE_POINT),), complement_ranges(((34, 34), (92, 92))))

SPACE = Repeat(Literal(b" "), 0, 1)
COMMA, COLON = Concat((Literal(b","), SPACE)), Concat((Literal(b":"), SPACE))
BOOLEAN = Alternation((Literal(b"true"), Literal(b"false")))
_DIGIT = CharClass(((48, 57),))

# RFC 3339 and RFC 9562; years are 0001 to 9999, as Python's `datetime` has them.
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = (
    r"(?:(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26]))"  # divisible by 4 and not by 100
    r"|(?:0[48]|[2468][048]|[13579][26])00)"  # or by 400; there is no year 0
)
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP_YEAR}-02-29)"
)
_HOUR_MINUTE = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_MINUTE})"
_DOMAIN_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_MAILBOX = "[A-Za-z0-9_+-]"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    # A subset of RFC 5321: ASCII, without quotes and comments.
    "email": (
        rf"{_MAILBOX}{{1,32}}(?:\.{_MAILBOX}{{1,16}}){{0,2}}"
        rf"@{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL}){{0,2}}\.[a-zA-Z]{{2,12}}"
    ),
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
}  # fmt: skip


def escape_characters(expression: Expr) -> Expr:
    """Replaces the characters of a parsed pattern by their spelling in a JSON string."""
    match expression:
        case CharClass():
            return _escaped(expression.ranges)
        case Concat() | Alternation():
            return type(expression)(tuple(map(escape_characters, expression.parts)))
        case Repeat():
            return dataclasses.replace(expression, part=escape_characters(expression.part))
    return expression


@functools.lru_cache(maxsize=1024)
def _escaped(ranges: Ranges) -> Expr:
    plain = intersect_ranges(ranges, _UNESCAPED)
    escaped = [
        Literal(json.dumps(chr(point))[1:-1].encode())
        for point in _MUST_ESCAPE
        if any(low <= point <= high for low, high in ranges)
    ]
    parts = (*([CharClass(plain)] if plain else []), *escaped)
    return parts[0] if len(parts) == 1 else Alternation(parts)


def string(
    least: int = 0,
    most: int | None = None,
    pattern: str | None = None,
    format_name: str | None = None,
) -> Expr:
    r"""Builds the strings of `least` to `most` characters with a pattern and a format.

    Example:
        >>> from tfgpt2.generation.constraints.byte_nfa import compile_expression
        >>> compile_expression(string(1, 2)).matches('"\\n\u00e9"')
        True
    """
    content = length = Repeat(_escaped(ANY_CHARACTER), least, most)
    parts = []
    if pattern is not None:
        parts.append(escape_characters(parse_regex(pattern, search=True)))
    if format_name is not None:
        parts.append(escape_characters(parse_regex(FORMATS[format_name])))
    if parts:
        if least or most is not None:
            parts.append(length)
        content = Compiled(compile_all_of(parts))
    return Concat((Literal(b'"'), content, Literal(b'"')))


def constant(value: Any) -> Expr:
    """Builds the spelling of one JSON value.

    Raises:
        ValueError: It contains NaN, an infinity, or an unpaired surrogate.
        TypeError: It has a type that JSON does not have.
    """
    if isinstance(value, dict):
        entries = [Concat((constant(str(key)), COLON, constant(one))) for key, one in value.items()]
        return Concat((Literal(b"{"), *_separated(entries), Literal(b"}")))
    if isinstance(value, (list, tuple)):
        return Concat((Literal(b"["), *_separated(map(constant, value)), Literal(b"]")))
    return Literal(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def _separated(parts: Iterable[Expr]) -> list[Expr]:
    return [one for at, part in enumerate(parts) for one in ((COMMA, part) if at else (part,))]


def array(prefix: Sequence[Expr], items: Expr, least: int, most: int | None) -> Expr:
    """Builds the arrays of `least` to `most` items, of which the first are those of `prefix`.

    State 2 + 2 * i comes before item i, and state 3 + 2 * i after its comma.
    """
    unrolled = max(len(prefix), least, 1) if most is None else most
    check_size(unrolled, MAX_STATES)  # each item has states of its own
    edges = [(0, 2, Literal(b"[")), (2, 3, EMPTY_TEXT)]
    for item in range(unrolled + 1):
        before, after_comma = 2 + 2 * item, 3 + 2 * item
        if item:
            edges.append((before, after_comma, COMMA))
        if item >= least:
            edges.append((before, 1, Literal(b"]")))
        if item < unrolled:
            label = prefix[item] if item < len(prefix) else items
            edges.append((after_comma, after_comma + 1, label))
        elif most is None:
            edges.append((after_comma, before, items))
    return Graph(tuple(edges))


def object_of(entries: Sequence[tuple[Expr, bool]], additional: Expr | None) -> Expr:
    """Builds the objects of some entries in order, followed by any number of additional ones.

    Args:
        entries: The expression of each entry, and whether it is required.
        additional: The expression of an additional entry; None if there are none.
    """
    edges: list[tuple[int, int, Expr]] = [(0, 2, Literal(b"{"))]
    for number, (entry, required) in enumerate(entries):
        # Before the entry, while the object is empty or not; after its comma; the next two.
        empty, filled, after_comma, next_empty, next_filled = range(2 + 3 * number, 7 + 3 * number)
        edges += [(empty, after_comma, EMPTY_TEXT), (filled, after_comma, COMMA)]
        edges.append((after_comma, next_filled, entry))
        if not required:
            edges += [(empty, next_empty, EMPTY_TEXT), (filled, next_filled, EMPTY_TEXT)]
    empty, filled, after_comma = range(2 + 3 * len(entries), 5 + 3 * len(entries))
    edges += [(empty, 1, Literal(b"}")), (filled, 1, Literal(b"}"))]
    if additional is not None:
        edges += [(empty, after_comma, EMPTY_TEXT), (filled, after_comma, COMMA)]
        edges.append((after_comma, filled, additional))
    return Graph(tuple(edges))


@functools.cache
def number() -> Expr:
    """Builds all numbers: `NUMBER_DIGITS` digits before and after the point, a short exponent."""
    whole, exponent = _naturals(0, 10**NUMBER_DIGITS - 1), "(?:[eE][+-]?[1-9][0-9]?)?"
    return Concat((parse_regex("-?"), whole, _any_fraction(NUMBER_DIGITS), parse_regex(exponent)))


@functools.cache
def anything(depth: int) -> Expr:
    """Builds the values of any type, with `depth` levels of arrays and objects."""
    scalars = (Literal(b"null"), BOOLEAN, string(), number())
    if not depth:
        return Alternation(scalars)
    inner = anything(depth - 1)
    entry = Concat((string(), COLON, inner))
    return Alternation((*scalars, array([], inner, 0, None), object_of([], entry)))


def integer(low: int | None = None, high: int | None = None) -> Expr:
    """Builds the integers between two inclusive limits; at most `INTEGER_DIGITS` digits.

    Example:
        >>> from tfgpt2.generation.constraints.byte_nfa import compile_expression
        >>> [n for n in range(-20, 200) if compile_expression(integer(-3, 2)).matches(str(n))]
        [-3, -2, -1, 0, 1, 2]
    """
    largest = 10**INTEGER_DIGITS - 1
    low = -largest if low is None else max(low, -largest)
    high = largest if high is None else min(high, largest)
    negative = Concat((Literal(b"-"), _naturals(max(1, -high), -low)))
    return Alternation((negative, _naturals(max(0, low), high)))


def number_between(
    low: Decimal | None, high: Decimal | None, exclude_low: bool, exclude_high: bool
) -> Expr | None:
    """Builds the numbers between two limits, without exponents.

    They have at most 15 digits, so different texts are different float64 numbers, and a reader
    that rounds keeps the limits.

    Args:
        low: The lower limit, or None.
        high: The upper limit, or None.
        exclude_low: Whether the lower limit itself is excluded.
        exclude_high: Whether the upper limit itself is excluded.

    Returns:
        The expression, or None where the limits have too many digits.
    """
    wholes = [int(abs(limit)) for limit in (low, high) if limit is not None]
    whole_digits = max([_UNBOUNDED_DIGITS, *(len(str(whole)) for whole in wholes)])
    if whole_digits >= NUMBER_DIGITS:
        return None
    largest = Decimal(10**whole_digits - 1)
    digits = NUMBER_DIGITS - whole_digits
    low, exclude_low = (-largest, False) if low is None else (low, exclude_low)
    high, exclude_high = (largest, False) if high is None else (high, exclude_high)
    parts = []
    if high >= 0:
        edge, excluded = (low, exclude_low) if low >= 0 else (Decimal(0), False)
        parts.append(_magnitude(edge, high, excluded, exclude_high, digits))
    if low < 0:
        edge, excluded = (-high, exclude_high) if high < 0 else (Decimal(0), True)  # no "-0"
        magnitude = _magnitude(edge, -low, excluded, exclude_low, digits)
        parts.append(Concat((Literal(b"-"), magnitude)))
    return Alternation(tuple(parts))


def _magnitude(
    low: Decimal, high: Decimal, exclude_low: bool, exclude_high: bool, digits: int
) -> Expr:
    """Builds the unsigned numbers between two limits, with at most `digits` fractional digits."""
    first, last = int(low), int(high)
    if first > last:
        return NOTHING
    at_least = _fraction(_fractional_digits(low), True, not exclude_low, digits)
    at_most = _fraction(_fractional_digits(high), False, not exclude_high, digits)
    if first == last:
        between = Compiled(compile_all_of((at_least, at_most)))
        return Concat((Literal(str(first).encode()), between))
    return Alternation(
        (
            Concat((Literal(str(first).encode()), at_least)),
            Concat((_naturals(first + 1, last - 1), _any_fraction(digits))),
            Concat((Literal(str(last).encode()), at_most)),
        )
    )


def _any_fraction(digits: int) -> Expr:
    """Builds an optional point with one to `digits` digits."""
    return parse_regex(rf"(?:\.[0-9]{{1,{digits}}})?")


def _fractional_digits(value: Decimal) -> str:
    """Returns the digits after the point, without trailing zeros."""
    return f"{value:f}".partition(".")[2].rstrip("0")


def _fraction(limit: str, above: bool, equal: bool, digits: int) -> Expr:
    """Builds the fractions, with their point, that are above (or below) `0.limit`; empty is 0."""
    allow_empty = (equal or bool(limit)) if not above else (equal and not limit)
    fraction = Concat((Literal(b"."), _compared_digits(limit, above, equal, digits, True)))
    return Alternation((EMPTY_TEXT, fraction)) if allow_empty else fraction


def _compared_digits(limit: str, above: bool, equal: bool, digits: int, first: bool) -> Expr:
    """Builds at most `digits` digits that compare with `limit`; the `first` is required."""
    can_end = not first and ((equal and not limit) or (bool(limit) and not above))
    parts = [EMPTY_TEXT] if can_end else []
    if digits:
        digit, rest = int(limit[:1] or "0"), limit[1:]
        same = CharClass(((48 + digit, 48 + digit),))
        other = (49 + digit, 57) if above else (48, 47 + digit)
        if other[0] <= other[1]:
            parts.append(Concat((CharClass((other,)), Repeat(_DIGIT, 0, digits - 1))))
        parts.append(Concat((same, _compared_digits(rest, above, equal, digits - 1, False))))
    return Alternation(tuple(parts))


def _naturals(low: int, high: int) -> Expr:
    """Builds the natural numbers between two inclusive limits, without leading zeros."""
    parts = []
    for length in range(len(str(low)), len(str(max(high, 0))) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        if first <= last:
            parts.append(_digits_between(str(first), str(last)))
    return Alternation(tuple(parts))


def _digits_between(low: str, high: str) -> Expr:
    """Builds the digit sequences between two of the same length."""
    if not low:
        return EMPTY_TEXT
    first, last, rest = ord(low[0]), ord(high[0]), len(low) - 1
    if first == last:
        return Concat((Literal(low[:1].encode()), _digits_between(low[1:], high[1:])))
    parts = []
    if low[1:].strip("0"):
        parts.append(Concat((Literal(low[:1].encode()), _digits_between(low[1:], "9" * rest))))
        first += 1
    if high[1:].strip("9"):
        parts.append(Concat((Literal(high[:1].encode()), _digits_between("0" * rest, high[1:]))))
        last -= 1
    if first <= last:
        parts.append(Concat((CharClass(((first, last),)), Repeat(_DIGIT, rest, rest))))
    return Alternation(tuple(parts))

"""Expressions that denote languages over bytes, and sets of code points.

`regex` and `json_grammar` build them; `byte_nfa` compiles them. Code points are encoded as UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfgpt2.generation.constraints.byte_dfa import ByteDFA

MAX_CODE_POINT = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]  # sorted, disjoint ranges; both ends are included


@dataclass(frozen=True)
class CharClass:
    """One character whose code point is in the ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Literal:
    """A sequence of bytes."""

    data: bytes


@dataclass(frozen=True)
class Concat:
    """The parts in order; without parts, the empty text."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Alternation:
    """One of the parts; without parts, the empty language."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Repeat:
    """`part` repeated `least` to `most` times; `most=None` is unbounded."""

    part: Expr
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Graph:
    """A generalized NFA: edges `(source, target, label)` labelled with expressions.

    State 0 is the start state and state 1 the accepting one.
    """

    edges: tuple[tuple[int, int, Expr], ...]


@dataclass(frozen=True)
class Compiled:
    """The language of a DFA."""

    dfa: ByteDFA


@dataclass(frozen=True)
class Anchor:
    """An empty match at the start of the whole text, or at its end."""

    start: bool


Expr = CharClass | Literal | Concat | Alternation | Repeat | Graph | Compiled | Anchor
EMPTY_TEXT, NOTHING = Concat(()), Alternation(())


def complement_ranges(ranges: Ranges) -> Ranges:
    """Returns the code points outside of sorted, disjoint ranges, surrogates included.

    Example:
        >>> complement_ranges(((0, 65), (67, 1114111)))
        ((66, 66),)
    """
    edges = [-1, *(edge for pair in ranges for edge in pair), MAX_CODE_POINT + 1]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1)


def merge_ranges(ranges: Ranges) -> Ranges:
    """Sorts ranges and merges those that overlap or touch.

    Example:
        >>> merge_ranges(((70, 80), (65, 69)))
        ((65, 80),)
    """
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def intersect_ranges(first: Ranges, second: Ranges) -> Ranges:
    """Returns the code points that are in both.

    Example:
        >>> intersect_ranges(((65, 80),), ((70, 90),))
        ((70, 80),)
    """
    outside = complement_ranges(first) + complement_ranges(second)
    return complement_ranges(merge_ranges(outside))

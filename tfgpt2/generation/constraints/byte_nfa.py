"""A small algebra of languages over bytes, and its way to an automaton.

A node is compiled in the textbook's way: a nondeterministic automaton with empty moves, then the
subset construction. Code points are read as UTF-8.

Source: Aho, Lam, Sethi, Ullman 2006, "Compilers", algorithms 3.23 and 3.20.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from tfgpt2.generation.constraints.byte_dfa import MOST_STATES, ByteAutomaton, bounded, smallest

_MOST_PARTS = 150_000  # states before determinisation
_MOST_WORK = 4_000_000  # arcs and places looked at, so that a hostile pattern fails within seconds
_SURROGATES = (0xD800, 0xDFFF)  # code points that UTF-8 cannot write
LAST_POINT = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chars:
    """One character out of sorted, disjoint ranges of code points, both ends included."""

    ranges: Ranges


@dataclass(frozen=True)
class Literal:
    """These bytes."""

    data: bytes


@dataclass(frozen=True)
class Then:
    """One part after the other; none at all is the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of the parts; none at all is the empty language."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """A part `least` to `most` times; `most=None` is without an end."""

    part: Node
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Graph:
    """Parts on the edges `(from, to, part)` between numbered places, read from place 0 to 1."""

    edges: tuple[tuple[int, int, Node], ...]


@dataclass(frozen=True)
class Machine:
    """A language that is an automaton already."""

    automaton: ByteAutomaton


@dataclass(frozen=True)
class Anchor:
    """The begin of the whole text, or its end; no bytes."""

    begin: bool


Node = Chars | Literal | Then | Either | Repeat | Graph | Machine | Anchor
EMPTY, NOTHING = Then(()), Either(())


def compile_node(node: Node) -> ByteAutomaton:
    """Builds the smallest automaton that reads a node.

    Raises:
        ValueError: It would take too many states, or too long.

    Example:
        >>> compile_node(Either((Literal(b"yes"), Literal(b"no")))).next.shape
        (5, 256)
    """
    bounded(size_of(node), _MOST_PARTS)
    nondeterministic = _Moves()
    begin, end = nondeterministic.place(), nondeterministic.place()
    nondeterministic.add(node, begin, end)
    return smallest(*nondeterministic.determinise(begin, end))


def size_of(node: Node) -> int:
    """Says about how many states a node asks for before anything is merged."""
    match node:
        case Chars():
            return 1 + len(_utf8(node.ranges))
        case Literal():
            return 1 + len(node.data)
        case Then() | Either():
            return 1 + sum(map(size_of, node.parts))
        case Repeat():
            copies = max(node.least, 1) if node.most is None else node.most
            return 2 + copies * (1 + size_of(node.part))
        case Graph():
            return 1 + sum(1 + size_of(part) for _, _, part in node.edges)
        case Machine():
            return 1 + len(node.automaton.final)
    return 1


def complement(ranges: Ranges) -> Ranges:
    """Returns the code points outside of sorted, disjoint ranges, half surrogate pairs too.

    Example:
        >>> complement(((0, 65), (67, 1114111)))
        ((66, 66),)
    """
    edges = [-1, *(edge for pair in ranges for edge in pair), LAST_POINT + 1]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1)


def union(ranges: Ranges) -> Ranges:
    """Sorts ranges and joins those that touch.

    Example:
        >>> union(((70, 80), (65, 69)))
        ((65, 80),)
    """
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def common(first: Ranges, second: Ranges) -> Ranges:
    """Returns the code points that are in both.

    Example:
        >>> common(((65, 80),), ((70, 90),))
        ((70, 80),)
    """
    return complement(union(complement(union(first)) + complement(union(second))))


class _Moves:
    """A nondeterministic automaton that grows: arcs with bytes, and empty moves."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[int, int, int]]] = []  # (lowest byte, highest byte, place)
        self.empty: list[list[int]] = []
        self.at_begin: list[tuple[int, int]] = []  # empty moves before the first byte only
        self.at_end: list[tuple[int, int]] = []  # and after the last one only

    def place(self) -> int:
        self.arcs.append([])
        self.empty.append([])
        return len(self.arcs) - 1

    def add(self, node: Node, begin: int, end: int) -> None:
        """Adds ways from one place to another that read a node."""
        match node:
            case Chars():
                self._rows([list(row) for row in _utf8(node.ranges)], begin, end)
            case Literal():
                rows = [[(byte, byte, at + 1)] for at, byte in enumerate(node.data)]
                if rows:
                    rows[-1] = [(node.data[-1], node.data[-1], -1)]
                    self._rows(rows, begin, end)
                else:
                    self.empty[begin].append(end)
            case Then():
                for part in node.parts:
                    here, begin = begin, self.place()
                    self.add(part, here, begin)
                self.empty[begin].append(end)
            case Either():
                for part in node.parts:
                    here, there = self.place(), self.place()
                    self.empty[begin].append(here)
                    self.add(part, here, there)
                    self.empty[there].append(end)
            case Repeat():
                self._repeat(node, begin, end)
            case Graph():
                places = {at: self.place() for edge in node.edges for at in edge[:2]}
                for source, target, part in node.edges:
                    self.add(part, places[source], places[target])
                self.empty[begin] += [places[0]] if 0 in places else []
                if 1 in places:
                    self.empty[places[1]].append(end)
            case Machine():
                self._machine(node.automaton, begin, end)
            case Anchor():
                (self.at_begin if node.begin else self.at_end).append((begin, end))

    def _rows(self, rows: list[list[tuple[int, int, int]]], begin: int, end: int) -> None:
        """Adds numbered rows of arcs, where -1 stands for the end."""
        places = [begin, *(self.place() for _ in rows[1:]), end]
        for here, row in zip(places, rows, strict=False):
            self.arcs[here] += [(low, high, places[to]) for low, high, to in row]

    def _repeat(self, node: Repeat, begin: int, end: int) -> None:
        for _ in range(node.least):
            here, begin = begin, self.place()
            self.add(node.part, here, begin)
        if node.most is None:
            # A place of its own: what leads into a loop must not lead out of its middle.
            loop, back = self.place(), self.place()
            self.empty[begin].append(loop)
            self.add(node.part, loop, back)
            self.empty[back].append(loop)
            begin = loop
        else:
            for _ in range(node.most - node.least):
                self.empty[begin].append(end)
                here, begin = begin, self.place()
                self.add(node.part, here, begin)
        self.empty[begin].append(end)

    def _machine(self, automaton: ByteAutomaton, begin: int, end: int) -> None:
        places = [self.place() for _ in automaton.final]
        self.empty[begin].append(places[0])
        for here, row, final in zip(places, automaton.next, automaton.final, strict=True):
            cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), 256]
            for low, past in zip(cuts[:-1], cuts[1:], strict=True):
                if row[low] >= 0:
                    self.arcs[here].append((low, past - 1, places[row[low]]))
            if final:
                self.empty[here].append(end)

    def determinise(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Follows all ways at once; returns `next` and `final`."""
        ending = self._ending(end)
        keep = [bool(arcs) or place in ending for place, arcs in enumerate(self.arcs)]
        alone: dict[int, tuple[int, ...]] = {}  # places that matter, reached from one without bytes

        work = 0

        def spend(amount: int) -> None:
            nonlocal work
            work += amount
            bounded(work, _MOST_WORK)

        def reach(targets: tuple[int, ...]) -> tuple[int, ...]:
            for target in targets:
                if target not in alone:
                    found = self._closure(target)
                    spend(3 * len(found))
                    alone[target] = tuple(sorted(filter(keep.__getitem__, found)))
            if len(targets) == 1:
                return alone[targets[0]]
            return tuple(sorted(set().union(*(alone[target] for target in targets))))

        start = self._closure(begin, dict(_grouped(self.at_begin)))
        sets = [tuple(sorted(filter(keep.__getitem__, start)))]
        numbers, rows = {sets[0]: 0}, []
        joined: dict[tuple[int, ...], int] = {}
        while len(rows) < len(sets):
            arcs = [arc for place in sets[len(rows)] for arc in self.arcs[place]]
            cuts = sorted({arc[0] for arc in arcs} | {arc[1] + 1 for arc in arcs})
            spend((len(arcs) + 1) * (len(cuts) + 1) + len(sets[len(rows)]))
            row = np.full(256, -1, np.int32)
            for low, past in zip(cuts[:-1], cuts[1:], strict=True):
                targets = tuple(sorted({arc[2] for arc in arcs if arc[0] <= low <= arc[1]}))
                if not targets:
                    continue
                if targets not in joined:
                    key = reach(targets)
                    spend(len(key))
                    if key not in numbers:
                        numbers[key] = len(sets)
                        sets.append(key)
                        bounded(len(sets), 2 * MOST_STATES)
                    joined[targets] = numbers[key]
                row[low:past] = joined[targets]
            rows.append(row)
        return np.stack(rows), np.array([not ending.isdisjoint(key) for key in sets])

    def _closure(self, place: int, more: dict[int, list[int]] | None = None) -> set[int]:
        """Places reached without a byte."""
        found, open_ends = {place}, [place]
        while open_ends:
            here = open_ends.pop()
            new = set(self.empty[here]) | set((more or {}).get(here, ()))
            open_ends += new - found
            found |= new
        return found

    def _ending(self, end: int) -> set[int]:
        """Places from which the end is reached without a byte."""
        back = dict(_grouped([(to, here) for here, to in self.at_end]))
        for here, targets in enumerate(self.empty):
            for target in targets:
                back.setdefault(target, []).append(here)
        found, open_ends = {end}, [end]
        while open_ends:
            new = set(back.get(open_ends.pop(), ())) - found
            found |= new
            open_ends += new
        return found


def _grouped(pairs: list[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return list(groups.items())


@functools.lru_cache(maxsize=1024)
def _utf8(ranges: Ranges) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Code points as rows of byte arcs `(low, high, row)`; row 0 begins, and -1 is the end."""
    rows: list[tuple[tuple[int, int, int], ...]] = [()]
    known: dict[tuple[tuple[int, int, int], ...], int] = {}

    def build(tails: list[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int, int], ...]:
        groups: dict[tuple[int, int], list[tuple[tuple[int, int], ...]]] = {}
        for tail in tails:
            groups.setdefault(tail[0], []).append(tail[1:])
        row: list[tuple[int, int, int]] = []
        for (low, high), rest in groups.items():
            to = -1
            if rest[0]:
                inner = build(rest)
                if inner not in known:
                    known[inner] = len(rows)
                    rows.append(inner)
                to = known[inner]
            if row and row[-1][1] + 1 == low and row[-1][2] == to:
                row[-1] = (row[-1][0], high, to)
            else:
                row.append((low, high, to))
        return tuple(row)

    limits = [0, 0x80, 0x800, _SURROGATES[0], _SURROGATES[1] + 1, 0x10000, LAST_POINT + 1]
    tails = []
    for low, high in ranges:
        for begin, past in zip(limits[:-1], limits[1:], strict=True):
            one, two = max(low, begin), min(high, past - 1)
            if one <= two and begin != _SURROGATES[0]:
                tails += _split(chr(one).encode(), chr(two).encode())
    rows[0] = build(tails)
    return tuple(rows)


def _split(low: bytes, high: bytes) -> list[tuple[tuple[int, int], ...]]:
    """Characters between two of the same length, as products of byte ranges, in order."""
    if len(low) == 1:
        return [((low[0], high[0]),)]
    if low[0] == high[0]:
        return [((low[0], low[0]), *rest) for rest in _split(low[1:], high[1:])]
    after = len(low) - 1
    smallest_tail, largest_tail = b"\x80" * after, b"\xbf" * after
    first, last, found, end = low[0], high[0], [], []
    if low[1:] != smallest_tail:
        found = [((first, first), *rest) for rest in _split(low[1:], largest_tail)]
        first += 1
    if high[1:] != largest_tail:
        end = [((last, last), *rest) for rest in _split(smallest_tail, high[1:])]
        last -= 1
    if first <= last:
        found.append(((first, last), *[(0x80, 0xBF)] * after))
    return found + end

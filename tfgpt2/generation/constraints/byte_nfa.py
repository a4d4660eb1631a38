"""Compiles expressions to DFAs: Thompson's construction, then the subset construction.

Source: Aho, Lam, Sethi, Ullman 2006, "Compilers", algorithms 3.23 and 3.20.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tfgpt2.generation.constraints.byte_dfa import ByteDFA, intersection, minimize
from tfgpt2.generation.constraints.expressions import (
    MAX_CODE_POINT,
    Alternation,
    Anchor,
    CharClass,
    Compiled,
    Concat,
    Expr,
    Graph,
    Literal,
    Ranges,
    Repeat,
)
from tfgpt2.generation.constraints.special_tokens import (
    FIRST_SYMBOL,
    Transition,
    spell_special_tokens,
)
from tfgpt2.generation.constraints.work import MAX_STATES, bounded, check_size, spend

_MAX_NFA_STATES = 150_000
_COMPILE_STEPS = 500  # of work, for the smallest expression
_MAX_WORK = 4_000_000  # transitions and states visited by the subset construction
ByteRange = tuple[int, int]


@bounded
def compile_expression(
    expression: Expr, special_tokens: Mapping[bytes, int] | None = None
) -> ByteDFA:
    """Builds the minimal DFA of an expression.

    Args:
        expression: The language.
        special_tokens: From content to id; see `special_tokens.spell_special_tokens`.

    Raises:
        ValueError: It would take too many states, or too long.

    Example:
        >>> from tfgpt2.generation.constraints.expressions import Alternation, Literal
        >>> compile_expression(Alternation((Literal(b"yes"), Literal(b"no")))).next_state.shape
        (5, 256)
    """
    spend(_COMPILE_STEPS)
    check_size(_count_states(expression, {}), _MAX_NFA_STATES)
    nfa = _NFA()
    start, end = nfa.new_state(), nfa.new_state()
    nfa.add(expression, start, end)
    special_ids: tuple[int, ...] = ()
    if special_tokens:
        special_ids = spell_special_tokens(
            special_tokens,
            nfa.transitions,
            nfa.epsilon,
            nfa.new_state,
            nfa.reaching(end),
            end,
            spend,
        )
    dfa = minimize(*nfa.determinize(start, end, FIRST_SYMBOL + len(special_ids)))
    return dfa._replace(special_ids=special_ids)


@bounded
def compile_all_of(expressions: Iterable[Expr]) -> ByteDFA:
    """Builds the DFA of the texts that are in the language of every expression."""
    return functools.reduce(intersection, map(compile_expression, expressions))


def _count_states(expression: Expr, known: dict[int, int]) -> int:
    """Estimates the number of NFA states of an expression.

    Args:
        expression: The expression.
        known: The numbers of its parts, by `id`: a part that occurs often is counted once.
    """
    if id(expression) not in known:
        known[id(expression)] = _count_own_states(expression, known)
    return known[id(expression)]


def _count_own_states(expression: Expr, known: dict[int, int]) -> int:
    match expression:
        case CharClass():
            return 1 + len(_utf8_rows(expression.ranges))
        case Literal():
            return 1 + len(expression.data)
        case Concat() | Alternation():
            return 1 + sum(_count_states(part, known) for part in expression.parts)
        case Repeat():
            copies = max(expression.least, 1) if expression.most is None else expression.most
            return 2 + copies * (1 + _count_states(expression.part, known))
        case Graph():
            return 1 + sum(1 + _count_states(part, known) for _, _, part in expression.edges)
        case Compiled():
            return 1 + len(expression.dfa.accepting)
    return 1


class _NFA:
    """A nondeterministic automaton under construction."""

    def __init__(self) -> None:
        self.transitions: list[list[Transition]] = []
        self.epsilon: list[list[int]] = []  # targets of transitions without a byte
        self.at_start: dict[int, list[int]] = defaultdict(list)  # those before the first byte only
        self.at_end: dict[int, list[int]] = defaultdict(list)  # after the last only; to its sources

    def new_state(self) -> int:
        check_size(len(self.transitions), 2 * _MAX_NFA_STATES)
        self.transitions.append([])
        self.epsilon.append([])
        return len(self.transitions) - 1

    def add(self, expression: Expr, start: int, end: int) -> None:
        """Adds paths from one state to another that match an expression."""
        match expression:
            case CharClass():
                rows = _utf8_rows(expression.ranges)
                states = [start, *(self.new_state() for _ in rows[1:]), end]
                for source, row in zip(states, rows, strict=False):
                    self.transitions[source] += [(low, high, states[to]) for low, high, to in row]
            case Literal(b""):
                self.epsilon[start].append(end)
            case Literal():
                states = [start, *(self.new_state() for _ in expression.data[1:]), end]
                pairs = itertools.pairwise(states)
                for byte, (source, target) in zip(expression.data, pairs, strict=True):
                    self.transitions[source].append((byte, byte, target))
            case Concat():
                for part in expression.parts:
                    source, start = start, self.new_state()
                    self.add(part, source, start)
                self.epsilon[start].append(end)
            case Alternation():
                for part in expression.parts:
                    source, target = self.new_state(), self.new_state()
                    self.epsilon[start].append(source)
                    self.add(part, source, target)
                    self.epsilon[target].append(end)
            case Repeat():
                self._add_repeat(expression, start, end)
            case Graph():
                states: dict[int, int] = defaultdict(self.new_state)
                for source, target, part in expression.edges:
                    self.add(part, states[source], states[target])
                self.epsilon[start].append(states[0])
                self.epsilon[states[1]].append(end)
            case Compiled():
                self._add_dfa(expression.dfa, start, end)
            case Anchor(start=True):
                self.at_start[start].append(end)
            case Anchor():
                self.at_end[end].append(start)

    def _add_repeat(self, repeat: Repeat, start: int, end: int) -> None:
        for _ in range(repeat.least):
            source, start = start, self.new_state()
            self.add(repeat.part, source, start)
        if repeat.most is None:
            # A state of its own: a path into the loop must not leave from its middle.
            loop, back = self.new_state(), self.new_state()
            self.epsilon[start].append(loop)
            self.add(repeat.part, loop, back)
            self.epsilon[back].append(loop)
            start = loop
        else:
            for _ in range(repeat.most - repeat.least):
                self.epsilon[start].append(end)
                source, start = start, self.new_state()
                self.add(repeat.part, source, start)
        self.epsilon[start].append(end)

    def _add_dfa(self, dfa: ByteDFA, start: int, end: int) -> None:
        states = [self.new_state() for _ in dfa.accepting]
        self.epsilon[start].append(states[0])
        for source, row, accepting in zip(states, dfa.next_state, dfa.accepting, strict=True):
            cuts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), 256]
            for low, past in itertools.pairwise(cuts):
                if row[low] >= 0:
                    self.transitions[source].append((low, past - 1, states[row[low]]))
            if accepting:
                self.epsilon[source].append(end)

    def determinize(self, start: int, end: int, symbols: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs the subset construction; returns `next_state [S, symbols]` and `accepting`."""
        accepting = self.reaching(end)
        keep = [bool(arcs) or state in accepting for state, arcs in enumerate(self.transitions)]
        closures: dict[int, tuple[int, ...]] = {}  # the kept states of each state's closure
        work = 0

        def visit(amount: int) -> None:
            nonlocal work
            work += amount
            check_size(work, _MAX_WORK)
            spend(amount)

        def closure_of(targets: tuple[int, ...]) -> tuple[int, ...]:
            for target in targets:
                if target not in closures:
                    closure = _reachable(target, self.epsilon.__getitem__)
                    visit(3 * len(closure))
                    closures[target] = tuple(sorted(filter(keep.__getitem__, closure)))
            if len(targets) == 1:
                return closures[targets[0]]
            return tuple(sorted(set().union(*(closures[target] for target in targets))))

        first = _reachable(start, lambda at: self.epsilon[at] + self.at_start.get(at, []))
        subsets = [tuple(sorted(filter(keep.__getitem__, first)))]
        numbers, rows = {subsets[0]: 0}, []
        number_of_targets: dict[tuple[int, ...], int] = {}
        while len(rows) < len(subsets):
            arcs = [arc for state in subsets[len(rows)] for arc in self.transitions[state]]
            cuts = sorted({arc[0] for arc in arcs} | {arc[1] + 1 for arc in arcs})
            visit((len(arcs) + 1) * (len(cuts) + 1) + len(subsets[len(rows)]))
            row = np.full(symbols, -1, np.int32)
            for low, past in itertools.pairwise(cuts):
                targets = tuple(sorted({arc[2] for arc in arcs if arc[0] <= low <= arc[1]}))
                if not targets:
                    continue
                if targets not in number_of_targets:
                    subset = closure_of(targets)
                    visit(len(subset))
                    if subset not in numbers:
                        numbers[subset] = len(subsets)
                        subsets.append(subset)
                        check_size(len(subsets), 2 * MAX_STATES)
                    number_of_targets[targets] = numbers[subset]
                row[low:past] = number_of_targets[targets]
            rows.append(row)
        return np.stack(rows), np.array([not accepting.isdisjoint(one) for one in subsets])

    def reaching(self, end: int) -> set[int]:
        """Returns the states from which the end is reached without a byte."""
        sources = {target: list(states) for target, states in self.at_end.items()}
        for state, targets in enumerate(self.epsilon):
            for target in targets:
                sources.setdefault(target, []).append(state)
        return _reachable(end, lambda at: sources.get(at, ()))


def _reachable(start: int, successors: Callable[[int], Iterable[int]]) -> set[int]:
    """Returns the states that are reached from one, itself included."""
    found, frontier = {start}, [start]
    while frontier:
        new = set(successors(frontier.pop())) - found
        found |= new
        frontier += new
    return found


@functools.lru_cache(maxsize=1024)
def _utf8_rows(ranges: Ranges) -> tuple[tuple[Transition, ...], ...]:
    """Encodes code points as rows of transitions; row 0 is the start, and target -1 the end."""
    rows: list[tuple[Transition, ...]] = [()]
    numbers: dict[tuple[Transition, ...], int] = {}

    def build(sequences: list[tuple[ByteRange, ...]]) -> tuple[Transition, ...]:
        tails: dict[ByteRange, list[tuple[ByteRange, ...]]] = {}
        for sequence in sequences:
            tails.setdefault(sequence[0], []).append(sequence[1:])
        row: list[Transition] = []
        for (low, high), rest in tails.items():
            to = -1
            if rest[0]:
                inner = build(rest)
                if inner not in numbers:
                    numbers[inner] = len(rows)
                    rows.append(inner)
                to = numbers[inner]
            if row and row[-1][1] + 1 == low and row[-1][2] == to:
                row[-1] = (row[-1][0], high, to)
            else:
                row.append((low, high, to))
        return tuple(row)

    # Between these, encodings have the same length; surrogates, 0xD800 to 0xDFFF, have none.
    limits = [0, 0x80, 0x800, 0xD800, 0xE000, 0x10000, MAX_CODE_POINT + 1]
    sequences = []
    for low, high in ranges:
        for first, past in itertools.pairwise(limits):
            one, two = max(low, first), min(high, past - 1)
            if one <= two and first != 0xD800:
                sequences += _byte_ranges(chr(one).encode(), chr(two).encode())
    rows[0] = build(sequences)
    return tuple(rows)


def _byte_ranges(low: bytes, high: bytes) -> list[tuple[ByteRange, ...]]:
    """Splits the encodings between two of the same length into products of byte ranges."""
    if len(low) == 1:
        return [((low[0], high[0]),)]
    if low[0] == high[0]:
        return [((low[0], low[0]), *rest) for rest in _byte_ranges(low[1:], high[1:])]
    rest_size = len(low) - 1
    smallest, largest = b"\x80" * rest_size, b"\xbf" * rest_size
    first, last, head, tail = low[0], high[0], [], []
    if low[1:] != smallest:
        head = [((first, first), *rest) for rest in _byte_ranges(low[1:], largest)]
        first += 1
    if high[1:] != largest:
        tail = [((last, last), *rest) for rest in _byte_ranges(smallest, high[1:])]
        last -= 1
    if first <= last:
        head.append(((first, last), *[(0x80, 0xBF)] * rest_size))
    return head + tail

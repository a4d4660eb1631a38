"""Deterministic automata over bytes: the smallest one, and two of them joined.

Source: Aho, Lam, Sethi, Ullman 2006, "Compilers", section 3.9.6 for what is merged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt2.errors import explain

MOST_STATES = 10_000  # states of an automaton over bytes


class ByteAutomaton(NamedTuple):
    """A deterministic automaton over bytes; it starts in state 0.

    Attributes:
        next: int32 `[S, 256]`, the state after a byte; -1 where no text of the language goes on.
        final: bool `[S]`, the bytes so far are a whole text of the language.
    """

    next: np.ndarray
    final: np.ndarray

    def matches(self, text: str | bytes) -> bool:
        """Says whether a text, all of it, is in the language.

        Example:
            >>> ByteAutomaton(np.zeros((1, 256), np.int32), np.ones(1, bool)).matches("any text")
            True
        """
        state = 0
        for byte in text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text:
            state = int(self.next[state, byte])
            if state < 0:
                return False
        return bool(self.final[state])


def both(first: ByteAutomaton, second: ByteAutomaton) -> ByteAutomaton:
    """Returns the texts that are in both languages."""
    return _product(first, second, without=False)


def except_for(first: ByteAutomaton, second: ByteAutomaton) -> ByteAutomaton:
    """Returns the texts of the first language that are not in the second."""
    return _product(first, second, without=True)


def _product(first: ByteAutomaton, second: ByteAutomaton, without: bool) -> ByteAutomaton:
    """Reads both automata side by side."""
    lost = len(second.final)  # the second's state when it cannot go on
    right = np.vstack([second.next, np.full((1, 256), -1, np.int32)])
    right = np.where(right < 0, lost, right).astype(np.int64)
    numbers: dict[int, int] = {0: 0}
    pairs, rows = [0], []  # a pair of states is first * (lost + 1) + second
    while len(rows) < len(pairs):
        one, two = divmod(pairs[len(rows)], lost + 1)
        after, beside = first.next[one].astype(np.int64), right[two]
        goes_on = (after >= 0) & (without | (beside < lost))
        row = np.where(goes_on, after * (lost + 1) + beside, -1)
        codes, inverse = np.unique(row, return_inverse=True)
        for code in codes[codes >= 0].tolist():
            if code not in numbers:
                numbers[code] = len(pairs)
                pairs.append(code)
        bounded(len(pairs), MOST_STATES)
        found = np.array([numbers.get(code, -1) for code in codes.tolist()], np.int32)
        rows.append(found[inverse.reshape(-1)])
    one, two = np.divmod(np.array(pairs), lost + 1)
    accepts = np.append(second.final, False)[two]
    return smallest(np.stack(rows), first.final[one] & (~accepts if without else accepts))


def smallest(next_state: np.ndarray, final: np.ndarray) -> ByteAutomaton:
    """Merges states that nothing can tell apart and drops those that lead nowhere.

    Args:
        next_state: int32 `[S, 256]`, -1 for no state; the start is state 0.
        final: bool `[S]`.

    Returns:
        The automaton; equal languages give equal arrays.

    Raises:
        ValueError: More states remain than an automaton may have.
    """
    useful = distances(next_state, final) >= 0
    if not useful[0]:
        return ByteAutomaton(np.full((1, 256), -1, np.int32), np.zeros(1, bool))
    _, bytes_of = np.unique(next_state[useful], axis=1, return_index=True)
    target = next_state[:, bytes_of]  # [S, kinds of bytes]
    alive = useful[:, None] & (target >= 0) & np.append(useful, False)[target]
    label, source = np.nonzero(alive.T)
    block = _equivalent(source, label, target[source, label], final & useful)
    return _renumber(next_state, final, useful, np.array(block))


class _Partition:
    """Sets of numbers that are split again and again; a split makes the smaller half new.

    Source: Valmari, Lehtinen 2008, "Efficient minimization of DFAs with partial transition
        functions", section 4.
    """

    def __init__(self, size: int) -> None:
        self.members, self.place, self.set_of = list(range(size)), list(range(size)), [0] * size
        self.first, self.past, self.marked = [0], [size], [0]
        self.touched: list[int] = []

    def mark(self, member: int) -> None:
        """Moves a number to the front of its set."""
        which, at = self.set_of[member], self.place[member]
        front = self.first[which] + self.marked[which]
        other = self.members[front]
        self.members[at], self.place[other] = other, at
        self.members[front], self.place[member] = member, front
        if not self.marked[which]:
            self.touched.append(which)
        self.marked[which] += 1

    def split(self) -> None:
        """Parts the marked numbers of each set from its others."""
        while self.touched:
            which = self.touched.pop()
            first, past = self.first[which], self.past[which]
            middle, self.marked[which] = first + self.marked[which], 0
            if middle == past:
                continue
            if middle - first <= past - middle:
                begin, end, self.first[which] = first, middle, middle
            else:
                begin, end, self.past[which] = middle, past, middle
            self.first.append(begin)
            self.past.append(end)
            self.marked.append(0)
            for member in self.members[begin:end]:
                self.set_of[member] = len(self.first) - 1

    def members_of(self, which: int) -> list[int]:
        return self.members[self.first[which] : self.past[which]]


def _equivalent(
    source: np.ndarray, label: np.ndarray, target: np.ndarray, final: np.ndarray
) -> list[int]:
    """Numbers classes of states that the same texts lead to the end.

    Args:
        source: Where each arc begins, sorted by its label.
        label: Its label.
        target: Where it ends.
        final: bool `[S]`.

    Source: Valmari, Lehtinen 2008, section 4; O(arcs x log states).
    """
    blocks, arcs = _Partition(len(final)), _Partition(len(source))
    for state in np.flatnonzero(final).tolist():
        blocks.mark(state)
    blocks.split()
    cuts = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    arcs.first, arcs.past, arcs.marked = cuts[:-1], cuts[1:], [0] * (len(cuts) - 1)
    for which, (begin, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        arcs.set_of[begin:end] = [which] * (end - begin)
    tails: list[int] = source.tolist()
    into: list[list[int]] = [[] for _ in final]
    for arc, state in enumerate(target.tolist()):
        into[state].append(arc)
    done, used = 1, 0
    while used < len(arcs.first):
        for arc in arcs.members_of(used):
            blocks.mark(tails[arc])
        blocks.split()
        used += 1
        while done < len(blocks.first):
            for state in blocks.members_of(done):
                for arc in into[state]:
                    arcs.mark(arc)
            arcs.split()
            done += 1
    return blocks.set_of


def _renumber(
    next_state: np.ndarray, final: np.ndarray, useful: np.ndarray, block: np.ndarray
) -> ByteAutomaton:
    """Makes one state of each block, in the order of a walk from the start."""
    first = np.full(block.max() + 1, -1)
    states = np.flatnonzero(useful)[::-1]
    first[block[states]] = states  # a member of each block
    order, numbers = [0], {int(block[0]): 0}
    rows = []
    while len(rows) < len(order):
        row = next_state[first[block[order[len(rows)]]]]
        row = np.where((row >= 0) & np.append(useful, False)[row], block[row], -1)
        kinds, at, inverse = np.unique(row, return_index=True, return_inverse=True)
        for kind in kinds[np.argsort(at)].tolist():  # by first byte: one numbering per language
            if kind >= 0 and kind not in numbers:
                numbers[kind] = len(order)
                order.append(int(first[kind]))
        found = np.array([numbers.get(kind, -1) for kind in kinds.tolist()], np.int32)
        rows.append(found[inverse.reshape(-1)])
    bounded(len(rows), MOST_STATES)
    return ByteAutomaton(np.stack(rows), final[order])


def distances(next_state: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Counts the fewest moves from each state to a final one.

    Args:
        next_state: int32 `[S, columns]`, -1 for no state.
        final: bool `[S]`.

    Returns:
        int32 `[S]`; -1 where no final state is reached.

    Example:
        >>> distances(np.array([[1, -1], [-1, -1]]), np.array([False, True])).tolist()
        [1, 0]
    """
    states, columns = next_state.shape
    edges: list[np.ndarray] = []
    for low in range(0, states, 256):  # in slices, since tables may be large
        part = next_state[low : low + 256].astype(np.int64)
        source = np.arange(low, low + len(part))[:, None]
        edges.append(np.unique((source * states + part)[part >= 0]))
    source, target = np.divmod(np.concatenate(edges), states)
    found = np.where(final, 0, -1).astype(np.int32)
    step = 0
    while True:
        open_ends = found[source] < 0
        source, target = source[open_ends], target[open_ends]
        new = source[found[target] >= 0]
        if not new.size:
            return found
        step += 1
        found[new] = step


def bounded(size: int, most: int) -> None:
    """Refuses what would take too much memory or time.

    Raises:
        ValueError: `size` is above `most`.
    """
    if size > most:
        raise ValueError(
            explain(
                f"The constraint asks for too large an automaton (more than {MOST_STATES} states,"
                " or too much work to find them).",
                fix="Use smaller repeat counts and lengths, fewer optional parts, or `(?a)` where"
                " only ASCII letters and digits are meant.",
            )
        )

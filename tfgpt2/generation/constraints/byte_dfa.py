"""Deterministic finite automata over bytes: minimization, intersection and complement.

Source: Aho, Lam, Sethi, Ullman 2006, "Compilers", section 3.9.6.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt2.generation.constraints.work import MAX_STATES, check_size, spend

_PAIR_STEPS = 100  # of work, for a pair of states of a product


class ByteDFA(NamedTuple):
    """A deterministic automaton over bytes whose start state is 0.

    Attributes:
        next_state: int32 `[S, 256 + K]`, the state after a byte, or after one of `K` special
            tokens; -1 is a missing transition.
        accepting: bool `[S]`, True where the bytes so far are in the language.
        special_ids: The ids of those special tokens.
    """

    next_state: np.ndarray
    accepting: np.ndarray
    special_ids: tuple[int, ...] = ()

    def matches(self, text: str | bytes) -> bool:
        """Returns whether the whole text is in the language.

        Example:
            >>> ByteDFA(np.zeros((1, 256), np.int32), np.ones(1, bool)).matches("any text")
            True
        """
        state = 0
        for byte in text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text:
            state = int(self.next_state[state, byte])
            if state < 0:
                return False
        return bool(self.accepting[state])


def intersection(first: ByteDFA, second: ByteDFA) -> ByteDFA:
    """Returns the DFA of the texts that are in both languages: the product automaton."""
    size = len(second.accepting)
    numbers: dict[int, int] = {0: 0}
    pairs, rows = [0], []  # a pair of states is first * size + second
    while len(rows) < len(pairs):
        one, two = divmod(pairs[len(rows)], size)
        target, other = first.next_state[one].astype(np.int64), second.next_state[two]
        row = np.where((target >= 0) & (other >= 0), target * size + other, -1)
        rows.append(_number_targets(row, numbers, pairs))
        check_size(len(pairs), MAX_STATES)
        spend(_PAIR_STEPS)
    one, two = np.divmod(np.array(pairs), size)
    return minimize(np.stack(rows), first.accepting[one] & second.accepting[two])


def complement(dfa: ByteDFA) -> ByteDFA:
    """Returns the DFA, not minimal, of the byte sequences that are not in the language."""
    dead = len(dfa.accepting)  # the state after a missing transition
    next_state = np.vstack([dfa.next_state, np.full_like(dfa.next_state[:1], dead)])
    return ByteDFA(np.where(next_state < 0, dead, next_state), ~np.append(dfa.accepting, False))


def minimize(next_state: np.ndarray, accepting: np.ndarray) -> ByteDFA:
    """Merges equivalent states and drops those that cannot reach an accepting state.

    Args:
        next_state: int32 `[S, 256 + K]`, -1 for a missing transition; the start state is 0.
        accepting: bool `[S]`.

    Returns:
        The minimal DFA; equal languages give equal arrays.

    Raises:
        ValueError: The minimal DFA has more than `MAX_STATES` states.
    """
    useful = accept_distances(next_state, accepting) >= 0
    if not useful[0]:
        return ByteDFA(np.full_like(next_state[:1], -1), np.zeros(1, bool))
    _, byte_of_class = np.unique(next_state[useful], axis=1, return_index=True)
    target = next_state[:, byte_of_class]  # [S, byte classes]
    live = useful[:, None] & (target >= 0) & np.append(useful, False)[target]
    label, source = np.nonzero(live.T)
    spend(2 * len(label))
    block = _equivalence_classes(source, label, target[source, label], accepting & useful)
    return _renumber(next_state, accepting, useful, np.array(block))


class _Partition:
    """A refinable partition of `range(size)`; a split moves the smaller part to a new set.

    Source: Valmari, Lehtinen 2008, "Efficient minimization of DFAs with partial transition
        functions", section 4.
    """

    def __init__(self, size: int) -> None:
        self.members, self.position = list(range(size)), list(range(size))
        self.set_of = [0] * size
        self.begin, self.end, self.marked = [0], [size], [0]
        self.touched: list[int] = []

    def mark(self, member: int) -> None:
        """Moves a member to the front of its set."""
        which, at = self.set_of[member], self.position[member]
        front = self.begin[which] + self.marked[which]
        other = self.members[front]
        self.members[at], self.position[other] = other, at
        self.members[front], self.position[member] = member, front
        if not self.marked[which]:
            self.touched.append(which)
        self.marked[which] += 1

    def split(self) -> None:
        """Separates the marked members of each set from the others."""
        while self.touched:
            which = self.touched.pop()
            begin, end = self.begin[which], self.end[which]
            middle, self.marked[which] = begin + self.marked[which], 0
            if middle == end:
                continue
            if middle - begin <= end - middle:
                end = self.begin[which] = middle
            else:
                begin = self.end[which] = middle
            self.begin.append(begin)
            self.end.append(end)
            self.marked.append(0)
            for member in self.members[begin:end]:
                self.set_of[member] = len(self.begin) - 1

    def members_of(self, which: int) -> list[int]:
        return self.members[self.begin[which] : self.end[which]]


def _equivalence_classes(
    source: np.ndarray, label: np.ndarray, target: np.ndarray, accepting: np.ndarray
) -> list[int]:
    """Returns the number of each state's equivalence class.

    Args:
        source: The state in which each transition begins; sorted by label.
        label: Its label.
        target: The state in which it ends.
        accepting: bool `[S]`.

    Source: Valmari, Lehtinen 2008, section 4; O(transitions x log states).
    """
    blocks, transitions = _Partition(len(accepting)), _Partition(len(source))
    for state in np.flatnonzero(accepting).tolist():
        blocks.mark(state)
    blocks.split()
    cuts = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    transitions.begin, transitions.end = cuts[:-1], cuts[1:]
    transitions.marked = [0] * (len(cuts) - 1)
    for which, (begin, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        transitions.set_of[begin:end] = [which] * (end - begin)
    sources: list[int] = source.tolist()
    incoming: list[list[int]] = [[] for _ in accepting]
    for transition, state in enumerate(target.tolist()):
        incoming[state].append(transition)
    blocks_done, sets_done = 1, 0
    while sets_done < len(transitions.begin):
        for transition in transitions.members_of(sets_done):
            blocks.mark(sources[transition])
        blocks.split()
        sets_done += 1
        while blocks_done < len(blocks.begin):
            for state in blocks.members_of(blocks_done):
                for transition in incoming[state]:
                    transitions.mark(transition)
            transitions.split()
            blocks_done += 1
    return blocks.set_of


def _renumber(
    next_state: np.ndarray, accepting: np.ndarray, useful: np.ndarray, block: np.ndarray
) -> ByteDFA:
    """Makes one state of each block, numbered in breadth-first order from the start."""
    first = np.full(block.max() + 1, -1)
    states = np.flatnonzero(useful)[::-1]
    first[block[states]] = states  # the first state of each block
    order, numbers, rows = [int(block[0])], {int(block[0]): 0}, []
    while len(rows) < len(order):
        row = next_state[first[order[len(rows)]]]
        row = np.where((row >= 0) & np.append(useful, False)[row], block[row], -1)
        rows.append(_number_targets(row, numbers, order))
    check_size(len(rows), MAX_STATES)
    return ByteDFA(np.stack(rows), accepting[first[order]])


def _number_targets(row: np.ndarray, numbers: dict[int, int], order: list[int]) -> np.ndarray:
    """Replaces the targets of a row by their numbers; new ones are appended to both containers.

    They are numbered in the order of the first byte that leads to them, so that equal languages
    are numbered alike. -1 stays.
    """
    targets, at, inverse = np.unique(row, return_index=True, return_inverse=True)
    for target in targets[np.argsort(at)].tolist():
        if target >= 0 and target not in numbers:
            numbers[target] = len(order)
            order.append(target)
    renumbered = np.array([numbers.get(target, -1) for target in targets.tolist()], np.int32)
    return renumbered[inverse.reshape(-1)]


def accept_distances(next_state: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """Counts the fewest transitions from each state to an accepting one.

    Args:
        next_state: int32 `[S, columns]`, -1 for a missing transition.
        accepting: bool `[S]`.

    Returns:
        int32 `[S]`; -1 where no accepting state can be reached.

    Example:
        >>> accept_distances(np.array([[1, -1], [-1, -1]]), np.array([False, True])).tolist()
        [1, 0]
    """
    states, columns = next_state.shape
    edges: list[np.ndarray] = []
    for low in range(0, states, 256):  # in slices, which bounds the memory
        part = next_state[low : low + 256].astype(np.int64)
        source = np.arange(low, low + len(part))[:, None]
        edges.append(np.unique((source * states + part)[part >= 0]))
    source, target = np.divmod(np.concatenate(edges), states)
    distance = np.where(accepting, 0, -1).astype(np.int32)
    step = 0
    while True:
        unknown = distance[source] < 0
        source, target = source[unknown], target[unknown]
        new = source[distance[target] >= 0]
        if not new.size:
            return distance
        step += 1
        distance[new] = step

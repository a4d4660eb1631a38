"""From an automaton over bytes and a vocabulary to a table of tokens, on the host.

Bytes that the automaton cannot tell apart are made one first, which merges many tokens. What
remains is walked as a trie, from many states at once, and tokens that behave alike in every state
become a class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton, distances

MOST_CELLS = 2**24  # entries of a token table, 64 MiB
_DEAD = 255  # the kind of bytes that lead nowhere
_CHUNK, _SLICE = 64, 256  # states that are walked at once, and whose columns are compared at once


class TokenAutomaton(NamedTuple):
    """An automaton that reads tokens; on the host.

    Attributes:
        next: int32 `[A, C]`, the state after a token of a class; -1 is forbidden. Class 0 is the
            tokens that are forbidden everywhere.
        token_class: int32 `[V]`; tokens that behave alike in every state share a class.
        final: bool `[A]`, the text so far is a whole match.
        steps: int32 `[A]`, the fewest tokens from here to a final state.
        start: The state before any token.
    """

    next: np.ndarray
    token_class: np.ndarray
    final: np.ndarray
    steps: np.ndarray
    start: int


def read_tokens(
    automaton: ByteAutomaton, tokens: Sequence[bytes], forbidden: Collection[int] = ()
) -> TokenAutomaton:
    """Turns an automaton over bytes into one over a vocabulary's tokens.

    Args:
        automaton: The language.
        tokens: The bytes of each id; ids with no bytes are forbidden everywhere.
        forbidden: Ids that are forbidden too, such as end tokens that have bytes.

    Raises:
        ValueError: No text of the language can be spelled, or the table would be too large.

    Example:
        >>> from tfgpt2.generation.constraints.regex import regex_automaton
        >>> found = read_tokens(regex_automaton("(ab)+"), [b"a", b"b", b"ab", b"x", b""])
        >>> found.token_class.tolist(), found.steps.tolist()
        ([1, 2, 3, 0, 0], [1, 1, 0])
    """
    kinds, table = _byte_kinds(automaton)
    out = set(forbidden)
    texts = [b"" if at in out else bytes(one).translate(kinds) for at, one in enumerate(tokens)]
    numbers: dict[bytes, int] = {}
    key = np.full(len(texts), -1)
    for at, text in enumerate(texts):
        if text and _DEAD not in text:
            key[at] = numbers.setdefault(text, len(numbers))
    if numbers:
        next_state, classes = _walk(table, _Trie(list(numbers)))
    else:
        next_state, classes = np.full((len(table), 1), -1, np.int32), np.zeros(1, np.int64)
    # A column for the tokens that no state takes, which others may join below.
    next_state = np.hstack([np.full((len(table), 1), -1, np.int32), next_state])
    token_class = np.where(key < 0, 0, np.append(classes, 0)[key] + 1)
    return _trim(next_state, token_class, automaton.final)


def _byte_kinds(automaton: ByteAutomaton) -> tuple[bytes, np.ndarray]:
    """Finds the bytes that behave alike.

    Returns:
        The kind of each byte, `_DEAD` where it leads nowhere from any state, and `next` by kind.
    """
    columns, kind = np.unique(automaton.next, axis=1, return_inverse=True)  # [S, kinds]
    alive = (columns >= 0).any(0)
    if alive.sum() > _DEAD:
        raise ValueError(
            explain(
                "The constraint tells all 256 bytes apart; text in UTF-8 never holds some of them.",
                fix="Constrain text, or leave a byte out.",
            )
        )
    number = np.where(alive, np.cumsum(alive) - 1, _DEAD).astype(np.uint8)
    return number[kind.reshape(-1)].tobytes(), np.ascontiguousarray(columns[:, alive])


class _Trie:
    """Distinct texts as a tree, one level per byte, children side by side."""

    def __init__(self, texts: list[bytes]) -> None:
        self.size = len(texts)
        lengths = np.array([len(text) for text in texts])
        flat = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64)
        begin = np.cumsum(lengths) - lengths
        node, left, parents = np.zeros(self.size, np.int64), np.arange(self.size), 1
        # Of each level: where a node's children begin, their byte, the text that ends there.
        self.levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for depth in range(lengths.max()):
            left = left[lengths[left] > depth]
            code = node[left] * 256 + flat[begin[left] + depth]
            codes, inverse = np.unique(code, return_inverse=True)
            node[left] = inverse.reshape(-1)
            starts = np.searchsorted(codes, np.arange(parents + 1) * 256)
            ends = np.full(len(codes), -1)
            whole = left[lengths[left] == depth + 1]
            ends[node[whole]] = whole
            self.levels.append((starts, codes % 256, ends))
            parents = len(codes)

    def read(self, table: np.ndarray, low: int, high: int) -> np.ndarray:
        """Reads every text from the states `[low, high)`; int32 `[high - low, size]`."""
        after = np.full((high - low, self.size), -1, np.int32)
        row, node = np.arange(high - low), np.zeros(high - low, np.int64)
        state = np.arange(low, high)
        for starts, byte, ends in self.levels:
            count = starts[node + 1] - starts[node]
            pair = np.repeat(np.arange(len(node)), count)  # who a child comes from
            offset = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
            child = starts[node][pair] + offset
            reached = table[state[pair], byte[child]]
            alive = reached >= 0
            row, node, state = row[pair][alive], child[alive], reached[alive]
            done = ends[node] >= 0
            after[row[done], ends[node[done]]] = state[done]
        return after


def _walk(table: np.ndarray, trie: _Trie) -> tuple[np.ndarray, np.ndarray]:
    """Reads all texts from all states.

    Returns:
        `next` `[S, classes]` and the class of each text.
    """
    parts, classes = [], np.zeros(trie.size, np.int64)
    for first in range(0, len(table), _SLICE):
        past = min(first + _SLICE, len(table))
        chunks = [
            trie.read(table, low, min(low + _CHUNK, past)) for low in range(first, past, _CHUNK)
        ]
        different, index = _distinct(np.vstack(chunks).T)  # of [texts, states]
        parts.append((different, index))
        classes = np.unique(classes * len(different) + index, return_inverse=True)[1].reshape(-1)
        _fits(len(table), classes.max() + 1)
    member = np.zeros(classes.max() + 1, np.int64)
    member[classes] = np.arange(trie.size)
    next_state = np.vstack([different[index[member]].T for different, index in parts])
    return next_state, classes


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct rows of a matrix, in the order of appearance, and each row's number."""
    numbers: dict[bytes, int] = {}
    width = rows.shape[1] * rows.itemsize
    data = np.ascontiguousarray(rows).tobytes()
    index = np.array(
        [numbers.setdefault(data[at : at + width], len(numbers))
         for at in range(0, len(data), width)], np.int64
    )  # fmt: skip
    first = np.zeros(len(numbers), np.int64)
    first[index[::-1]] = np.arange(len(rows))[::-1]
    return rows[first], index


def _trim(next_state: np.ndarray, token_class: np.ndarray, final: np.ndarray) -> TokenAutomaton:
    """Drops states that tokens do not reach or that lead nowhere, and joins equal classes."""
    steps = distances(next_state, final)
    if steps[0] < 0:
        raise ValueError(
            explain(
                "No text that fits the constraint can be written with this vocabulary, or none"
                " fits at all.",
                fix="Check the constraint for parts that exclude each other.",
            )
        )
    next_state = np.where((next_state >= 0) & (steps[next_state] >= 0), next_state, -1)
    reached = np.zeros(len(final), bool)
    frontier = np.zeros(1, np.int64)
    while frontier.size:
        reached[frontier] = True
        after = np.unique(next_state[frontier])
        frontier = after[(after >= 0) & ~reached[after]]
    number = np.where(reached, np.cumsum(reached) - 1, -1).astype(np.int32)
    next_state = next_state[reached]
    next_state = np.where(next_state >= 0, number[next_state], -1).astype(np.int32)
    columns, index = _distinct(next_state.T)  # column 0 is forbidden
    _fits(*columns.T.shape)
    found = TokenAutomaton(
        next=np.ascontiguousarray(columns.T),
        token_class=index[token_class].astype(np.int32),
        final=final[reached],
        steps=steps[reached],
        start=0,
    )
    for array in found[:4]:
        array.setflags(write=False)  # they are shared by a cache
    return found


def _fits(states: int, classes: int) -> None:
    if states * classes > MOST_CELLS:
        raise ValueError(
            explain(
                f"The constraint's table would have more than {MOST_CELLS} entries.",
                fix="Use smaller repeat counts and lengths, or fewer parts.",
                states=states,
                token_classes=int(classes),
            )
        )


def fewest_tokens(automaton: TokenAutomaton) -> int:
    """Returns how many tokens the shortest output takes, an end token not counted."""
    return int(automaton.steps[automaton.start])

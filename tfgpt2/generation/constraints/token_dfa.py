"""Compiles a byte DFA and a vocabulary to a DFA over tokens, on the host.

Bytes with equal transitions are merged first, which merges many tokens. A trie of the rest is
traversed from many states at once, and tokens with equal transitions in every state form a class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.generation.constraints.byte_dfa import ByteDFA, accept_distances
from tfgpt2.generation.constraints.special_tokens import FIRST_SYMBOL

MAX_ENTRIES = 2**24  # of a transition table, 64 MiB
_DEAD = 255  # the class of bytes that have no transition in any state
_CHUNK, _SLICE = 64, 256  # states traversed at once, and states whose columns are compared at once


class TokenDFA(NamedTuple):
    """A deterministic automaton over tokens, as NumPy arrays; its start state is 0.

    Attributes:
        next_state: int32 `[A, C]`, the state after a token of a class; -1 is forbidden. Class 0
            holds the tokens that are forbidden in every state.
        token_class: int32 `[V]`; tokens with equal transitions in every state share a class.
        accepting: bool `[A]`, True where the text so far is a full match.
        distance: int32 `[A]`, the fewest tokens from here to an accepting state.
    """

    next_state: np.ndarray
    token_class: np.ndarray
    accepting: np.ndarray
    distance: np.ndarray


def compile_token_dfa(
    dfa: ByteDFA, token_bytes: Sequence[bytes], forbidden: Collection[int] = ()
) -> TokenDFA:
    """Compiles a byte DFA to a DFA over a vocabulary's tokens.

    Args:
        dfa: The language.
        token_bytes: The bytes of each id; ids without bytes are forbidden in every state, except
            for special tokens that are symbols of the DFA.
        forbidden: Other ids that are forbidden in every state, such as end tokens with bytes.

    Raises:
        ValueError: The tokens cannot spell any text of the language, or the table would be too
            large.

    Example:
        >>> from tfgpt2.generation.constraints.regex import compile_regex
        >>> dfa = compile_token_dfa(compile_regex("(ab)+"), [b"a", b"b", b"ab", b"x", b""])
        >>> dfa.token_class.tolist(), dfa.distance.tolist()
        ([1, 2, 3, 0, 0], [1, 1, 0])
    """
    byte_class, next_state = _merge_bytes(dfa)
    forbidden = set(forbidden)
    numbers: dict[bytes, int] = {}  # of each distinct text, with bytes replaced by their classes
    text_of = np.full(len(token_bytes), -1)
    for token, data in enumerate(token_bytes):
        text = bytes(data).translate(byte_class[:FIRST_SYMBOL])
        if text and _DEAD not in text and token not in forbidden:
            text_of[token] = numbers.setdefault(text, len(numbers))
    for symbol, token in enumerate(dfa.special_ids, FIRST_SYMBOL):
        if byte_class[symbol] != _DEAD:
            text_of[token] = numbers.setdefault(byte_class[symbol : symbol + 1], len(numbers))
    if numbers:
        after, text_class = _follow_texts(next_state, _Trie(list(numbers)))
    else:
        after, text_class = np.full((len(next_state), 1), -1, np.int32), np.zeros(1, np.int64)
    # A column of forbidden tokens, which classes without any transition join below.
    after = np.hstack([np.full((len(next_state), 1), -1, np.int32), after])
    token_class = np.where(text_of < 0, 0, np.append(text_class, 0)[text_of] + 1)
    return _trim(after, token_class, dfa.accepting)


def fewest_tokens(dfa: TokenDFA) -> int:
    """Returns the number of tokens of the shortest output, without an end token."""
    return int(dfa.distance[0])


def _merge_bytes(dfa: ByteDFA) -> tuple[bytes, np.ndarray]:
    """Merges the bytes with equal transitions.

    Returns:
        The class of each byte and symbol, `_DEAD` without any transition, and `next_state` by
        class.
    """
    columns, index = np.unique(dfa.next_state, axis=1, return_inverse=True)  # [S, classes]
    live = (columns >= 0).any(0)
    if live.sum() > _DEAD:
        raise value_error(
            "The constraint distinguishes all 256 bytes; UTF-8 text never has some of them.",
            fix="Constrain text, or leave a byte out.",
        )
    number = np.where(live, np.cumsum(live) - 1, _DEAD).astype(np.uint8)
    return number[index.reshape(-1)].tobytes(), np.ascontiguousarray(columns[:, live])


class _Trie:
    """A trie of distinct texts, one level per byte; the children of a node are adjacent."""

    def __init__(self, texts: list[bytes]) -> None:
        self.size = len(texts)
        lengths = np.array([len(text) for text in texts])
        data = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64)
        begin = np.cumsum(lengths) - lengths
        node, longer, parents = np.zeros(self.size, np.int64), np.arange(self.size), 1
        # Per level: each parent's first child; each child's byte and the text that ends there.
        self.levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for depth in range(lengths.max()):
            longer = longer[lengths[longer] > depth]
            code = node[longer] * 256 + data[begin[longer] + depth]
            codes, inverse = np.unique(code, return_inverse=True)
            node[longer] = inverse.reshape(-1)
            first_child = np.searchsorted(codes, np.arange(parents + 1) * 256)
            text = np.full(len(codes), -1)
            ending = longer[lengths[longer] == depth + 1]
            text[node[ending]] = ending
            self.levels.append((first_child, codes % 256, text))
            parents = len(codes)

    def follow(self, next_state: np.ndarray, low: int, high: int) -> np.ndarray:
        """Follows every text from the states `[low, high)`; int32 `[high - low, size]`."""
        after = np.full((high - low, self.size), -1, np.int32)
        row, node = np.arange(high - low), np.zeros(high - low, np.int64)
        state = np.arange(low, high)
        for first_child, byte, text in self.levels:
            count = first_child[node + 1] - first_child[node]
            parent = np.repeat(np.arange(len(node)), count)
            offset = np.arange(len(parent)) - np.repeat(np.cumsum(count) - count, count)
            child = first_child[node][parent] + offset
            target = next_state[state[parent], byte[child]]
            live = target >= 0
            row, node, state = row[parent][live], child[live], target[live]
            ending = text[node] >= 0
            after[row[ending], text[node[ending]]] = state[ending]
        return after


def _follow_texts(next_state: np.ndarray, trie: _Trie) -> tuple[np.ndarray, np.ndarray]:
    """Follows all texts from all states.

    Returns:
        The state after a text of each class `[S, classes]`, and the class of each text.
    """
    parts, classes = [], np.zeros(trie.size, np.int64)
    for first in range(0, len(next_state), _SLICE):
        past = min(first + _SLICE, len(next_state))
        chunks = [
            trie.follow(next_state, low, min(low + _CHUNK, past))
            for low in range(first, past, _CHUNK)
        ]
        rows, index = _unique_rows(np.vstack(chunks).T)  # of [texts, states]
        parts.append((rows, index))
        classes = np.unique(classes * len(rows) + index, return_inverse=True)[1].reshape(-1)
        _check_entries(len(next_state), classes.max() + 1)
    member = np.zeros(classes.max() + 1, np.int64)
    member[classes] = np.arange(trie.size)
    return np.vstack([rows[index[member]].T for rows, index in parts]), classes


def _unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct rows in order of appearance, and the number of each row."""
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


def _trim(next_state: np.ndarray, token_class: np.ndarray, accepting: np.ndarray) -> TokenDFA:
    """Drops states that are unreachable or cannot reach an accepting one; merges equal classes."""
    distance = accept_distances(next_state, accepting)
    if distance[0] < 0:
        raise value_error(
            "No text that fits the constraint can be written with this vocabulary, or none"
            " fits at all.",
            fix="Check the constraint for parts that exclude each other.",
        )
    next_state = np.where((next_state >= 0) & (distance[next_state] >= 0), next_state, -1)
    reached = np.zeros(len(accepting), bool)
    frontier = np.zeros(1, np.int64)
    while frontier.size:
        reached[frontier] = True
        after = np.unique(next_state[frontier])
        frontier = after[(after >= 0) & ~reached[after]]
    number = np.where(reached, np.cumsum(reached) - 1, -1).astype(np.int32)
    next_state = next_state[reached]
    next_state = np.where(next_state >= 0, number[next_state], -1).astype(np.int32)
    columns, index = _unique_rows(next_state.T)  # column 0 is forbidden
    _check_entries(*columns.T.shape)
    dfa = TokenDFA(
        next_state=np.ascontiguousarray(columns.T),
        token_class=index[token_class].astype(np.int32),
        accepting=accepting[reached],
        distance=distance[reached],
    )
    for array in dfa:
        array.setflags(write=False)  # a cache shares them
    return dfa


def _check_entries(states: int, classes: int) -> None:
    if states * classes > MAX_ENTRIES:
        raise value_error(
            f"The constraint's transition table would have more than {MAX_ENTRIES} entries.",
            fix="Use smaller repeat counts and lengths, or fewer parts.",
            states=states,
            token_classes=int(classes),
        )

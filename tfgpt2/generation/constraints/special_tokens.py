"""Special tokens in an NFA over bytes: where their content is spelled out, they are one symbol.

A special token is a symbol of its own, numbered from 256 on. It may stand where a constraint spells
out its content, byte by byte, and then the bytes may not: a tokenizer makes one id of such a text.
A class or a wildcard that its bytes happen to fit does not spell it out.

Source: Aho, Corasick 1975, "Efficient string matching", algorithms 2 to 4, for the search.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

END = -1  # in the place of an id: the token ends a text and is no part of it
FIRST_SYMBOL = 256
Transition = tuple[int, int, int]  # (lowest byte, highest byte, target)


class _Matcher(NamedTuple):
    """An Aho-Corasick automaton; state 0 is the start.

    Attributes:
        goto: For each state, the states after the bytes that go on in some content.
        fail: For each state, the state of the longest proper suffix.
        found: For each state, the contents that end there.
    """

    goto: list[dict[int, int]]
    fail: list[int]
    found: list[tuple[bytes, ...]]

    def step(self, state: int, byte: int) -> int:
        while state and byte not in self.goto[state]:
            state = self.fail[state]
        return self.goto[state].get(byte, 0)


def _matcher(contents: Iterable[bytes]) -> _Matcher:
    made = _Matcher([{}], [0], [()])
    for content in contents:
        state = 0
        for byte in content:
            if byte not in made.goto[state]:
                made.goto[state][byte] = len(made.goto)
                made.goto.append({})
                made.fail.append(0)
                made.found.append(())
            state = made.goto[state][byte]
        made.found[state] += (content,)
    queue = list(made.goto[0].values())
    for state in queue:  # breadth first: it grows
        for byte, after in made.goto[state].items():
            queue.append(after)
            made.fail[after] = made.step(made.fail[state], byte)
            made.found[after] += made.found[made.fail[after]]
    return made


def spell_special_tokens(
    special: Mapping[bytes, int],
    transitions: list[list[Transition]],
    epsilon: list[list[int]],
    new_state: Callable[[], int],
    ends: Collection[int],
    end: int,
    spend: Callable[[int], None],
) -> tuple[int, ...]:
    """Replaces the spelling of special tokens by their symbols, in place.

    Args:
        special: From contents, not empty, to ids. `END` stands for an end token: the text may end
            where its content comes last, and elsewhere the content is text like any other.
        transitions: Of each state.
        epsilon: Targets of each state's transitions without a byte.
        new_state: Adds a state to both.
        ends: The states from which the end is reached without a byte.
        end: The accepting state, from which nothing leads on.
        spend: Counts the work done, and refuses too much of it.

    Returns:
        The ids of the symbols that occur, in their order from `FIRST_SYMBOL` on.
    """
    matcher = _matcher(special)
    symbols: dict[int, int] = {}
    copies: dict[tuple[int, int], int] = {}  # of a state, after the beginning of a content
    original, unfinished = len(transitions), []
    # From where a content is spelled: the states on the way since its first byte.
    for state in range(original):
        if any(low == high and low in matcher.goto[0] for low, high, _ in transitions[state]):
            for content, target in _spelled(matcher, transitions, epsilon, state, spend):
                if special[content] != END:
                    number = symbols.setdefault(special[content], FIRST_SYMBOL + len(symbols))
                    transitions[state].append((number, number, target))
                elif target in ends:
                    epsilon[state].append(end)

    def copy_of(state: int, place: int) -> int:
        if not place or state == end:
            return state
        if (state, place) not in copies:
            copies[state, place] = new_state()
            unfinished.append((state, place))
        return copies[state, place]

    def complete(arc: Transition, place: int) -> bool:
        """Whether a byte completes a content that is written as one token."""
        return any(special[one] != END or arc[2] in ends for one in matcher.found[place])

    def follow(arc: Transition, place: int) -> list[Transition]:
        """The transition from a state's copy."""
        low, high, target = arc
        if low != high or low >= FIRST_SYMBOL:
            return [arc]
        place = matcher.step(place, low)
        return [] if complete(arc, place) else [(low, high, copy_of(target, place))]

    before = [list(arcs) for arcs in transitions[:original]]
    empty = [list(targets) for targets in epsilon[:original]]
    for state in range(original):
        transitions[state][:] = [new for arc in before[state] for new in follow(arc, 0)]
    while unfinished:
        state, place = unfinished.pop()
        spend(5 * (1 + len(before[state]) + len(empty[state])))
        copy = copies[state, place]
        transitions[copy] += [new for arc in before[state] for new in follow(arc, place)]
        epsilon[copy] += [copy_of(target, place) for target in empty[state]]
    return tuple(symbols)


def _spelled(
    matcher: _Matcher,
    transitions: list[list[Transition]],
    epsilon: list[list[int]],
    start: int,
    spend: Callable[[int], None],
) -> list[tuple[bytes, int]]:
    """The contents that are spelled out from a state on, and the states after them."""
    found, seen, places = [], {(start, 0)}, [(start, 0, b"")]
    while places:
        state, place, text = places.pop()
        nexts = [(target, place, text) for target in epsilon[state]] if place else []
        spend(5 * (1 + len(nexts) + len(transitions[state])))
        for low, high, target in transitions[state]:
            if low == high and low in matcher.goto[place]:
                after, longer = matcher.goto[place][low], text + bytes([low])
                if longer in matcher.found[after]:
                    found.append((longer, target))
                nexts.append((target, after, longer))
        for one in nexts:
            if one[:2] not in seen:
                seen.add(one[:2])
                places.append(one)
    return found

"""Random texts of an automaton over bytes, for the tests of patterns and schemas."""

import numpy as np

from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton, distances


def texts(automaton: ByteAutomaton, seed: int, count: int, longest: int = 60) -> list[bytes]:
    """Walks at random until a final state, and on the shortest way to one once `longest` is up."""
    random = np.random.RandomState(seed)
    left = distances(automaton.next, automaton.final)
    far = np.append(left, 2**30)  # of no state
    found = []
    for _ in range(count):
        limit = random.randint(0, longest + 1)
        state, text = 0, []
        while not (automaton.final[state] and (len(text) >= limit or random.rand() < 0.05)):
            after = automaton.next[state]
            open_bytes = np.flatnonzero(after >= 0)
            if not open_bytes.size:
                break
            if len(text) >= limit:
                open_bytes = open_bytes[far[after[open_bytes]] < left[state]]
            # A next state first, then a byte: rare ways are taken as often as broad ones.
            states = np.unique(after[open_bytes])
            target = random.choice(states)
            byte = random.choice(open_bytes[after[open_bytes] == target])
            text.append(byte)
            state = target
        assert automaton.final[state]
        found.append(bytes(text))
    return found

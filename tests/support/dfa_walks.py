"""Random texts of a byte DFA, for the tests of patterns and schemas."""

import numpy as np

from tfgpt2.generation.constraints.byte_dfa import ByteDFA, accept_distances


def random_texts(dfa: ByteDFA, seed: int, count: int, longest: int = 60) -> list[bytes]:
    """Walks at random to an accepting state; past `longest` bytes, on a shortest path."""
    random = np.random.RandomState(seed)
    distance = accept_distances(dfa.next_state, dfa.accepting)
    target_distance = np.append(distance, 2**30)  # of a missing transition
    texts = []
    for _ in range(count):
        limit = random.randint(0, longest + 1)
        state, text = 0, []
        while not (dfa.accepting[state] and (len(text) >= limit or random.rand() < 0.05)):
            after = dfa.next_state[state]
            allowed = np.flatnonzero(after >= 0)
            if not allowed.size:
                break
            if len(text) >= limit:
                allowed = allowed[target_distance[after[allowed]] < distance[state]]
            # The target first, then a byte: rare transitions are taken as often as common ones.
            target = random.choice(np.unique(after[allowed]))
            text.append(random.choice(allowed[after[allowed] == target]))
            state = target
        assert dfa.accepting[state]
        texts.append(bytes(text))
    return texts

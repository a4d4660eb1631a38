"""Beam searches that PyTorch transformers made and the package must make too.

Needs nothing but numpy: `tests/golden/make_beam_golden.py` imports it. Every case is a
`greedy_cases.GreedyCase`. The pad token is none of the end tokens, and not 0, because transformers
takes 0 for "no pad token" when it fills up texts.
"""

import itertools

import numpy as np

from tests.support import greedy_cases
from tests.support.greedy_cases import GreedyCase

PAD = 22
ENDS = [3, 9, 20, 5, 14]  # five of 23 tokens: texts do end


def _options(**options) -> dict:
    return {"max_new_tokens": 14, "num_beams": 4, "num_return_sequences": 2, "pad_token_id": PAD,
            "eos_token_id": ENDS, **options}  # fmt: skip


CASES = {
    "no_end": GreedyCase({}, (5,), _options(eos_token_id=None), 1),
    "one_end": GreedyCase({}, (4, 2, 6), _options(eos_token_id=5, max_new_tokens=24), 1),
    "two_ends": GreedyCase({}, (4, 2, 6), _options(eos_token_id=[5, 9], max_new_tokens=24), 1),
    "least": GreedyCase({}, (4, 2), _options(min_new_tokens=9), 1),
    "penalty": GreedyCase({}, (6, 6), _options(repetition_penalty=1.7), 1),
    "reward": GreedyCase({}, (6, 6), _options(repetition_penalty=0.7, eos_token_id=5), 1),
    "all_beams": GreedyCase({}, (3, 7), _options(num_return_sequences=4), 1),
    "length": GreedyCase({}, (6, 3), _options(max_new_tokens=None, max_length=17), 1),
    "one_token": GreedyCase({}, (6, 3), _options(max_new_tokens=1), 1),
    "three_beams": GreedyCase({}, (5, 5), _options(num_beams=3, num_return_sequences=3), 1),
    "deep": GreedyCase({"n_layer": 4, "n_head": 4}, (9, 4), _options(eos_token_id=7), 2),
}
for _beams, _penalty, _stop in itertools.product(
    (2, 4), (0.0, 0.7, 1.0, 2.0, -0.5), (True, False, "never")
):
    CASES[f"{_beams} beams, length {_penalty}, {_stop}"] = GreedyCase(
        {},
        (5, 2, 7),
        _options(num_beams=_beams, length_penalty=_penalty, early_stopping=_stop),
        1,
    )


def prompts(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded ids and their mask `[B, P]`; few models, but each case has its own prompts."""
    number = list(CASES).index(name)
    ids, mask = greedy_cases.prompts(CASES[name]._replace(seed=1000 + number))
    return ids + PAD * (1 - mask), mask

"""Diverse beam searches that PyTorch transformers made and the package must make too.

Needs nothing but numpy: `tests/golden/make_group_beam_golden.py` imports it. Every case is a
`greedy_cases.GreedyCase`. The pad token is seldom an end token, though GPT-2's usual one is: a
group that has ended counts as having chosen it, so it decides what later groups choose.
"""

import itertools

import numpy as np

from tests.support import greedy_cases
from tests.support.greedy_cases import GreedyCase

PAD = 22
ENDS = [3, 9, 20, 5, 14]  # five of 23 tokens: texts do end


def _options(**options) -> dict:
    return {"max_new_tokens": 12, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7,
            "num_return_sequences": 4, "pad_token_id": PAD, "eos_token_id": ENDS,
            **options}  # fmt: skip


def _six(**options) -> dict:
    return _options(**{"num_beams": 6, "num_beam_groups": 3, "num_return_sequences": 3, **options})


CASES = {
    "no_end": GreedyCase({}, (5,), _options(eos_token_id=None), 1),
    "one_end": GreedyCase({}, (4, 2, 6), _options(eos_token_id=5, max_new_tokens=20), 1),
    "two_ends": GreedyCase({}, (4, 2, 6), _options(eos_token_id=[5, 9], max_new_tokens=20), 1),
    "least": GreedyCase({}, (4, 2), _options(min_new_tokens=7), 1),
    "penalty": GreedyCase({}, (6, 6), _options(repetition_penalty=1.7), 1),
    "reward": GreedyCase({}, (6, 6), _six(repetition_penalty=0.7, eos_token_id=5), 1),
    "one_token": GreedyCase({}, (6, 3), _options(max_new_tokens=1), 1),
    "one_each": GreedyCase({}, (6, 3), _options(num_beam_groups=4), 1),
    "six_in_two": GreedyCase({}, (5, 2), _six(num_beam_groups=2, num_return_sequences=6), 1),
    "pad_is_end": GreedyCase({}, (5, 7, 3), _six(pad_token_id=3, num_return_sequences=6), 1),
    "pad_ends": GreedyCase(
        {}, (5, 7, 3), _options(pad_token_id=5, eos_token_id=[5, 9], diversity_penalty=3.0), 1
    ),
    "deep": GreedyCase({"n_layer": 4, "n_head": 4}, (9, 4), _six(eos_token_id=7), 2),
}
for _cost in (0.1, 2.5, 20.0):
    CASES[f"cost {_cost}"] = GreedyCase({}, (5, 2), _six(diversity_penalty=_cost), 1)
for _length, _stop in itertools.product((0.0, 1.0, 2.0, -0.5), (True, False, "never")):
    CASES[f"length {_length}, {_stop}"] = GreedyCase(
        {}, (5, 2, 7), _options(length_penalty=_length, early_stopping=_stop), 1
    )
    CASES[f"six, length {_length}, {_stop}"] = GreedyCase(
        {}, (3, 6), _six(length_penalty=_length, early_stopping=_stop), 1
    )


def prompts(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded ids and their mask `[B, P]`; few models, but each case has its own prompts."""
    number = list(CASES).index(name)
    ids, mask = greedy_cases.prompts(CASES[name]._replace(seed=3000 + number))
    return ids + PAD * (1 - mask), mask

"""Contrastive searches that PyTorch transformers made and the package must make too.

Needs nothing but numpy: `tests/golden/make_contrastive_golden.py` imports it. Every case is a
`greedy_cases.GreedyCase`; all but one have the same model, so they can be rows of one batch.
"""

import numpy as np

from tests.support import greedy_cases
from tests.support.greedy_cases import GreedyCase

PAD = 22
ENDS = [14, 10, 0]


def _options(**options) -> dict:
    return {"max_new_tokens": 16, "top_k": 4, "penalty_alpha": 0.6, "pad_token_id": PAD,
            "eos_token_id": None, **options}  # fmt: skip


CASES = {
    "end": GreedyCase({}, (4, 2, 6, 5), _options(eos_token_id=7), 1),
    "ends": GreedyCase({}, (4, 2, 6, 5), _options(eos_token_id=ENDS), 1),
    "least": GreedyCase({}, (4, 2), _options(eos_token_id=ENDS, min_new_tokens=9), 1),
    "penalty": GreedyCase({}, (6, 6), _options(repetition_penalty=1.7), 1),
    "reward": GreedyCase({}, (6, 3), _options(repetition_penalty=0.7, eos_token_id=7), 1),
    "one_token": GreedyCase({}, (6, 3), _options(max_new_tokens=1), 1),
    "deep": GreedyCase({"n_layer": 4, "n_head": 4}, (9, 4), _options(eos_token_id=7), 2),
}
for _k in (2, 3, 5, 6):
    for _alpha in (0.1, 0.4, 0.9):
        CASES[f"k {_k}, alpha {_alpha}"] = GreedyCase(
            {}, (5, 1, 7), _options(top_k=_k, penalty_alpha=_alpha), 1
        )


def prompts(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded ids and their mask `[B, P]`; few models, but each case has its own prompts."""
    number = list(CASES).index(name)
    ids, mask = greedy_cases.prompts(CASES[name]._replace(seed=5000 + number))
    return ids + PAD * (1 - mask), mask

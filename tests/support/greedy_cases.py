"""Greedy continuations that PyTorch transformers made and the package must make too.

Needs nothing but numpy: `tests/golden/make_generation_golden.py` imports it.
"""

from typing import NamedTuple

import numpy as np

SMALL = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 23, "n_positions": 48}


class GreedyCase(NamedTuple):
    """A model, its prompts, and how they are continued.

    Attributes:
        config: Fields beside those of `SMALL`.
        lengths: Tokens of each prompt; shorter ones are padded on the left.
        options: Arguments of transformers' `generate`.
        seed: Of weights and prompts.
    """

    config: dict
    lengths: tuple[int, ...]
    options: dict
    seed: int = 0


CASES = {
    "plain": GreedyCase({}, (5,), {"max_new_tokens": 24, "eos_token_id": None}),
    "padded": GreedyCase({}, (7, 3, 1), {"max_new_tokens": 16, "eos_token_id": None}, 1),
    "end": GreedyCase({}, (4, 2, 6, 5), {"max_new_tokens": 30, "eos_token_id": 5}, 2),
    "ends": GreedyCase({}, (4, 2, 6, 5), {"max_new_tokens": 30, "eos_token_id": [3, 9, 20]}, 3),
    "least": GreedyCase(
        {}, (4, 2), {"max_new_tokens": 20, "min_new_tokens": 9, "eos_token_id": [3, 9, 20]}, 3
    ),
    "penalty": GreedyCase(
        {}, (6, 3), {"max_new_tokens": 20, "repetition_penalty": 1.7, "eos_token_id": None}, 4
    ),
    "reward": GreedyCase(
        {}, (6, 3), {"max_new_tokens": 12, "repetition_penalty": 0.6, "eos_token_id": None}, 5
    ),
    "length": GreedyCase({}, (6, 3), {"max_length": 17, "eos_token_id": None}, 6),
    "least_length": GreedyCase(
        {}, (6, 3), {"max_length": 24, "min_length": 20, "eos_token_id": [1, 2, 3, 4, 5, 6]}, 7
    ),
    "deep": GreedyCase(
        {"n_layer": 5, "n_head": 4, "scale_attn_by_inverse_layer_idx": True},
        (9, 4),
        {"max_new_tokens": 20, "eos_token_id": None},
        8,
    ),  # fmt: skip
    "wide": GreedyCase(
        {"n_embd": 40, "n_head": 5, "n_inner": 24, "activation_function": "relu"},
        (3, 3),
        {"max_new_tokens": 20, "eos_token_id": None},
        9,
    ),  # fmt: skip
}


def config_of(case: GreedyCase) -> dict:
    """All fields that describe the case's model; dropout is off."""
    quiet = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return {"model_type": "gpt2", **SMALL, **quiet, "bos_token_id": 0, "eos_token_id": 0,
            **case.config}  # fmt: skip


def prompts(case: GreedyCase) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded ids and their mask `[B, P]`."""
    random, width = np.random.RandomState(case.seed + 100), max(case.lengths)
    ids = random.randint(0, SMALL["vocab_size"], (len(case.lengths), width))
    mask = (width - np.arange(width) <= np.array(case.lengths)[:, None]).astype(np.int64)
    return ids * mask, mask

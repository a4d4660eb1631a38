"""Configuration and weights of the small model whose checkpoints are in this folder.

The weights come from numpy's legacy generator, whose numbers never change.
"""

from __future__ import annotations

import numpy as np

CONFIG = {
    "vocab_size": 29,
    "n_positions": 16,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 28,
    "eos_token_id": 28,
    "pad_token_id": 28,
}
LABELS = 3
IDS = [[1, 5, 28, 0, 7, 7], [2, 2, 3, 27, 9, 4]]
VOCABULARY = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyĠ")} | {
    "th": 26,
    "the": 27,
    "<|endoftext|>": 28,
}
MERGES = ["t h", "th e"]


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of every weight of the language model, in PyTorch's names and layout."""
    d, inner = CONFIG["n_embd"], 4 * CONFIG["n_embd"]
    table = {"wte.weight": (CONFIG["vocab_size"], d), "wpe.weight": (CONFIG["n_positions"], d)}
    for i in range(CONFIG["n_layer"]):
        table |= {
            f"h.{i}.ln_1.weight": (d,),
            f"h.{i}.ln_1.bias": (d,),
            f"h.{i}.attn.c_attn.weight": (d, 3 * d),
            f"h.{i}.attn.c_attn.bias": (3 * d,),
            f"h.{i}.attn.c_proj.weight": (d, d),
            f"h.{i}.attn.c_proj.bias": (d,),
            f"h.{i}.ln_2.weight": (d,),
            f"h.{i}.ln_2.bias": (d,),
            f"h.{i}.mlp.c_fc.weight": (d, inner),
            f"h.{i}.mlp.c_fc.bias": (inner,),
            f"h.{i}.mlp.c_proj.weight": (inner, d),
            f"h.{i}.mlp.c_proj.bias": (d,),
        }
    table |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    table = {f"transformer.{key}": shape for key, shape in table.items()}
    return table


def head_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the heads' weights."""
    d = CONFIG["n_embd"]
    return {
        "multiple_choice_head.summary.weight": (1, d),
        "multiple_choice_head.summary.bias": (1,),
        "score.weight": (LABELS, d),
        "lm_head.weight": (CONFIG["vocab_size"], d),
    }


def weights() -> dict[str, np.ndarray]:
    """Returns all weights in float32, including the heads."""
    made = {}
    for i, (key, shape) in enumerate((shapes() | head_shapes()).items()):
        made[key] = (0.4 * np.random.RandomState(i).standard_normal(shape)).astype(np.float32)
        if ".ln_" in key and key.endswith("weight"):
            made[key] += 1
    return made

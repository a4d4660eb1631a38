"""The random 124M GPT-2 checkpoint that all backends of the comparison load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "tie_word_embeddings": True,
    "vocab_size": 50257,
}
# Larger than GPT-2's 0.02, so that the next token depends on the blocks too.
SPREAD = 0.06


def tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights, keyed by transformers' names.

    The embedding of the end-of-text token is zero. Its logit is then zero, which is never the
    largest of 50,257, so no backend stops early.
    """
    random = np.random.default_rng(seed)
    width = config["n_embd"]

    def drawn(*shape: int, spread: float = SPREAD) -> np.ndarray:
        return spread * random.standard_normal(shape, np.float32)

    table = drawn(config["vocab_size"], width, spread=0.02)
    table[config["eos_token_id"]] = 0
    found = {"wte.weight": table, "wpe.weight": drawn(config["n_positions"], width, spread=0.02)}
    for number in range(config["n_layer"]):
        for name, inputs, outputs in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            found[f"h.{number}.{name}.weight"] = drawn(inputs, outputs)
            found[f"h.{number}.{name}.bias"] = drawn(outputs, spread=0.02)
    for name in [f"h.{i}.ln_{j}" for i in range(config["n_layer"]) for j in (1, 2)] + ["ln_f"]:
        found[f"{name}.weight"] = 1 + drawn(width, spread=0.02)
        found[f"{name}.bias"] = drawn(width, spread=0.02)
    return {f"transformer.{name}": value for name, value in found.items()}


def write(folder: Path, config: dict = CONFIG) -> Path:
    """Write the checkpoint unless it exists; return its folder."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors(config), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder

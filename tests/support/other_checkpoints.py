"""Checkpoints of nanoGPT, minGPT and llm.c, written as their programs write them."""

import json

import ml_dtypes
import numpy as np

MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
NANOGPT_ARGUMENTS = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd",
                     "n_positions": "block_size", "vocab_size": "vocab_size"}  # fmt: skip
# The order of llm.c's parameters between the tables and the last norm.
LLM_C_KINDS = ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
               "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
               "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
               "mlp.c_proj.bias")  # fmt: skip


def linear_state(weights, size, bias=True):
    """A state dict of torch tensors in the layout of `torch.nn.Linear`, with the mask buffers."""
    import torch

    state = {}
    for key, value in weights.items():
        if key.endswith(".bias") and not bias:
            continue
        state[key] = torch.tensor(value.T if key.endswith(MATRICES) else value).contiguous()
        if key.endswith("ln_1.weight"):
            mask = torch.ones(size, size).tril().view(1, 1, size, size)
            state[key.replace("ln_1.weight", "attn.bias")] = mask
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])  # tied
    return state


def write_nanogpt(path, weights, config, prefix="", **arguments):
    """Writes nanoGPT's `ckpt.pt`, optimizer included; `bias=False` leaves the biases out."""
    import torch

    model_args = {theirs: config[ours] for ours, theirs in NANOGPT_ARGUMENTS.items()}
    model_args |= {"dropout": 0.0, "bias": True} | arguments
    model_args = {key: value for key, value in model_args.items() if value is not ...}
    state = linear_state(weights, config["n_positions"], model_args.get("bias", True))
    some = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([some], lr=6e-4, betas=(0.9, 0.95))
    some.sum().backward()
    optimizer.step()
    checkpoint = {
        "model": {prefix + key: value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": model_args,
        "iter_num": 2000,
        "best_val_loss": torch.tensor(3.25),
        "config": {"out_dir": "out", "learning_rate": 6e-4, "compile": True, "dtype": "bfloat16"},
    }
    torch.save(checkpoint, path)


def write_mingpt(folder, weights, config, **model):
    """Writes minGPT's `model.pt` and `config.json`."""
    import torch

    sizes = ("n_layer", "n_head", "n_embd", "vocab_size")
    values = {"model_type": None, **{name: config[name] for name in sizes},
              "block_size": config["n_positions"]} | model  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"system": {"seed": 1}, "model": values}))
    torch.save(linear_state(weights, config["n_positions"]), folder / "model.pt")


def write_llm_c(path, weights, config, version=3, pad_to=8, header=None):
    """Writes an llm.c checkpoint of version 3 (float32) or 5 (bfloat16).

    `header` replaces numbers of the header by their place.
    """
    table = weights["transformer.wte.weight"]
    rows = -(-len(table) // pad_to) * pad_to
    padded = np.zeros((rows, table.shape[1]), np.float32)
    padded[: len(table)] = table
    numbers = np.zeros(256, "<i4")
    names = ("n_positions", "vocab_size", "n_layer", "n_head", "n_embd")
    numbers[:8] = [20240326, version, *(config[name] for name in names), rows]
    for place, number in (header or {}).items():
        numbers[place] = number
    arrays = [padded, weights["transformer.wpe.weight"]]
    for kind in LLM_C_KINDS:
        for i in range(config["n_layer"]):
            array = weights[f"transformer.h.{i}.{kind}"]
            arrays.append(array.T if kind in MATRICES else array)
    arrays += [weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]]
    dtype = ml_dtypes.bfloat16 if version == 5 else np.dtype("<f4")
    parts = [np.ascontiguousarray(array, dtype).tobytes() for array in arrays]
    path.write_bytes(numbers.tobytes() + b"".join(parts))

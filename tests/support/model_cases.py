"""Small models and inputs of the golden file, the PyTorch tests and the numpy twin.

Everything is drawn from numpy's legacy generator, whose numbers never change, so the golden file
holds results only. This module needs nothing but numpy: `tests/golden/make_golden.py` imports it
where TensorFlow is not installed.
"""

from typing import NamedTuple

import numpy as np

BASE = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 23, "n_positions": 24}
ROWS, LENGTH, ENCODER = 2, 7, 5

ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh"),
    *("gelu_python_tanh", "gelu_accurate", "laplace", "leaky_relu", "linear", "mish"),
    *("quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh"),
)


class Case(NamedTuple):
    """A model and how it is called.

    Attributes:
        config: Fields that differ from `BASE`.
        inputs: Names of the inputs, see `inputs`.
        past: Number of tokens that a first call reads; the second call gets its `past_key_values`.
    """

    config: dict = {}
    inputs: tuple[str, ...] = ("input_ids",)
    past: int = 0


CASES = {
    "plain": Case(),
    "three_layers": Case({"n_layer": 3, "n_embd": 24, "n_head": 3, "vocab_size": 11}),
    "one_head": Case({"n_layer": 1, "n_head": 1}),
    "head_size_1": Case({"n_layer": 1, "n_embd": 4, "n_head": 4}),
    "n_inner": Case({"n_inner": 10}),
    "inverse_layer_idx": Case({"scale_attn_by_inverse_layer_idx": True}),
    "unscaled": Case({"scale_attn_weights": False}),
    "upcast": Case({"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True}),
    "untied": Case({"tie_word_embeddings": False}),
    "epsilon": Case({"layer_norm_epsilon": 0.1}),
    "right_padded": Case(inputs=("input_ids", "right_mask")),
    "left_padded": Case(inputs=("input_ids", "left_mask", "position_ids")),
    "token_types": Case(inputs=("input_ids", "token_type_ids")),
    "positions": Case(inputs=("input_ids", "position_ids")),
    "embeds": Case(inputs=("inputs_embeds", "token_type_ids")),
    "head_mask": Case(inputs=("input_ids", "head_mask")),
    "past": Case(past=4),
    "past_masked": Case(inputs=("input_ids", "left_mask", "position_ids"), past=5),
    "cross": Case({"add_cross_attention": True}, ("input_ids", "encoder_hidden_states")),
    "cross_masked": Case(
        {"add_cross_attention": True},
        ("input_ids", "right_mask", "encoder_hidden_states", "encoder_attention_mask"),
    ),
    "cross_masked_3d": Case(
        {"add_cross_attention": True},
        ("input_ids", "encoder_hidden_states", "encoder_attention_mask_3d"),
    ),
    "cross_past": Case(
        {"add_cross_attention": True}, ("input_ids", "encoder_hidden_states"), past=3
    ),
}


def config_of(case: Case) -> dict:
    """The configuration of the case's model, without dropout."""
    quiet = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return {"model_type": "gpt2", **BASE, **quiet, **ends, **case.config}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Checkpoint keys and shapes, defined independently of the package."""
    d, f = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    result = {"transformer.wte.weight": (config["vocab_size"], d)}
    result["transformer.wpe.weight"] = (config["n_positions"], d)
    for i in range(config["n_layer"]):
        parts = {"ln_1": None, "attn.c_attn": 3 * d, "attn.c_proj": d, "ln_2": None}
        parts |= {"mlp.c_fc": f, "mlp.c_proj": d}
        if config.get("add_cross_attention"):
            parts |= {"ln_cross_attn": None, "crossattention.c_attn": 2 * d}
            parts |= {"crossattention.q_attn": d, "crossattention.c_proj": d}
        for part, width in parts.items():
            key = f"transformer.h.{i}.{part}"
            fan_in = f if part == "mlp.c_proj" else d
            result[f"{key}.weight"] = (d,) if width is None else (fan_in, width)
            result[f"{key}.bias"] = (d,) if width is None else (width,)
    result["transformer.ln_f.weight"] = result["transformer.ln_f.bias"] = (d,)
    if not config.get("tie_word_embeddings", True):
        result["lm_head.weight"] = (config["vocab_size"], d)
    return result


def weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights, large enough that attention is far from even."""
    random = np.random.RandomState(seed)
    result = {}
    for key, shape in shapes(config).items():
        values = random.standard_normal(shape)
        scale = 0.3 if len(shape) == 2 else 0.1
        centre = 1.0 if ".ln_" in key and key.endswith("weight") else 0.0
        result[key] = (centre + scale * values).astype(np.float32)
    return result


def inputs(case: Case, seed: int = 1) -> dict[str, np.ndarray]:
    """The inputs that a case names, under the names of the model's arguments."""
    config, random = config_of(case), np.random.RandomState(seed)
    left = np.ones((ROWS, LENGTH), np.int64)
    left[1, :3] = 0
    everything = {
        "input_ids": random.randint(0, config["vocab_size"], (ROWS, LENGTH)),
        "token_type_ids": random.randint(0, config["vocab_size"], (ROWS, LENGTH)),
        "position_ids": np.maximum(np.cumsum(left, 1) - 1, 0),
        "left_mask": left,
        "right_mask": left[:, ::-1].copy(),
        "inputs_embeds": random.standard_normal((ROWS, LENGTH, config["n_embd"])),
        "head_mask": random.randint(0, 2, (config["n_layer"], config["n_head"])),
        "encoder_hidden_states": random.standard_normal((ROWS, ENCODER, config["n_embd"])),
        "encoder_attention_mask": np.array([[1, 1, 1, 1, 0], [0, 1, 0, 1, 1]]),
        "encoder_attention_mask_3d": random.randint(0, 2, (ROWS, LENGTH, ENCODER)),
    }
    everything["encoder_attention_mask_3d"][..., 0] = 1  # every token attends to something
    result = {}
    for name in case.inputs:
        value = everything[name]
        value = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        argument = name.removesuffix("_3d")
        result["attention_mask" if argument in ("left_mask", "right_mask") else argument] = value
    return result


def split_calls(case: Case, given: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The inputs of each call: one, or two when the case has a past."""
    if not case.past:
        return [given]
    per_token = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
    first = {n: v[:, : case.past] if n in (*per_token, "attention_mask") else v
             for n, v in given.items()}  # fmt: skip
    second = {n: v[:, case.past :] if n in per_token else v for n, v in given.items()}
    return [first, second]


def valid_tokens(case: Case) -> np.ndarray:
    """bool `[B, T]`: the tokens of the last call, padding excluded, whose results are compared."""
    mask = inputs(case).get("attention_mask", np.ones((ROWS, LENGTH)))
    return mask[:, case.past :] > 0


def run(model, case: Case):
    """The results of our model for the last call of a case."""
    past = None
    for given in split_calls(case, inputs(case)):
        out = model(
            **given,
            labels=given.get("input_ids"),
            past_key_values=past,
            output_hidden_states=True,
            output_attentions=True,
        )
        past = out.past_key_values
    return out


def assert_same_results(outputs, expected, case: Case, record_difference, name: str) -> None:
    """Compares every expected field at the tokens that are not padding."""
    valid = valid_tokens(case)
    for field, theirs in expected.items():
        theirs = [np.asarray(part) for part in theirs]
        ours = outputs[field]
        ours = [np.asarray(x) for x in (ours if isinstance(ours, (list, tuple)) else [ours])]
        assert [x.shape for x in ours] == [x.shape for x in theirs], field
        for x, y in zip(ours, theirs, strict=True):
            if field in ("logits", "hidden_states"):
                x, y = x[valid], y[valid]
            elif field in ("attentions", "cross_attentions"):
                x, y = x.swapaxes(1, 2)[valid], y.swapaxes(1, 2)[valid]
            difference = np.abs(x - y).max()
            record_difference(f"{name}: {field}", difference)
            assert difference < 1e-4, (field, difference)


def flat_outputs(name: str, outputs: dict) -> dict[str, np.ndarray]:
    """Results by `name/field/index`, as the golden file stores them."""
    result = {}
    for field, value in outputs.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        for i, part in enumerate(parts):
            result[f"{name}/{field}/{i}"] = np.asarray(part, np.float32)
    return result

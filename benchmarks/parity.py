"""Print the differences from PyTorch transformers: head x flag x dtype.

    python benchmarks/parity.py            # needs the extra `parity` (torch, transformers)

Each row builds a random model, saves it, loads it with PyTorch transformers, and compares all float
outputs, the loss and (in float32) every gradient. The numbers are largest absolute differences;
that of a gradient is divided by the gradient's largest entry if that exceeds 1.
"""

import os
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf
import torch
import transformers

import tfgpt2
from tfgpt2 import GPT2Config
from tfgpt2.checkpoints.names import key_from_path

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SHAPE = {
    "vocab_size": 97,
    "n_positions": 32,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.15,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
    "classifier_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
RNG = np.random.default_rng(0)
IDS = RNG.integers(2, 97, (3, 11))
MASK = np.arange(11) < np.array([[11], [8], [3]])
PADDED = {"input_ids": np.where(MASK, IDS, 0), "attention_mask": MASK.astype("int64")}
ENCODER = {"encoder_hidden_states": RNG.normal(size=(3, 5, 48)).astype("float32")}
CHOICES = RNG.integers(2, 97, (2, 3, 9))

HEADS = {
    "Model": PADDED,
    "LMHeadModel": PADDED | {"labels": np.where(MASK, IDS, -100)},
    "DoubleHeadsModel": {
        "input_ids": CHOICES,
        "mc_token_ids": np.array([[8, 3, 5], [1, 8, 2]]),
        "labels": CHOICES,
        "mc_labels": np.array([2, 0]),
    },
    "ForSequenceClassification": PADDED | {"labels": np.array([1, 0, 1])},
    "ForTokenClassification": PADDED | {"labels": np.where(MASK, IDS % 2, -100)},
    "ForQuestionAnswering": PADDED
    | {"start_positions": np.array([1, 2, 0]), "end_positions": np.array([3, 2, 50])},
}
FLAGS = {
    "defaults": {},
    "n_inner=80": {"n_inner": 80},
    "scale_attn_weights=False": {"scale_attn_weights": False},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "reorder_and_upcast_attn": {"reorder_and_upcast_attn": True},
    "tie_word_embeddings=False": {"tie_word_embeddings": False},
    "add_cross_attention": {"add_cross_attention": True},
    "activation relu": {"activation_function": "relu"},
    "activation silu": {"activation_function": "silu"},
    "activation gelu": {"activation_function": "gelu"},
    "activation tanh": {"activation_function": "tanh"},
    "attn_implementation=blockwise": {"attn_implementation": "blockwise"},
}
OUTPUTS = ("loss", "mc_loss", "logits", "mc_logits", "start_logits", "end_logits",
           "last_hidden_state")  # fmt: skip


def main() -> None:
    """Print the table as Markdown."""
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, PyTorch {torch.__version__},"
          f" transformers {transformers.__version__}\n")  # fmt: skip
    print("| head | flag | dtype | outputs | hidden states | gradients |")
    print("|---|---|---|---|---|---|")
    for head, inputs in HEADS.items():
        for flag, changes in FLAGS.items():
            if flag == "add_cross_attention" and head not in ("Model", "LMHeadModel"):
                continue  # the other heads take no encoder states
            given = inputs | (ENCODER if flag == "add_cross_attention" else {})
            print(f"| {head} | {flag} | float32 |{row(head, changes, given, 'float32')}")
        for dtype in ("bfloat16", "float16"):
            print(f"| {head} | defaults | {dtype} |{row(head, {}, HEADS[head], dtype)}")


def row(head: str, changes: dict, inputs: dict, dtype: str) -> str:
    """Compare one model; return the last cells of its line."""
    with tempfile.TemporaryDirectory() as directory:
        ours = getattr(tfgpt2, f"TFGPT2{head}")(GPT2Config.from_dict(SHAPE | changes))
        for weight in ours.weights:
            weight.assign_add(np.random.default_rng(1).normal(0, 0.05, weight.shape))
        ours.save_pretrained(directory)
        plain = {"attn_implementation": "eager"}
        theirs = getattr(transformers, f"GPT2{head}").from_pretrained(directory, **plain).eval()
        if dtype != "float32":
            ours = type(ours).from_pretrained(directory, dtype=dtype)
            theirs = theirs.to(getattr(torch, dtype))
    extra = {"output_hidden_states": True}
    expected = theirs(**{k: torch.tensor(v) for k, v in inputs.items()}, **extra)
    with tf.GradientTape() as tape:
        found = ours(inputs, **extra)
        loss = sum(found[name] for name in ("loss", "mc_loss") if name in found)
    outputs = max(difference(found[n], expected[n]) for n in OUTPUTS if n in found)
    hidden = max(map(difference, found.hidden_states, expected.hidden_states))
    gradients = "-"
    if dtype == "float32" and "loss" in found:
        gradients = f"{gradient_difference(ours, theirs, tape, loss, expected):.1e}"
    return f" {outputs:.1e} | {hidden:.1e} | {gradients} |"


def difference(found: tf.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference of two tensors."""
    found = tf.cast(found, tf.float32).numpy().reshape(tuple(expected.shape))
    return float(np.abs(found - expected.detach().float().numpy()).max())


def gradient_difference(ours, theirs, tape, loss, expected) -> float:
    """Largest difference over all gradients, relative where they exceed 1."""
    sum(expected[name] for name in ("loss", "mc_loss") if name in expected).backward()
    named = dict(theirs.named_parameters())
    worst = 0.0
    values = [weight.value for weight in ours.weights]
    for weight, gradient in zip(ours.weights, tape.gradient(loss, values), strict=True):
        reference = named[key_from_path(weight.path)].grad
        if gradient is not None and reference is not None:
            scale = max(1.0, float(reference.abs().max()))
            worst = max(worst, difference(tf.convert_to_tensor(gradient), reference) / scale)
    return worst


if __name__ == "__main__":
    main()

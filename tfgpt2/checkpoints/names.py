"""Names of a weight: its path in the Keras model and its key in a checkpoint of transformers."""

from __future__ import annotations

import re

from tfgpt2.errors import value_error

# The parts of a model: the transformer, and the heads that a class may add to it.
HEADS = ("lm_head", "multiple_choice_head", "score", "classifier", "qa_outputs")
_PARTS = ("transformer", *HEADS)
_BODY = ("wte", "wpe", "h", "ln_f")  # the transformer's layers, which the bare model's keys name
# Everything before the last part in a weight's path is the name of the model and of the layers
# that contain it; they may have the name of a part.
_PATH = re.compile(rf"^(?:.*/)?((?:{'|'.join(_PARTS)})/.+)$")

# Buffers in old PyTorch checkpoints: the causal mask and its value.
_BUFFERS = re.compile(r"(?:^|\.)(?:attn|crossattention)\.(?:bias|masked_bias)$")


def key_from_path(path: str) -> str:
    """Returns the checkpoint key of a weight.

    Args:
        path: Path of a Keras variable in a model of this package.

    Returns:
        The key under which PyTorch transformers stores it.

    Raises:
        ValueError: The path does not contain a part of a GPT-2 model.

    Example:
        >>> key_from_path("my_model/transformer/h_0/attn/c_attn/weight")
        'transformer.h.0.attn.c_attn.weight'
    """
    match = _PATH.match(path)
    if match is None:
        raise value_error(
            f"The path must contain a part of a GPT-2 model: {', '.join(_PARTS)}.",
            fix="Pass the path of a weight of a model of this package.",
            path=path,
        )
    return re.sub(r"(^|\.)h_(\d+)\.", r"\1h.\2.", match[1].replace("/", "."))


def with_prefix(key: str) -> str:
    """Returns the key that a weight has in a model with a head.

    Checkpoints of the bare `GPT2Model` (the original `gpt2` is one) leave out `transformer.`.
    Keys of parts that no GPT-2 model has stay as they are.

    Example:
        >>> with_prefix("h.0.ln_1.bias"), with_prefix("lm_head.weight"), with_prefix("v_head.bias")
        ('transformer.h.0.ln_1.bias', 'lm_head.weight', 'v_head.bias')
    """
    return f"transformer.{key}" if part(key) in _BODY else key


def part(key: str) -> str:
    """Returns the part of the model that a key belongs to.

    Example:
        >>> part("lm_head.weight")
        'lm_head'
    """
    return key.partition(".")[0]


def is_buffer(key: str) -> bool:
    """Whether a key names a constant buffer, not a weight.

    Example:
        >>> is_buffer("transformer.h.0.attn.bias"), is_buffer("transformer.h.0.attn.c_attn.bias")
        (True, False)
    """
    return _BUFFERS.search(key) is not None

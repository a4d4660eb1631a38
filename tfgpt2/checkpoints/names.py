"""What a weight is called: its path in the Keras model, its key in a transformers checkpoint."""

from __future__ import annotations

import re

# The parts a model is made of: the transformer and the heads that a class may add to it.
HEADS = ("lm_head", "multiple_choice_head", "score", "classifier", "qa_outputs")
_PARTS = ("transformer", *HEADS)
# Everything before the last part in a weight's path is the name of the model and of whatever it
# was built inside, which may be called like a part.
_TAIL = re.compile(rf"^(?:.*/)?((?:{'|'.join(_PARTS)})/.+)$")

# Buffers that old PyTorch checkpoints hold beside the weights: the causal mask and its value.
_BUFFERS = re.compile(r"(?:^|\.)(?:attn|crossattention)\.(?:bias|masked_bias)$")


def key_from_path(path: str) -> str:
    """Returns the checkpoint key of a weight.

    Args:
        path: Path of a Keras variable of one of our models.

    Returns:
        The key under which PyTorch transformers stores it.

    Raises:
        ValueError: The path is none of ours.

    Example:
        >>> key_from_path("my_model/transformer/h_0/attn/c_attn/weight")
        'transformer.h.0.attn.c_attn.weight'
    """
    match = _TAIL.match(path)
    if match is None:
        raise ValueError(f"No part of a GPT-2 model is named in the path {path!r}.")
    return re.sub(r"(^|\.)h_(\d+)\.", r"\1h.\2.", match[1].replace("/", "."))


def with_prefix(key: str) -> str:
    """Returns the key as a model with a head has it.

    Checkpoints of the bare `GPT2Model` (the original `gpt2` is one) leave out `transformer.`.

    Example:
        >>> with_prefix("h.0.ln_1.bias"), with_prefix("lm_head.weight")
        ('transformer.h.0.ln_1.bias', 'lm_head.weight')
    """
    return key if part(key) in _PARTS else f"transformer.{key}"


def part(key: str) -> str:
    """Returns the part of the model that a key belongs to.

    Example:
        >>> part("lm_head.weight")
        'lm_head'
    """
    return key.partition(".")[0]


def is_buffer(key: str) -> bool:
    """Says whether a key names a constant and not a weight.

    Example:
        >>> is_buffer("transformer.h.0.attn.bias"), is_buffer("transformer.h.0.attn.c_attn.bias")
        (True, False)
    """
    return _BUFFERS.search(key) is not None

"""Attention and hidden states of a generation, from one forward pass over the finished sequences.

Causal attention sees the same tokens in one pass as it saw one by one, so the decode loop carries
none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.inputs import GenerateInputs
from tfgpt2.nn.kv_cache import positions_from_mask


def forward_outputs(
    model: Any, config: GenerationConfig, inputs: GenerateInputs, new: np.ndarray, ended: np.ndarray
) -> dict[str, Any]:
    """Returns `attentions`, `cross_attentions` and `hidden_states`, as far as they are asked for.

    Args:
        model: The model that generated.
        config: What was asked.
        inputs: The prompts.
        new: int `[R, T]`, new tokens.
        ended: bool `[R, T]`, where a row had ended.

    Raises:
        ValueError: The sequence began with a prefix, whose embeddings are gone.
    """
    wanted = {n: True for n in ("output_attentions", "output_hidden_states") if getattr(config, n)}
    if not wanted:
        return {}
    if not new.shape[1]:
        names = {"output_attentions": ["attentions"], "output_hidden_states": ["hidden_states"]}
        if inputs.encoder is not None:
            names["output_attentions"].append("cross_attentions")
        return {name: () for option in wanted for name in names[option]}
    if inputs.prefix is not None and not inputs.covered:
        raise value_error(
            "Attention and hidden states are not given for sequences that continue a prefix.",
            fix="Pass the whole sequence as input_ids.",
            **wanted,
        )
    returns = len(new) // len(inputs.mask)
    mask = np.concatenate([inputs.mask.repeat(returns, axis=0), ~ended], axis=1).astype(np.int32)
    read = {"attention_mask": tf.constant(mask), "position_ids": positions_from_mask(mask)}
    if inputs.embeds is None:
        read["input_ids"] = tf.constant(
            np.concatenate([inputs.ids.repeat(returns, 0), new], axis=1)
        )
    else:
        prompt = tf.repeat(inputs.embeds, returns, axis=0)
        read["inputs_embeds"] = tf.concat([prompt, model.embed(tf.constant(new))], axis=1)
    if inputs.token_types is not None:
        types = inputs.token_types.repeat(returns, 0)
        later = np.repeat(types[:, -1:], new.shape[1], axis=1)
        read["token_type_ids"] = tf.constant(np.concatenate([types, later], axis=1))
    if inputs.encoder is not None:
        read["encoder_hidden_states"] = tf.repeat(inputs.encoder.states, returns, axis=0)
        seen = tf.cast(inputs.encoder.visible, tf.int32)
        read["encoder_attention_mask"] = tf.repeat(seen, returns, axis=0)
    out = model(**read, use_cache=False, **wanted)
    first, steps = inputs.mask.shape[1], new.shape[1]
    found: dict[str, Any] = {}
    if "output_attentions" in wanted:
        found["attentions"] = _by_token(out.attentions, first, steps, axis=2, causal=True)
        if inputs.encoder is not None:
            found["cross_attentions"] = _by_token(out.cross_attentions, first, steps, axis=2)
    if "output_hidden_states" in wanted:
        found["hidden_states"] = _by_token(out.hidden_states, first, steps, axis=1)
    return found


def _by_token(
    layers: Sequence[tf.Tensor], first: int, steps: int, *, axis: int, causal: bool = False
) -> tuple[tuple[tf.Tensor, ...], ...]:
    """Cuts each layer's tensor into what each new token was chosen from."""
    found = []
    for step in range(steps):
        begin, end = (0, first) if step == 0 else (first + step - 1, first + step)
        cut = [slice(None)] * axis + [slice(begin, end)]
        cut += [slice(0, end)] if causal else []
        found.append(tuple(layer[tuple(cut)] for layer in layers))
    return tuple(found)

"""Attention and hidden states of a generation, from reading the finished text once more.

Causal attention sees the same tokens in one pass as it saw one by one, so nothing has to be
carried through the decode loop for those who want to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.inputs import Inputs
from tfgpt2.nn.cache import positions_from_mask


def replay(
    model: Any, config: GenerationConfig, texts: Inputs, new: np.ndarray, ended: np.ndarray
) -> dict[str, Any]:
    """Returns `attentions`, `cross_attentions` and `hidden_states`, as far as they are asked for.

    Args:
        model: The model that generated.
        config: What was asked.
        texts: The prompts.
        new: int `[R, T]`, new tokens.
        ended: bool `[R, T]`, where a row had ended.

    Raises:
        ValueError: The text began with a prefix, of which there are no embeddings to read again.
    """
    wanted = {n: True for n in ("output_attentions", "output_hidden_states") if getattr(config, n)}
    if not wanted:
        return {}
    if texts.prefix is not None and not texts.covered:
        raise ValueError(
            explain(
                "Attention and hidden states are not given for texts that go on from a prefix.",
                fix="Pass the whole text as input_ids.",
                **wanted,
            )
        )
    returns = len(new) // len(texts.mask)
    mask = np.concatenate([texts.mask.repeat(returns, axis=0), ~ended], axis=1).astype(np.int32)
    read = {"attention_mask": tf.constant(mask), "position_ids": positions_from_mask(mask)}
    if texts.embeds is None:
        read["input_ids"] = tf.constant(np.concatenate([texts.ids.repeat(returns, 0), new], axis=1))
    else:
        prompt = tf.repeat(texts.embeds, returns, axis=0)
        read["inputs_embeds"] = tf.concat([prompt, model.embed(tf.constant(new))], axis=1)
    if texts.encoder is not None:
        read["encoder_hidden_states"] = tf.repeat(texts.encoder.states, returns, axis=0)
        seen = tf.cast(texts.encoder.visible, tf.int32)
        read["encoder_attention_mask"] = tf.repeat(seen, returns, axis=0)
    out = model(**read, use_cache=False, **wanted)
    first, steps = texts.mask.shape[1], new.shape[1]
    found: dict[str, Any] = {}
    if "output_attentions" in wanted:
        found["attentions"] = _by_token(out.attentions, first, steps, axis=2, causal=True)
        if texts.encoder is not None:
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

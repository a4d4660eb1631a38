"""The optional outputs of a model call, and the shape of outputs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error
from tfgpt2.models.call_inputs import CallInputs
from tfgpt2.nn.backbone import ForwardOutputs


def unflatten(x: tf.Tensor, inputs: CallInputs) -> tf.Tensor:
    """Restores the leading axes of the inputs: `[B, T, C]` -> `[..., T, C]`."""
    rank = inputs.shape.shape[0]
    if rank == 2:
        return x
    return tf.reshape(x, tf.concat([inputs.shape, tf.shape(x)[-1:]], axis=0))


def optional_outputs(
    config: GPT2Config,
    inputs: CallInputs,
    outputs: ForwardOutputs,
    *,
    use_cache: bool | None,
    output_attentions: bool | None,
    output_hidden_states: bool | None,
) -> dict[str, Any]:
    """Collects the optional outputs that the call or else the configuration requests.

    Args:
        config: The configuration, for flags that are None.
        inputs: The checked inputs.
        outputs: What the transformer computed.
        use_cache: Whether `past_key_values` is returned.
        output_attentions: Whether the attention weights are returned.
        output_hidden_states: Whether all hidden states are returned.

    Raises:
        ValueError: An output is requested that was not kept.
    """
    results: dict[str, Any] = {}
    wants_cache = config.use_cache if use_cache is None else use_cache
    wants_attention = config.output_attentions if output_attentions is None else output_attentions
    if wants_cache and (outputs.keys_values or use_cache):
        reason = "Gradient checkpointing keeps no cache."
        _check_kept(outputs.keys_values, "past_key_values", reason)
        results["past_key_values"] = tuple(tf.stack(pair) for pair in outputs.keys_values)
    if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
        results["hidden_states"] = tuple(unflatten(x, inputs) for x in outputs.hidden_states)
    if wants_attention:
        reason = "Blockwise attention and gradient checkpointing do not keep the attention weights."
        _check_kept(outputs.attentions, "attentions", reason)
        results["attentions"] = outputs.attentions
        if outputs.cross_attentions:
            results["cross_attentions"] = outputs.cross_attentions
    return results


def _check_kept(values: tuple[Any, ...], name: str, reason: str) -> None:
    if not values:
        raise value_error(
            f"`{name}` cannot be returned. {reason}",
            fix="Use attn_implementation='eager' and gradient_checkpointing_disable().",
            output=name,
        )

"""KerasHub's GPT-2 models in memory: their weights and configuration."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.readers.keras_hub import (
    FIELDS,
    KerasHubReader,
    Part,
    fields_from_backbone,
)
from tfgpt2.errors import type_error


def read_backbone(model: Any) -> tuple[KerasHubReader, dict[str, Any]]:
    """Reads a `keras_hub.models.GPT2Backbone`, or a task that has one.

    Args:
        model: The model.

    Returns:
        A reader of its weights, and the fields of a `GPT2Config`.

    Raises:
        TypeError: It is not a GPT-2 model of KerasHub.
    """
    backbone = getattr(model, "backbone", model)
    if "GPT2Backbone" not in [kind.__name__ for kind in type(backbone).__mro__]:
        raise type_error(
            "Expected a `keras_hub.models.GPT2Backbone` or a task that has one.",
            fix="Pass the model itself; for a preset on disk, its directory.",
            model=type(model).__name__,
        )
    parts = {
        key: tuple(map(_part_of, variables))
        for key, variables in backbone_variables(backbone).items()
    }
    fields = fields_from_backbone({name: getattr(backbone, name) for name in (*FIELDS, "dropout")})
    if (preprocessor := getattr(model, "preprocessor", None)) is not None:
        fields["bos_token_id"] = preprocessor.tokenizer.start_token_id
        fields["eos_token_id"] = preprocessor.tokenizer.end_token_id
    return KerasHubReader(parts), fields


def _part_of(variable: keras.Variable) -> Part:
    dtype = np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype)
    return Part(tuple(variable.shape), dtype, lambda key: np.asarray(variable.value))


def backbone_variables(backbone: Any) -> dict[str, tuple[keras.Variable, ...]]:
    """Returns the Keras variables of each key, which is without `transformer.`."""
    table: dict[str, tuple[keras.Variable, ...]] = {
        "wte.weight": (backbone.token_embedding.embeddings,),
        "wpe.weight": (backbone.position_embedding.position_embeddings,),
    }
    for i, block in enumerate(backbone.transformer_layers):
        attention = block._self_attention_layer
        norms = {"ln_1": block._self_attention_layer_norm, "ln_2": block._feedforward_layer_norm}
        for name, norm in norms.items():
            table[f"h.{i}.{name}.weight"] = (norm.gamma,)
            table[f"h.{i}.{name}.bias"] = (norm.beta,)
        parts = [attention.query_dense, attention.key_dense, attention.value_dense]
        table[f"h.{i}.attn.c_attn.weight"] = tuple(part.kernel for part in parts)
        table[f"h.{i}.attn.c_attn.bias"] = tuple(part.bias for part in parts)
        maps = {
            "attn.c_proj": attention.output_dense,
            "mlp.c_fc": block._feedforward_intermediate_dense,
            "mlp.c_proj": block._feedforward_output_dense,
        }
        for name, layer in maps.items():
            table[f"h.{i}.{name}.weight"] = (layer.kernel,)
            table[f"h.{i}.{name}.bias"] = (layer.bias,)
    table["ln_f.weight"] = (backbone.layer_norm.gamma,)
    table["ln_f.bias"] = (backbone.layer_norm.beta,)
    return table

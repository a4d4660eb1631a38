"""Between our models and KerasHub's living ones: read from them, make them, write presets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.readers.keras_hub import FIELDS, KerasHubReader, fields_from
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain

_END_OF_TEXT = "<|endoftext|>"  # KerasHub's GPT-2 tokenizer cannot do without it


def reader_of(model: Any) -> KerasHubReader:
    """Reads a living `keras_hub.models.GPT2Backbone`, or a task that has one.

    Args:
        model: The model.

    Returns:
        A reader of its weights.

    Raises:
        TypeError: It is no GPT-2 of KerasHub.
    """
    return KerasHubReader(_Living(), _variables(_backbone_of(model)))


class _Living:
    """Arrays in Keras variables."""

    def shape(self, place: Any) -> tuple[int, ...]:
        return tuple(place.shape)

    def dtype(self, place: Any) -> np.dtype:
        return np.dtype(tf.as_dtype(place.dtype).as_numpy_dtype)

    def read(self, place: Any, key: str) -> np.ndarray:
        return np.asarray(place.value)


def config_from_model(model: Any) -> GPT2Config:
    """Returns the configuration of a living KerasHub GPT-2.

    Args:
        model: A `keras_hub.models.GPT2Backbone`, or a task that has one.

    Raises:
        TypeError: It is no GPT-2 of KerasHub.
    """
    backbone = _backbone_of(model)
    fields = fields_from({name: getattr(backbone, name) for name in (*FIELDS, "dropout")})
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is not None:
        fields["bos_token_id"] = preprocessor.tokenizer.start_token_id
        fields["eos_token_id"] = preprocessor.tokenizer.end_token_id
    return GPT2Config.from_dict(fields)


def _backbone_of(model: Any) -> Any:
    backbone = getattr(model, "backbone", model)
    names = [kind.__name__ for kind in type(backbone).__mro__]
    if "GPT2Backbone" not in names:
        raise TypeError(
            explain(
                "Expected a `keras_hub.models.GPT2Backbone` or a task that has one.",
                fix="Pass the model itself; for a preset on disk, its directory.",
                model=type(model).__name__,
            )
        )
    return backbone


def _variables(backbone: Any) -> dict[str, tuple[Any, ...]]:
    """Returns the Keras variables of each key."""
    table: dict[str, tuple[Any, ...]] = {
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


# Writing --------------------------------------------------------------------------------------


def make_backbone(
    config: GPT2Config, read: Callable[[str], np.ndarray], dtype: str | None = None
) -> Any:
    """Makes a KerasHub backbone with given weights.

    Args:
        config: The model's configuration.
        read: From a key without `transformer.` to its values.
        dtype: Type of the backbone's weights; None is float32.

    Returns:
        A `keras_hub.models.GPT2Backbone`.

    Raises:
        ValueError: The model does something that KerasHub's GPT-2 does not.
    """
    from keras_nlp.models import GPT2Backbone

    check_writable(config)
    options = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    options["intermediate_dim"] = config.inner_size
    backbone = GPT2Backbone(**options, dropout=config.resid_pdrop, dtype=dtype or "float32")
    for key, variables in _variables(backbone).items():
        parts = np.split(read(key), len(variables), axis=-1)
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))
    return backbone


def check_writable(config: GPT2Config) -> None:
    """Raises where a model does something that KerasHub's GPT-2 does not.

    Raises:
        ValueError: Names the fields of the configuration.
    """
    wanted = {
        "tie_word_embeddings": True,
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "layer_norm_epsilon": 1e-5,
    }
    odd = {name: getattr(config, name) for name, value in wanted.items()}
    odd = {name: value for name, value in odd.items() if value != wanted[name]}
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        odd["activation_function"] = config.activation_function
    if odd:
        raise ValueError(
            explain(
                "KerasHub's GPT-2 has one fixed form, and this model differs from it.",
                fix="Store it as safetensors.",
                **odd,
            )
        )
    rates = {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop}
    if len(rates) > 1:
        warnings.warn(
            f"KerasHub has one dropout rate; of {sorted(rates)} it gets {config.resid_pdrop}.",
            stacklevel=3,
        )


def write(
    backbone: Any,
    directory: Path,
    *,
    vocabulary: Mapping[str, int] | None = None,
    merges: Sequence[str] | None = None,
) -> bool:
    """Writes a preset that KerasHub's `from_preset` loads.

    Args:
        backbone: What `make_backbone` returned.
        directory: Folder to write to.
        vocabulary: Ids by token, to store a `GPT2CausalLM` with its tokenizer.
        merges: The merges, "left right", most important first.

    Returns:
        Whether the tokenizer was stored too: KerasHub's needs a token <|endoftext|>.
    """
    from keras_nlp import models

    if vocabulary is None or _END_OF_TEXT not in vocabulary:
        backbone.save_to_preset(str(directory))
        return False
    tokenizer = models.GPT2Tokenizer(vocabulary=dict(vocabulary), merges=list(merges or ()))
    preprocessor = models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=backbone.max_sequence_length
    )
    models.GPT2CausalLM(backbone, preprocessor=preprocessor).save_to_preset(str(directory))
    return True

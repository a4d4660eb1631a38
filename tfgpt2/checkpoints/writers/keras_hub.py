"""KerasHub presets that `from_preset` loads; needs KerasHub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.checkpoints.names import with_prefix
from tfgpt2.checkpoints.readers.keras_hub import FIELDS
from tfgpt2.checkpoints.readers.keras_hub_backbone import backbone_variables
from tfgpt2.checkpoints.writers.base import CheckpointWriter, Content
from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error

_END_OF_TEXT = "<|endoftext|>"  # KerasHub's GPT-2 tokenizer requires it
# KerasHub's GPT-2 has these values and no options for them.
_FIXED_FIELDS = {
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "layer_norm_epsilon": 1e-5,
}


class KerasHubWriter(CheckpointWriter):
    """Writes a preset: a `GPT2CausalLM` with its tokenizer, or a `GPT2Backbone` without."""

    format = "keras_hub"
    keeps_tokenizer_files = False

    def write(self, content: Content, directory: Path) -> list[str]:
        """Writes weights, configuration and tokenizer; see `CheckpointWriter.write`."""
        _, config, vocabulary = content
        _check_representable(config)
        from keras_nlp import models

        backbone = _make_backbone(models.GPT2Backbone, content)
        notes = []
        rates = {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop}
        if len(rates) > 1:
            notes.append(
                f"KerasHub has one dropout rate; of {sorted(rates)} it gets {config.resid_pdrop}."
            )
        if vocabulary is None or _END_OF_TEXT not in vocabulary.ids:
            reason = (
                "the source has none" if vocabulary is None else f"KerasHub's needs {_END_OF_TEXT}"
            )
            notes.append(f"The preset is a backbone without a tokenizer: {reason}.")
            backbone.save_to_preset(str(directory))
            return notes
        tokenizer = models.GPT2Tokenizer(vocabulary=vocabulary.ids, merges=vocabulary.merges)
        preprocessor = models.GPT2CausalLMPreprocessor(
            tokenizer, sequence_length=backbone.max_sequence_length
        )
        models.GPT2CausalLM(backbone, preprocessor=preprocessor).save_to_preset(str(directory))
        return notes


def _check_representable(config: GPT2Config) -> None:
    """Raises ValueError when a model does something that KerasHub's GPT-2 does not."""
    architecture = (config.architectures or [""])[0]
    if architecture not in ("GPT2Model", "GPT2LMHeadModel"):
        raise value_error(
            "KerasHub's GPT-2 has no head for this model.",
            fix="Store it as safetensors.",
            architecture=architecture,
        )
    fields = {name: getattr(config, name) for name in _FIXED_FIELDS}
    different = {name: value for name, value in fields.items() if value != _FIXED_FIELDS[name]}
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        different["activation_function"] = config.activation_function
    if different:
        raise value_error(
            "KerasHub's GPT-2 has one fixed form, and this model differs from it.",
            fix="Store it as safetensors.",
            **different,
        )


def _make_backbone(backbone_class: type, content: Content) -> Any:
    """Returns a `keras_hub.models.GPT2Backbone` with a model's weights, in their stored type."""
    tensors, config, _ = content
    options = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    options["intermediate_dim"] = config.inner_size
    backbone = backbone_class(**options, dropout=config.resid_pdrop, dtype=config.dtype)
    by_key = {tensor.key: tensor for tensor in tensors}
    for key, variables in backbone_variables(backbone).items():
        values = by_key[with_prefix(key)].read()
        parts = np.split(values, len(variables), axis=-1)
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))
    return backbone

"""The model that a training begins with."""

from __future__ import annotations

from typing import Any

from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.training import lora, recipes
from tfgpt2.training.settings import TrainSettings


def make_model(settings: TrainSettings, tokenizer: Any, dtype: str) -> TFGPT2LMHeadModel:
    """Loads a checkpoint, or makes fresh weights, and freezes and adapts as settings say.

    Args:
        settings: The settings.
        tokenizer: Its vocabulary's size and end token are a fresh model's.
        dtype: Keras dtype policy.

    Raises:
        ValueError: The settings, the vocabulary and the model do not fit together.
        FileNotFoundError: There is no such checkpoint.
    """
    s = settings
    if s.dropout is None:
        changes: dict[str, Any] = {}
    else:
        changes = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), float(s.dropout))
    if s.blockwise:
        changes["attn_implementation"] = "blockwise"
    if s.model:
        model = TFGPT2LMHeadModel.from_pretrained(s.model, dtype=dtype, **changes)
    else:
        shape = {name: getattr(s, name) for name in ("n_layer", "n_head", "n_embd", "n_positions")}
        ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = GPT2Config(
            vocab_size=tokenizer.vocab_size,
            **{name: value for name, value in shape.items() if value is not None},
            **{name: value for name, value in ends.items() if value is not None},
            **changes,
        )
        model = TFGPT2LMHeadModel(config, dtype=dtype)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            explain(
                "The tokenizer has more tokens than the model.",
                fix="Use the model's own tokenizer.",
                tokenizer=tokenizer.vocab_size,
                model=model.config.vocab_size,
            )
        )
    if s.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if s.lora_rank:
        lora.enable_lora(model, s.lora_rank, s.lora_alpha, targets=s.lora_targets)
    recipes.freeze(model, *s.freeze)
    if not model.trainable_variables:
        raise ValueError(
            explain("Everything is frozen.", fix="Leave something to train.", freeze=s.freeze)
        )
    return model

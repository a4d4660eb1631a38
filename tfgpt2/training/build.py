"""Construction of the model and its optimizer from the settings of a training run."""

from __future__ import annotations

from typing import Any

from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.training import lora, recipes
from tfgpt2.training.plan import TrainingPlan
from tfgpt2.training.schedules import schedule
from tfgpt2.training.settings import TrainSettings

_LARGE_LOGITS = 2**28  # bytes, from which the chunked loss is the default


def make_model(settings: TrainSettings, tokenizer: Any, dtype: str) -> TFGPT2LMHeadModel:
    """Loads a checkpoint or initializes a new model, and freezes parts and adds adapters.

    Args:
        settings: The settings.
        tokenizer: Determines vocabulary size and end token of a new model.
        dtype: Keras dtype policy.

    Raises:
        ValueError: Settings, vocabulary and model do not match.
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
        raise value_error(
            "The tokenizer has more tokens than the model.",
            fix="Use the model's own tokenizer.",
            tokenizer=tokenizer.vocab_size,
            model=model.config.vocab_size,
        )
    if s.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if s.lora_rank:
        lora.enable_lora(model, s.lora_rank, s.lora_alpha, targets=s.lora_targets)
    recipes.freeze(model, *s.freeze)
    if not model.trainable_variables:
        raise value_error("All weights are frozen.", fix="Freeze fewer parts.", freeze=s.freeze)
    return model


def compile_model(model: TFGPT2LMHeadModel, settings: TrainSettings, plan: TrainingPlan) -> None:
    """Compiles a model with the optimizer, learning-rate schedule and loss of the settings."""
    s = settings
    rate = schedule(s.schedule, s.learning_rate, plan.steps, warmup=plan.warmup, floor=plan.floor)
    optimizer = recipes.adamw(
        model, rate, weight_decay=s.weight_decay, beta_1=s.beta_1, beta_2=s.beta_2,
        clip_norm=s.clip_norm, accumulate=s.accumulate, ema=s.ema,
    )  # fmt: skip
    optimizer.keep_weights = True
    chunked = s.chunked_loss
    if chunked is None:
        chunked = s.batch_size * plan.block * model.config.vocab_size * 4 > _LARGE_LOGITS
    model.compile(
        optimizer, chunked_loss=chunked, label_smoothing=s.label_smoothing, z_loss=s.z_loss
    )

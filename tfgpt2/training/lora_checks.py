"""Checks of the arguments of `tfgpt2.training.lora`, and of the state of a model's adapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfgpt2.checkpoints.lora_adapters import match_targets
from tfgpt2.checkpoints.names import part
from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.nn import lora


def _names(model: Any) -> list[str]:
    return [] if model.adapters is None else list(model.adapters.named)


def check_new_adapter(model: Any, name: Any) -> None:
    """Checks that an adapter of this name can be added.

    Raises:
        TypeError: The model is not one of this package.
        ValueError: The name is invalid or taken, or an adapter is merged.
    """
    if not isinstance(model, TFGPT2PreTrainedModel):
        raise type_error(
            "Adapters belong to a model of this package.",
            fix="Pass TFGPT2LMHeadModel.from_pretrained(...); of a TextGenerator, its `model`.",
            model=model,
        )
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise value_error(
            "An adapter's name consists of letters, digits, '_', '-' and '.'.",
            fix="Choose a name such as 'default'.",
            name=name,
        )
    if name in _names(model):
        raise value_error(
            "The model already has an adapter of this name.",
            fix="Choose another name, or delete_adapter(model, name) first.",
            name=name,
            adapters=_names(model),
        )
    check_unmerged(model)


def find_targets(targets: str | Sequence[str], keys: list[str]) -> list[str]:
    """Finds the keys of the projections that `targets` selects.

    Raises:
        ValueError: A target is unknown, or there is none.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    found = match_targets(targets, keys)
    for name in targets:
        if not found[name]:
            known = {".".join(key.split(".")[-length:]) for key in keys for length in (1, 2)}
            raise value_error(
                "`targets` must be projections of the model.",
                fix=nearest(str(name), known),
                targets=targets,
            )
    if not targets:
        raise value_error(
            "`targets` is empty, so there is nothing to train.",
            fix="Pass targets=('c_attn',), for example.",
            targets=targets,
        )
    return [key for key in keys if any(key in hits for hits in found.values())]


def find_heads(model: Any, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Finds the weights of the heads that are trained with the adapter.

    Raises:
        ValueError: The model has no such head.
    """
    weights = lora.head_weights(model)
    names = sorted(model.head_parts) if names is None else list(names)
    known = sorted({part(key) for key in weights})
    for name in names:
        if name not in known:
            raise value_error(
                "`modules_to_save` must be heads of the model.",
                fix=nearest(str(name), known) if known else "This model has no head: pass ().",
                modules_to_save=names,
            )
    return {key: weight.numpy() for key, weight in weights.items() if part(key) in names}


def check_adapter(model: Any, name: str) -> None:
    """Raises `ValueError` unless the model has an adapter of this name."""
    if name not in _names(model):
        raise value_error(
            "The model has no adapter of this name.",
            fix=nearest(str(name), _names(model))
            if _names(model)
            else "Call enable_lora(model) or load_adapter(model, directory) first.",
            name=name,
        )


def check_active(model: Any) -> None:
    """Raises `ValueError` unless an adapter is active."""
    if model.adapters is None or model.adapters.active is None:
        raise value_error(
            "No adapter is active.",
            fix="Call enable_lora, load_adapter or set_adapter first.",
            adapters=_names(model),
        )


def check_unmerged(model: Any) -> None:
    """Raises `ValueError` if an adapter is merged."""
    if model.adapters is not None and model.adapters.merged:
        raise value_error(
            "An adapter is merged into the model.",
            fix="Call unmerge_adapter(model), or unload_adapters(model, merge=True), first.",
            adapter=model.adapters.active,
        )

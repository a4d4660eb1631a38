"""LoRA: low-rank adapters of a model, several at once, compatible with PEFT.

    enable_lora(model, rank=8, targets=("c_attn", "c_proj"))    # freezes the base model
    model.compile("adamw"); model.fit(...)                      # trains the adapter alone
    save_adapter(model, "my-adapter")                           # files in PEFT's format
    merge_adapter(model); model.save_pretrained("my-model")     # or a full model

Calls, `fit`, `generate` and exports use the active adapter. An adapter with other targets or a
larger rank than earlier ones changes the model's structure: compile again, and make a new
`TextGenerator`. `set_adapter` between existing adapters only assigns values.

To freeze layers without adapters, set `model.transformer.wte.trainable = False` or
`model.transformer.h[0].trainable = False` before `compile`.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; PEFT 0.21 for the
files and the meaning of the arguments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfgpt2.checkpoints.lora_adapters import Adapter, Factors, read_adapter, write_adapter
from tfgpt2.errors import explain, value_error
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.transformer import TFGPT2Model
from tfgpt2.nn import lora
from tfgpt2.training.lora_checks import (
    check_active,
    check_adapter,
    check_new_adapter,
    check_unmerged,
    find_heads,
    find_targets,
)
from tfgpt2.validation import check_count, check_range

# PEFT's task types of the model classes.
_PEFT_TASKS = {
    "TFGPT2Model": "FEATURE_EXTRACTION",
    "TFGPT2LMHeadModel": "CAUSAL_LM",
    "TFGPT2DoubleHeadsModel": "CAUSAL_LM",
    "TFGPT2ForSequenceClassification": "SEQ_CLS",
    "TFGPT2ForTokenClassification": "TOKEN_CLS",
    "TFGPT2ForQuestionAnswering": "QUESTION_ANS",
}


def enable_lora(
    model: TFGPT2PreTrainedModel,
    rank: int = 8,
    alpha: float | None = None,
    targets: str | Sequence[str] = ("c_attn",),
    dropout: float = 0.0,
    *,
    name: str = "default",
    modules_to_save: Sequence[str] | None = None,
    use_rslora: bool = False,
) -> None:
    """Adds a new adapter to a model, activates it, and freezes all other weights.

    A new adapter does not change the outputs: its second factor is zero. The first is drawn as in
    PEFT, uniformly within `1 / sqrt(in)`.

    Args:
        model: Any model of this package.
        rank: Columns of the first factor, 1 or more.
        alpha: The product is scaled by `alpha / rank`; None is `rank`.
        targets: The projections to adapt: `"c_attn"`, `"c_proj"` (both of them), `"c_fc"`,
            `"q_attn"`, or longer names: `"mlp.c_proj"`, `"h.0.attn.c_attn"`.
        dropout: Dropout rate of the adapter's input in training, in [0, 1).
        name: Name of the adapter.
        modules_to_save: Heads that are trained and saved with it; None is the head of a task class
            (`"score"`, `"classifier"`, ...), `()` is none.
        use_rslora: Scale by `alpha / sqrt(rank)`.

    Raises:
        TypeError: The model is not one of this package.
        ValueError: A target is unknown, a number is out of range, the name is taken, or an adapter
            is merged.

    Example:
        >>> from tfgpt2 import TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> enable_lora(model, rank=4)
        >>> trainable_parameters(model)
        (21504, 3938822)
    """
    check_new_adapter(model, name)
    layers = lora.projections(model)
    alpha = rank if alpha is None else alpha
    check_count("rank", rank, least=1, optional=False)
    check_range("alpha", alpha, 0, np.inf, include_low=False)
    check_range("dropout", dropout, 0, 1)
    keys = find_targets(targets, list(layers))
    for key in keys:
        lora.check_rank(layers[key], key, int(rank))
    shapes = {key: (layers[key].inputs, layers[key].outputs) for key in keys}
    adapter = Adapter(
        layers={
            key: Factors(
                _first_factor(inputs, rank), np.zeros((rank, outputs), np.float32), float(alpha)
            )
            for key, (inputs, outputs) in shapes.items()
        },
        weights=find_heads(model, modules_to_save),
        dropout=float(dropout),
        use_rslora=bool(use_rslora),
    )
    lora.attach(model, name, adapter)
    lora.activate(model, name)


def set_adapter(model: TFGPT2PreTrainedModel, name: str | None) -> None:
    """Activates another adapter; the previous one keeps its trained weights.

    Compiled functions and a `TextGenerator` use it at once. To train it, compile the model again.

    Args:
        model: A model with adapters.
        name: Name of the adapter; None activates the base model alone.

    Raises:
        ValueError: There is no such adapter, or one is merged.
    """
    if name is not None:
        check_adapter(model, name)
    check_unmerged(model)
    if model.adapters is not None and name != model.adapters.active:
        lora.activate(model, name)


def adapter_names(model: TFGPT2PreTrainedModel) -> list[str]:
    """Names of a model's adapters, in the order they were added."""
    return [] if model.adapters is None else list(model.adapters.named)


def active_adapter(model: TFGPT2PreTrainedModel) -> str | None:
    """Name of the active adapter."""
    return None if model.adapters is None else model.adapters.active


def delete_adapter(model: TFGPT2PreTrainedModel, name: str) -> None:
    """Deletes an adapter; after the last one, the base model is trainable again.

    Raises:
        ValueError: There is no such adapter, or one is merged.
    """
    check_adapter(model, name)
    check_unmerged(model)
    if model.adapters.active == name:
        lora.activate(model, None)
    lora.detach(model, name)


def merge_adapter(model: TFGPT2PreTrainedModel) -> None:
    """Merges the active adapter into the kernels, so that `save_pretrained` writes a full model.

    The adapter remains, without effect and not trainable, until `unmerge_adapter`.

    Raises:
        ValueError: No adapter is active, or it is merged already.
    """
    check_unmerged(model)
    check_active(model)
    lora.add_products(model, 1)


def unmerge_adapter(model: TFGPT2PreTrainedModel) -> None:
    """Subtracts the merged adapter from the kernels, exact up to rounding.

    Raises:
        ValueError: No adapter is merged.
    """
    if model.adapters is None or not model.adapters.merged:
        raise value_error(
            "No adapter is merged into this model.",
            fix="Call merge_adapter(model) first.",
            adapters=adapter_names(model),
        )
    lora.add_products(model, -1)


def unload_adapters(model: TFGPT2PreTrainedModel, *, merge: bool = False) -> None:
    """Removes all adapters, which leaves a plain, trainable model.

    Args:
        model: A model with or without adapters.
        merge: Merge the active adapter into the kernels and the head. False restores the base
            model.

    Raises:
        ValueError: `merge` is set and no adapter is active.
    """
    if merge:
        check_active(model)
        if not model.adapters.merged:
            merge_adapter(model)
    state = model.adapters
    if state is None:
        return
    if merge:
        weights = lora.whole_weights(model)
        state.replaced = {key: weights[key].numpy() for key in state.replaced}
        state.merged = False
    elif state.merged:
        unmerge_adapter(model)
    lora.activate(model, None)
    for name in adapter_names(model):
        lora.detach(model, name)


def save_adapter(
    model: TFGPT2PreTrainedModel,
    directory: str | os.PathLike[str],
    name: str | None = None,
    *,
    base: str | None = None,
) -> list[Path]:
    """Writes one adapter in PEFT's format: `PeftModel.from_pretrained` and `load_adapter` read it.

    Args:
        model: A model with adapters.
        directory: Created if necessary.
        name: Name of the adapter; None is the active one.
        base: Name of the base model, stored for PEFT's automatic classes.

    Returns:
        The files written.

    Raises:
        NotADirectoryError: `directory` is a file.
        ValueError: There is no such adapter.
    """
    if name is None:
        check_active(model)
        name = model.adapters.active
    check_adapter(model, name)
    if Path(directory).is_file():
        raise NotADirectoryError(
            explain(
                "An adapter is saved into a directory.",
                fix="Pass a directory.",
                directory=str(directory),
            )
        )
    active = name == model.adapters.active
    return write_adapter(
        lora.current(model) if active else model.adapters.named[name],
        directory,
        keys=lora.projections(model),
        task_type=_PEFT_TASKS[_class_name(model)],
        bare=isinstance(model, TFGPT2Model),
        base=base,
    )


def load_adapter(
    model: TFGPT2PreTrainedModel,
    directory: str | os.PathLike[str],
    name: str = "default",
    **where: Any,
) -> None:
    """Loads an adapter written by `save_adapter` or PEFT, and activates it.

    Args:
        model: The model it was trained on.
        directory: Directory, or name on the hub.
        name: Name of the adapter in this model.
        **where: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`,
            `force_download`.

    Raises:
        FileNotFoundError: There is no such adapter.
        ValueError: A file is damaged, uses more than plain LoRA, or is for another model; or the
            name is taken, or an adapter is merged.
    """
    check_new_adapter(model, name)
    adapter = read_adapter(directory, **where)
    lora.check_fit(model, adapter)
    lora.attach(model, name, adapter)
    lora.activate(model, name)


def trainable_parameters(model: TFGPT2PreTrainedModel) -> tuple[int, int]:
    """Numbers of trainable and of all parameters; adapter slots count by their largest rank."""
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return trained, model.num_parameters()


def print_trainable_parameters(model: TFGPT2PreTrainedModel) -> None:
    """Prints the numbers of trainable and of all parameters."""
    trained, total = trainable_parameters(model)
    print(f"trainable parameters: {trained:,} of {total:,} ({100 * trained / total:.2f} %)")


def _first_factor(inputs: int, rank: int) -> np.ndarray:
    """Draws a first factor `[in, rank]`, reproducible by `keras.utils.set_random_seed`."""
    limit = inputs**-0.5
    return np.asarray(keras.random.uniform((inputs, rank), -limit, limit, dtype="float32"))


def _class_name(model: Any) -> str:
    """Name of the model class of this package that a model is an instance of."""
    return next(kind.__name__ for kind in type(model).__mro__ if kind.__name__ in _PEFT_TASKS)

"""LoRA: train small low-rank adapters of a model, keep several, and exchange them with PEFT.

    enable_lora(model, rank=8, targets=("c_attn", "c_proj"))    # the base is frozen
    model.compile("adamw"); model.fit(...)                      # trains the adapter alone
    save_adapter(model, "my-adapter")                           # PEFT's files
    merge_adapter(model); model.save_pretrained("my-model")     # or a whole model

Whatever runs the model uses the adapter that acts: calls, `fit`, `generate`, exports. An adapter
with other targets or a larger rank than those before changes the model's structure: compile again,
and make a `TextGenerator` anew. Between adapters that are there, `set_adapter` only assigns
numbers.

To freeze layers without adapters, Keras' own switch does: `model.transformer.wte.trainable = False`
or `model.transformer.h[0].trainable = False`, before `compile`.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; PEFT 0.21 for the
files and the meaning of the arguments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfgpt2.checkpoints import adapters as files
from tfgpt2.checkpoints.adapters import Adapter, Factors
from tfgpt2.checkpoints.names import part
from tfgpt2.errors import explain, nearest
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.causal_lm import TFGPT2Model
from tfgpt2.nn import lora

# PEFT's names for the tasks of the model classes.
_TASKS = {
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
    """Adds a fresh adapter to a model, lets it act, and freezes everything else.

    A fresh adapter changes nothing: its second factor is zero. The first is drawn as PEFT draws
    it, uniformly within `1 / sqrt(in)`.

    Args:
        model: Any model of this package.
        rank: Columns of the first factor, 1 or more.
        alpha: The product is scaled by `alpha / rank`; None is `rank`.
        targets: Which projections: `"c_attn"`, `"c_proj"` (both of them), `"c_fc"`, `"q_attn"`,
            or with more of the name: `"mlp.c_proj"`, `"h.0.attn.c_attn"`.
        dropout: Share of a projection's input that is dropped before the adapter in training, in
            [0, 1).
        name: What the adapter is called.
        modules_to_save: Heads that are trained and saved beside; None is the head that a task
            class adds (`"score"`, `"classifier"`, ...), `()` is none.
        use_rslora: Scale by `alpha / sqrt(rank)`.

    Raises:
        TypeError: `model` is none of ours.
        ValueError: A target is unknown, a number out of range, the name taken, or an adapter is
            merged.

    Example:
        >>> from tfgpt2 import TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> enable_lora(model, rank=4)
        >>> trainable_parameters(model)
        (21504, 3938822)
    """
    _check_new(model, name)
    layers = lora.projections(model)
    rank, alpha = _check_numbers(rank, alpha, dropout)
    keys = _check_targets(targets, list(layers))
    shapes = {key: (layers[key].inputs, layers[key].outputs) for key in keys}
    adapter = Adapter(
        layers={
            key: Factors(_first_factor(inputs, rank), np.zeros((rank, outputs), np.float32), alpha)
            for key, (inputs, outputs) in shapes.items()
        },
        heads=_check_heads(model, modules_to_save),
        dropout=float(dropout),
        use_rslora=bool(use_rslora),
    )
    lora.attach(model, name, adapter)
    lora.activate(model, name)


def set_adapter(model: TFGPT2PreTrainedModel, name: str | None) -> None:
    """Lets another adapter act; the one that acted keeps what it has learned.

    Compiled programs and a `TextGenerator` follow. To train it, compile again.

    Args:
        model: A model with adapters.
        name: Its name; None lets the base act alone.

    Raises:
        ValueError: There is no such adapter, or one is merged.
    """
    if name is not None:
        _known(model, name)
    _check_unmerged(model)
    if model.adapters is not None and name != model.adapters.active:
        lora.activate(model, name)


def adapter_names(model: TFGPT2PreTrainedModel) -> list[str]:
    """Names of a model's adapters, in the order they were added."""
    return [] if model.adapters is None else list(model.adapters.named)


def active_adapter(model: TFGPT2PreTrainedModel) -> str | None:
    """Name of the adapter that acts."""
    return None if model.adapters is None else model.adapters.active


def delete_adapter(model: TFGPT2PreTrainedModel, name: str) -> None:
    """Forgets an adapter. With the last one, the base is trainable again.

    Raises:
        ValueError: There is no such adapter, or one is merged.
    """
    _known(model, name)
    _check_unmerged(model)
    if model.adapters.active == name:
        lora.activate(model, None)
    lora.detach(model, name)


def merge_adapter(model: TFGPT2PreTrainedModel) -> None:
    """Adds the active adapter to the kernels, so that `save_pretrained` writes a whole model.

    The adapter stays, without effect and not trainable, until `unmerge_adapter`.

    Raises:
        ValueError: No adapter acts, or it is merged already.
    """
    _check_unmerged(model)
    _check_active(model)
    lora.add_products(model, 1)


def unmerge_adapter(model: TFGPT2PreTrainedModel) -> None:
    """Takes the merged adapter out of the kernels again, exact to the rounding of their type.

    Raises:
        ValueError: No adapter is merged.
    """
    if model.adapters is None or not model.adapters.merged:
        raise ValueError(
            explain(
                "No adapter is merged into this model.",
                fix="Call merge_adapter(model) first.",
                adapters=adapter_names(model),
            )
        )
    lora.add_products(model, -1)


def unload_adapters(model: TFGPT2PreTrainedModel, *, merge: bool = False) -> None:
    """Removes all adapters; what is left is a plain model that trains as before.

    Args:
        model: A model with or without adapters.
        merge: Keep what the active adapter does, in the kernels and the head; one that is merged
            already stays so. False leaves the base as it was.

    Raises:
        ValueError: `merge` is asked for and no adapter acts.
    """
    if merge:
        _check_active(model)
        if not model.adapters.merged:
            merge_adapter(model)
    state = model.adapters
    if state is None:
        return
    if merge:
        heads = lora.head_weights(model)
        state.base_heads = {key: weight.numpy() for key, weight in heads.items()}
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
        directory: Made if need be.
        name: Which one; None is the one that acts.
        base: Name of the base model, noted in the file for PEFT's automatic classes.

    Returns:
        The files written.

    Raises:
        NotADirectoryError: `directory` is a file.
        ValueError: There is no such adapter.
    """
    if name is None:
        _check_active(model)
        name = model.adapters.active
    _known(model, name)
    if Path(directory).is_file():
        raise NotADirectoryError(
            explain(
                "An adapter is saved into a directory.",
                fix="Name a directory, or one that can be made.",
                directory=str(directory),
            )
        )
    acting = name == model.adapters.active
    return files.write_adapter(
        lora.current(model) if acting else model.adapters.named[name],
        directory,
        keys=lora.projections(model),
        task_type=_TASKS[_kind(model)],
        bare=isinstance(model, TFGPT2Model),
        base=base,
    )


def load_adapter(
    model: TFGPT2PreTrainedModel,
    directory: str | os.PathLike[str],
    name: str = "default",
    **where: Any,
) -> None:
    """Loads an adapter that `save_adapter` or PEFT wrote, and lets it act.

    Args:
        model: The model it was trained on.
        directory: Directory, or name on the hub.
        name: What it shall be called here.
        **where: `revision`, `token`, `cache_dir`, `subfolder`, `local_files_only`,
            `force_download`.

    Raises:
        FileNotFoundError: There is no such adapter.
        ValueError: A file is damaged, asks for more than plain LoRA, or is for another model; or
            the name is taken, or an adapter is merged.
    """
    _check_new(model, name)
    adapter = files.read_adapter(directory, **where)
    lora.check_fit(model, adapter)
    lora.attach(model, name, adapter)
    lora.activate(model, name)


def trainable_parameters(model: TFGPT2PreTrainedModel) -> tuple[int, int]:
    """Numbers of parameters that train, and of all; slots are counted by their largest rank."""
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return trained, model.num_parameters()


def print_trainable_parameters(model: TFGPT2PreTrainedModel) -> None:
    """Prints how many parameters train, of how many."""
    trained, total = trainable_parameters(model)
    print(f"trainable parameters: {trained:,} of {total:,} ({100 * trained / total:.2f} %)")


def _first_factor(inputs: int, rank: int) -> np.ndarray:
    """Draws a first factor `[in, rank]`; `keras.utils.set_random_seed` makes it repeatable."""
    limit = inputs**-0.5
    return np.asarray(keras.random.uniform((inputs, rank), -limit, limit, dtype="float32"))


def _check_new(model: Any, name: Any) -> None:
    """Checks that an adapter of this name can be added."""
    if not isinstance(model, TFGPT2PreTrainedModel):
        raise TypeError(
            explain(
                "Adapters belong to a model of this package.",
                fix="Pass TFGPT2LMHeadModel.from_pretrained(...); of a TextGenerator, its `model`.",
                model=model,
            )
        )
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            explain(
                "An adapter's name is made of letters, digits, '_', '-' and '.'.",
                fix="Choose a name such as 'default'.",
                name=name,
            )
        )
    if name in adapter_names(model):
        raise ValueError(
            explain(
                "The model has an adapter of this name already.",
                fix="Choose another name, or delete_adapter(model, name) first.",
                name=name,
                adapters=adapter_names(model),
            )
        )
    _check_unmerged(model)


def _check_numbers(rank: Any, alpha: Any, dropout: Any) -> tuple[int, float]:
    """Checks rank, alpha and dropout, and fills alpha in."""
    alpha = rank if alpha is None else alpha
    for value, name, good, expected in (
        (rank, "rank", _is_number(rank, (int, np.integer)) and rank >= 1, "an integer, 1 or more"),
        (alpha, "alpha", _is_number(alpha) and alpha > 0, "a number above 0"),
        (dropout, "dropout", _is_number(dropout) and 0 <= dropout < 1, "a number in [0, 1)"),
    ):
        if not good:
            raise ValueError(
                explain(
                    f"`{name}` must be {expected}.",
                    fix="Try rank=8, alpha=16, dropout=0.0.",
                    **{name: value},
                )
            )
    return int(rank), float(alpha)


def _is_number(value: Any, kinds: tuple[type, ...] = (int, float, np.number)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _check_targets(targets: str | Sequence[str], keys: list[str]) -> list[str]:
    """Finds the projections that are meant."""
    targets = [targets] if isinstance(targets, str) else list(targets)
    found = files.chosen(targets, keys)
    for name in targets:
        if not found[name]:
            known = {".".join(key.split(".")[-length:]) for key in keys for length in (1, 2)}
            raise ValueError(
                explain(
                    "`targets` names projections of the model.",
                    fix=nearest(str(name), known),
                    targets=targets,
                )
            )
    if not targets:
        raise ValueError(
            explain(
                "`targets` names no projection, so that there is nothing to train.",
                fix="Pass targets=('c_attn',), for example.",
                targets=targets,
            )
        )
    return [key for key in keys if any(key in hits for hits in found.values())]


def _check_heads(model: Any, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Returns the weights of the heads that train beside the adapter."""
    weights = lora.head_weights(model)
    names = sorted(model.head_parts) if names is None else list(names)
    known = sorted({part(key) for key in weights})
    for name in names:
        if name not in known:
            raise ValueError(
                explain(
                    "`modules_to_save` names heads of the model.",
                    fix=nearest(str(name), known) if known else "This model has none: pass ().",
                    modules_to_save=names,
                )
            )
    return {key: weight.numpy() for key, weight in weights.items() if part(key) in names}


def _known(model: Any, name: str) -> None:
    if name not in adapter_names(model):
        raise ValueError(
            explain(
                "The model has no adapter of this name.",
                fix=nearest(str(name), adapter_names(model))
                if adapter_names(model)
                else "Call enable_lora(model) or load_adapter(model, directory) first.",
                name=name,
            )
        )


def _check_active(model: Any) -> None:
    if active_adapter(model) is None:
        raise ValueError(
            explain(
                "No adapter acts on the model.",
                fix="Call enable_lora, load_adapter or set_adapter first.",
                adapters=adapter_names(model),
            )
        )


def _check_unmerged(model: Any) -> None:
    if model.adapters is not None and model.adapters.merged:
        raise ValueError(
            explain(
                "An adapter is merged into the model.",
                fix="Call unmerge_adapter(model), or unload_adapters(model, merge=True), first.",
                adapter=model.adapters.active,
            )
        )


def _kind(model: Any) -> str:
    """The name of the class of ours that a model is of."""
    return next(kind.__name__ for kind in type(model).__mro__ if kind.__name__ in _TASKS)

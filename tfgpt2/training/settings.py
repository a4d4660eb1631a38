"""What a training is: one frozen record, from Python, from YAML or from the command line."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, nearest

# TensorFlow is not imported here: the command line reads these names for its help.
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("float32", "mixed_bfloat16", "auto")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")


def _field(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Everything that a training depends on; `help` of each field says what it is.

    Raises:
        ValueError: A value is out of range, or contradicts another.
        TypeError: A number is no number.

    Example:
        >>> settings = TrainSettings(texts=("poems/*.txt",), output="out", model="shakespeare-tiny")
        >>> settings.batch_size
        8
        >>> [field.name for field in dataclasses.fields(TrainSettings)][:3]
        ['texts', 'output', 'model']
    """

    texts: tuple[str, ...] = _field((), "Files or patterns such as 'corpus/*.txt'.")
    output: str = _field("", "Directory for model, checkpoints, log and plot.")
    model: str | None = _field(None, "Checkpoint to start from; without it, from scratch.")
    tokenizer: str | None = _field(None, "Where the vocabulary is; the model's own.")
    n_layer: int | None = _field(None, "From scratch: blocks; 12.")
    n_head: int | None = _field(None, "From scratch: heads of a block; 12.")
    n_embd: int | None = _field(None, "From scratch: width; 768.")
    n_positions: int | None = _field(None, "From scratch: context in tokens; 1024.")
    dropout: float | None = _field(None, "Share dropped; from scratch 0.1, else the model's.")
    validation: tuple[str, ...] = _field((), "Texts to measure on; else a share is held out.")
    validation_share: float = _field(0.05, "Share of the texts held out at their end; 0 is none.")
    separator: str | None = _field(None, "What ends a document in a file; else a file is one.")
    document_mask: bool = _field(False, "Tokens see their own document only.")
    cache: str | None = _field(None, "Folder that keeps the tokens for later runs.")
    block_size: int | None = _field(None, "Tokens of an example; the model's context.")
    batch_size: int = _field(8, "Examples of a batch, of all workers together.")
    accumulate: int = _field(1, "Batches of a step.")
    epochs: int = _field(1, "How often the texts are read; where `steps` is not given.")
    steps: int | None = _field(None, "Steps of the whole training.")
    learning_rate: float = _field(3e-4, "The highest rate.")
    schedule: str = _field("cosine", "constant, linear or cosine, after the warm-up.")
    warmup: int | None = _field(None, "Steps of the warm-up; 3 % of all, 2000 at most.")
    floor: float | None = _field(None, "Where the rate ends; a tenth of the highest.")
    weight_decay: float = _field(0.1, "Acts on matrices, not on embeddings.")
    beta_1: float = _field(0.9, "Adam's first decay.")
    beta_2: float = _field(0.95, "Adam's second decay.")
    clip_norm: float = _field(1.0, "Largest norm of the gradient.")
    ema: float | None = _field(None, "Decay of an average of the weights, such as 0.999.")
    dtype: str = _field("float32", "float32, mixed_bfloat16, or auto: what is faster here.")
    chunked_loss: bool | None = _field(None, "Less memory for logits; when they are large.")
    gradient_checkpointing: bool = _field(False, "Less memory for activations, slower.")
    blockwise: bool = _field(False, "Attention in blocks: less memory for long blocks.")
    label_smoothing: float = _field(0.0, "Share of the target spread over the vocabulary.")
    z_loss: float = _field(0.0, "Factor on the squared logarithm of the softmax's sum.")
    freeze: tuple[str, ...] = _field((), "Parts that do not train, such as wte or h.0-5.")
    lora_rank: int | None = _field(None, "Train an adapter of this rank, and merge it.")
    lora_alpha: float | None = _field(None, "Scale of the adapter; its rank.")
    lora_targets: tuple[str, ...] = _field(("c_attn",), "Projections that get an adapter.")
    eval_every: int | None = _field(None, "Steps from one measurement to the next; an epoch.")
    checkpoint_every: int | None = _field(None, "Steps from checkpoint to checkpoint; eval_every.")
    keep: int = _field(3, "Checkpoints that stay.")
    log_every: int = _field(10, "Steps from one line of the log to the next.")
    sample_prompt: str | None = _field(None, "Continued at each measurement, to be looked at.")
    sample_tokens: int = _field(60, "Tokens of such a sample.")
    tensorboard: bool = _field(False, "Write scalars and samples for TensorBoard.")
    push: str | None = _field(None, "Repository on the hub that gets the model at the end.")
    strategy: str = _field("auto", "auto, none, mirrored or multi_worker.")
    seed: int = _field(0, "Decides weights, order of the data, and dropout.")

    def __post_init__(self) -> None:
        for name in ("texts", "validation", "freeze", "lora_targets"):
            value = getattr(self, name)
            if isinstance(value, (str, os.PathLike)):
                value = (value,)
            object.__setattr__(self, name, tuple(str(part) for part in value or ()))
        object.__setattr__(self, "output", os.fspath(self.output))
        for name in ("texts", "output"):
            if not getattr(self, name):
                raise ValueError(
                    explain(
                        f"A training needs `{name}`.",
                        fix="Name the files to learn from and the directory to write to.",
                        **{name: getattr(self, name)},
                    )
                )
        _check_numbers(self)
        _check_together(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Makes settings from plain values, such as those of a YAML file.

        Raises:
            TypeError: There is no such setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise TypeError(
                    explain(
                        f"There is no setting {name!r}.",
                        fix=nearest(str(name), known),
                        **{str(name): values[name]},
                    )
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values: what `from_dict` takes, JSON holds and YAML shows."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads settings from a YAML file.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: The file cannot be read or holds no names and values.
    """
    yaml = _yaml()
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            explain(f"The settings cannot be read: {error}.", fix="Check it.", path=str(path))
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            explain(
                "A file of settings holds names and values.",
                fix="Write for example 'texts: poems.txt' on a line.",
                path=str(path),
            )
        )
    # YAML 1.1 takes 3e-4, without a point, for a text.
    return {name: _number(value) for name, value in values.items()}


def write_yaml(settings: TrainSettings, path: str | os.PathLike[str]) -> None:
    """Writes settings to a YAML file, in the order of the fields."""
    text = _yaml().safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            explain("Settings in YAML need PyYAML.", fix="Run pip install 'tfgpt2[train]'.")
        ) from error
    return yaml


def _number(value: Any) -> Any:
    if isinstance(value, str) and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


_COUNTS = {
    "n_layer": 1, "n_head": 1, "n_embd": 1, "n_positions": 2, "block_size": 2, "batch_size": 1,
    "accumulate": 1, "epochs": 1, "steps": 1, "warmup": 0, "lora_rank": 1, "eval_every": 1,
    "checkpoint_every": 1, "keep": 1, "log_every": 1, "sample_tokens": 1, "seed": 0,
}  # fmt: skip
_REQUIRED = ("batch_size", "accumulate", "epochs", "keep", "log_every", "sample_tokens", "seed")


def _check_numbers(settings: TrainSettings) -> None:
    from tfgpt2.tokenizers.text_inputs import check_choice, check_count

    for name, least in _COUNTS.items():
        value = getattr(settings, name)
        if value is not None or name in _REQUIRED:
            check_count(name, value, least=least)
    for name in ("dropout", "validation_share", "label_smoothing"):
        value = getattr(settings, name)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise ValueError(
                explain(f"`{name}` must be in [0, 1).", fix="Pass a share.", **{name: value})
            )
    check_choice("schedule", settings.schedule, SCHEDULES)
    check_choice("dtype", settings.dtype, PRECISIONS)
    check_choice("strategy", settings.strategy, STRATEGIES)


def _check_together(settings: TrainSettings) -> None:
    shape = ("n_layer", "n_head", "n_embd", "n_positions")
    given = {name: getattr(settings, name) for name in shape if getattr(settings, name)}
    if settings.model and given:
        raise ValueError(
            explain(
                "A checkpoint has its shape; only a training from scratch chooses one.",
                fix="Leave `model` out, or the numbers.",
                model=settings.model,
                **given,
            )
        )
    if not settings.model and not settings.tokenizer:
        raise ValueError(
            explain(
                "A training from scratch needs a vocabulary.",
                fix="Pass `tokenizer`, which `tfgpt2 train-tokenizer` makes, or `model`.",
                tokenizer=None,
            )
        )
    if settings.lora_rank and not settings.model:
        raise ValueError(
            explain(
                "An adapter needs a model that has learned something.",
                fix="Pass `model`, or leave `lora_rank` out.",
                lora_rank=settings.lora_rank,
            )
        )

"""Settings of a training run, from Python, YAML or the command line."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfgpt2 import extras
from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.files import read_utf8, replace_files
from tfgpt2.validation import check_choice, check_count, check_range

# TensorFlow is not imported here, since the command line reads these names for its help.
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("float32", "mixed_bfloat16", "auto")
STRATEGIES = ("auto", "none", "mirrored", "multi_worker")

# Of a settings file, which PyYAML takes more than linear time for.
_MAX_TEXT = 2**18  # characters
_MAX_DEPTH = 16  # of values; the stream and the document count
_MAX_PLAIN = 4096  # characters of a value without quotes


def _field(default: Any, help: str, default_text: str = "") -> Any:
    """A setting that is also a flag of `tfgpt2 train`; see `tfgpt2.cli.options.add_flags`."""
    metadata = {"help": help} | ({"default_text": default_text} if default_text else {})
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """All settings of a training run; the metadata `help` of each field documents it.

    Raises:
        ValueError: A value is out of range, or conflicts with another.
        TypeError: A value has the wrong type.

    Example:
        >>> settings = TrainSettings(texts=("poems/*.txt",), output="out", model="shakespeare-tiny")
        >>> settings.batch_size
        8
        >>> [field.name for field in dataclasses.fields(TrainSettings)][:3]
        ['texts', 'output', 'model']
    """

    texts: tuple[str, ...] = _field((), "Files or patterns such as 'corpus/*.txt'.")
    output: str = _field("", "Directory for model, checkpoints, log and plot.")
    model: str | None = _field(None, "Checkpoint to start from.", "train from scratch")
    tokenizer: str | None = _field(None, "Checkpoint of the tokenizer.", "the model's")
    n_layer: int | None = _field(None, "From scratch: number of blocks.", "12")
    n_head: int | None = _field(None, "From scratch: attention heads per block.", "12")
    n_embd: int | None = _field(None, "From scratch: width.", "768")
    n_positions: int | None = _field(None, "From scratch: context in tokens.", "1024")
    dropout: float | None = _field(None, "Dropout rate.", "the model's, from scratch 0.1")
    validation: tuple[str, ...] = _field((), "Validation texts.", "a part is held out")
    validation_share: float = _field(0.05, "Share held out at the end of the texts; 0: none.")
    separator: str | None = _field(None, "Text that ends a document.", "one document per file")
    document_mask: bool = _field(False, "Tokens attend to their own document only.")
    cache: str | None = _field(None, "Folder that caches the tokens for later runs.")
    block_size: int | None = _field(None, "Tokens per block.", "the model's context")
    batch_size: int = _field(8, "Blocks per batch, over all workers.")
    accumulate: int = _field(1, "Batches whose gradients are accumulated in a step.")
    epochs: int = _field(1, "Passes over the texts, if `steps` is not given.")
    steps: int | None = _field(None, "Number of training steps.", "from `epochs`")
    learning_rate: float = _field(3e-4, "Highest learning rate.")
    schedule: str = _field("cosine", "Decay after the warm-up: constant, linear or cosine.")
    warmup: int | None = _field(None, "Steps of the warm-up.", "3 % of all, at most 2000")
    floor: float | None = _field(None, "Final learning rate.", "a tenth of the highest")
    weight_decay: float = _field(0.1, "Applied to matrices, not to embeddings.")
    beta_1: float = _field(0.9, "Adam's decay of the first moment.")
    beta_2: float = _field(0.95, "Adam's decay of the second moment.")
    clip_norm: float | None = _field(
        1.0, "Largest norm of the gradient; null in YAML turns clipping off."
    )
    ema: float | None = _field(None, "Decay of a moving average of the weights, such as 0.999.")
    dtype: str = _field("float32", "float32, mixed_bfloat16, or auto for the faster one.")
    chunked_loss: bool | None = _field(None, "Less memory for logits.", "if they are large")
    gradient_checkpointing: bool = _field(False, "Less memory for activations, but slower.")
    blockwise: bool = _field(False, "Blockwise attention: less memory for long blocks of text.")
    label_smoothing: float = _field(0.0, "Probability spread over the vocabulary; 0 is off.")
    z_loss: float = _field(0.0, "Weight of the squared log of the softmax's sum; 0 is off.")
    freeze: tuple[str, ...] = _field((), "Frozen parts, such as wte or h.0-5.")
    lora_rank: int | None = _field(None, "Train an adapter of this rank, and merge it at the end.")
    lora_alpha: float | None = _field(None, "Scale of the adapter.", "its rank")
    lora_targets: tuple[str, ...] = _field(("c_attn",), "Projections that get an adapter.")
    eval_every: int | None = _field(None, "Steps between evaluations.", "an epoch")
    checkpoint_every: int | None = _field(None, "Steps between checkpoints.", "eval_every")
    keep: int = _field(3, "Number of checkpoints to keep.")
    log_every: int = _field(10, "Steps between lines of the log.")
    sample_prompt: str | None = _field(None, "Prompt of a sample at each evaluation.")
    sample_tokens: int = _field(60, "Tokens of a sample.")
    tensorboard: bool = _field(False, "Write scalars and samples for TensorBoard.")
    push: str | None = _field(None, "Repository on the hub to upload the model to at the end.")
    strategy: str = _field("auto", "auto, none, mirrored or multi_worker.")
    seed: int = _field(0, "Seed of initial weights, shuffling and dropout.")

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            object.__setattr__(self, name, _of_kind(name, getattr(self, name), kind))
        for name in ("texts", "output"):
            if not getattr(self, name):
                raise value_error(
                    f"`{name}` is required.",
                    fix="Pass the files to train on and the directory to write to.",
                    **{name: getattr(self, name)},
                )
        _check_numbers(self)
        _check_together(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Makes settings from JSON values, such as those of a YAML file.

        Raises:
            TypeError: There is no such setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise type_error(
                    f"There is no setting {name!r}.",
                    fix=nearest(str(name), known),
                    setting=name,
                    value=values[name],
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, for `from_dict`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads settings from a YAML file.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: The file cannot be read, does not hold names and values, gives a name twice, or
            has what takes unbounded time or memory: anchors and aliases, which could expand to any
            size, and large files, deep values and long numbers, whose time grows faster than they.
    """
    yaml, text = _yaml(), read_utf8(Path(path))
    try:
        problem = _too_much(text) or _too_complex(yaml.parse(text, Loader=yaml.SafeLoader))
        node = None if problem else yaml.compose(text, Loader=yaml.SafeLoader)
        values = None if problem else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise value_error(
            f"The settings cannot be read: {error}.", fix="Correct the file.", path=str(path)
        ) from error
    if problem:
        sentence, fix = problem
        raise value_error(sentence, fix=fix, path=str(path))
    if not isinstance(values, dict):
        raise value_error(
            "A settings file must hold names and values.",
            fix="Write one setting per line, such as 'texts: poems.txt'.",
            path=str(path),
        )
    names = set()
    for key, _ in node.value:
        if key.value in names:
            raise value_error(
                "A settings file gives a name twice.",
                fix="Keep one of the lines.",
                path=str(path),
                setting=key.value,
            )
        names.add(key.value)
    # YAML 1.1 reads 3e-4, without a decimal point, as a string.
    floats = {name for name, kind in _kinds().items() if float in _alternatives(kind)}
    return {name: _number(value) if name in floats else value for name, value in values.items()}


def _too_much(text: str) -> tuple[str, str] | None:
    if len(text) <= _MAX_TEXT:
        return None
    return (
        f"A settings file must not have more than {_MAX_TEXT} characters.",
        "Name many files by patterns, such as 'texts/*.txt'.",
    )


def _too_complex(events: Iterable[Any]) -> tuple[str, str] | None:
    """What is refused in a YAML text, and the way on; found before anything is made of it."""
    depth = 0
    for event in events:  # of PyYAML, which is imported on use
        kind = type(event).__name__
        if kind == "AliasEvent":
            return (
                "A settings file must not use YAML's anchors and aliases (&name, *name).",
                "Write the values out.",
            )
        depth += kind.endswith("StartEvent")
        depth -= kind.endswith("EndEvent")
        if depth > _MAX_DEPTH:
            return "A settings file must not nest values deeply.", "Write names and plain values."
        # Numbers of base 60, as in 1:30:00, may have any length.
        if kind == "ScalarEvent" and event.implicit[0] and len(event.value) > _MAX_PLAIN:
            return (
                f"A settings file must not have values of more than {_MAX_PLAIN} characters"
                " without quotes.",
                "Quote long texts.",
            )
    return None


def write_yaml(settings: TrainSettings, path: str | os.PathLike[str]) -> None:
    """Writes settings to a YAML file, in the order of the fields."""
    text = _yaml().safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True)
    with replace_files([Path(path)]) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


def _yaml() -> Any:
    extras.require("A settings file", "train", "yaml")
    import yaml

    return yaml


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip("+-")[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _kinds() -> dict[str, Any]:
    """The type of each setting."""
    return typing.get_type_hints(TrainSettings)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of `A | B`, or the only one."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


_WORDS = {
    bool: "true or false", str: "a text", int: "an integer", float: "a number",
    tuple[str, ...]: "a text or a list of texts", types.NoneType: "null",
}  # fmt: skip


def _of_kind(name: str, value: Any, kind: Any) -> Any:
    """A value as the type of its setting.

    Raises:
        TypeError: It has another type.
    """
    kinds = _alternatives(kind)
    text = (str, os.PathLike)
    number = not isinstance(value, bool)
    if value is None and types.NoneType in kinds:
        return None
    if bool in kinds and isinstance(value, bool):
        return value
    if str in kinds and isinstance(value, text):
        return os.fspath(value)
    if int in kinds and number and isinstance(value, numbers.Integral):
        return int(value)
    if float in kinds and number and isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:  # of an integer
            return math.inf
    if tuple[str, ...] in kinds:
        parts = (value,) if isinstance(value, text) else () if value is None else value
        if isinstance(parts, (list, tuple)) and all(isinstance(part, text) for part in parts):
            return tuple(map(os.fspath, parts))
    raise type_error(
        f"`{name}` must be {' or '.join(_WORDS[kind] for kind in kinds)}.",
        fix="In YAML, quote texts that look like numbers, and leave numbers, true and false bare.",
        **{name: value},
    )


_COUNTS = {
    "n_layer": 1, "n_head": 1, "n_embd": 1, "n_positions": 2, "block_size": 2, "batch_size": 1,
    "accumulate": 1, "epochs": 1, "steps": 1, "warmup": 0, "lora_rank": 1, "eval_every": 1,
    "checkpoint_every": 1, "keep": 1, "log_every": 1, "sample_tokens": 1, "seed": 0,
}  # fmt: skip
_REQUIRED = ("batch_size", "accumulate", "epochs", "keep", "log_every", "sample_tokens", "seed")


_SHARES = ("dropout", "validation_share", "label_smoothing", "beta_1", "beta_2", "ema")
_POSITIVE = ("learning_rate", "clip_norm", "lora_alpha")
_NOT_NEGATIVE = ("floor", "weight_decay", "z_loss")


def _check_numbers(settings: TrainSettings) -> None:
    for name, least in _COUNTS.items():
        value = getattr(settings, name)
        check_count(name, value, least, optional=name not in _REQUIRED)
        if value is not None and value >= 2**31:
            raise value_error(
                f"`{name}` must be less than 2^31.", fix="Pass a smaller number.", **{name: value}
            )
    for name in (*_SHARES, *_POSITIVE, *_NOT_NEGATIVE):
        if getattr(settings, name) is not None:
            high = 1 if name in _SHARES else math.inf
            low = name not in _POSITIVE
            check_range(name, getattr(settings, name), 0, high, include_low=low)
    check_choice("schedule", settings.schedule, SCHEDULES)
    check_choice("dtype", settings.dtype, PRECISIONS)
    check_choice("strategy", settings.strategy, STRATEGIES)


def _check_together(settings: TrainSettings) -> None:
    shape = ("n_layer", "n_head", "n_embd", "n_positions")
    given = {name: getattr(settings, name) for name in shape if getattr(settings, name)}
    if settings.model and given:
        raise value_error(
            "The model's shape can only be set for training from scratch.",
            fix="Leave out `model`, or the numbers.",
            model=settings.model,
            **given,
        )
    if not settings.model and not settings.tokenizer:
        raise value_error(
            "Training from scratch needs a vocabulary.",
            fix="Pass `tokenizer`, made by `tfgpt2 train-tokenizer`, or `model`.",
            tokenizer=None,
        )
    if settings.floor is not None and settings.floor > settings.learning_rate:
        raise value_error(
            "`floor` must be at most `learning_rate`.",
            fix="Leave it out for a tenth of the highest rate.",
            floor=settings.floor,
            learning_rate=settings.learning_rate,
        )
    if settings.lora_rank and not settings.model:
        raise value_error(
            "An adapter needs a pretrained model.",
            fix="Pass `model`, or leave out `lora_rank`.",
            lora_rank=settings.lora_rank,
        )

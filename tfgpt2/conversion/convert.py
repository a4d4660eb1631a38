"""From any checkpoint to another format, checked: what `tfgpt2 convert SRC DST` does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tfgpt2.checkpoints import tokenizer_files as companions
from tfgpt2.checkpoints.loader import WeightLoader
from tfgpt2.checkpoints.names import HEADS, is_buffer, key_from_path, part, with_prefix
from tfgpt2.checkpoints.readers import h5
from tfgpt2.checkpoints.readers.safetensors import Stored
from tfgpt2.checkpoints.registry import Reader, load_config, open_checkpoint
from tfgpt2.config import GPT2Config
from tfgpt2.conversion import keras_hub_models
from tfgpt2.errors import explain, nearest
from tfgpt2.hub import Repository
from tfgpt2.models import causal_lm as heads
from tfgpt2.models import double_heads, task_heads
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.nn import quantization
from tfgpt2.nn.layers import initial_weights

FORMATS = ("safetensors", "h5", "keras_hub")

_CLASSES: dict[str, type[TFGPT2PreTrainedModel]] = {
    "GPT2Model": heads.TFGPT2Model,
    "GPT2LMHeadModel": heads.TFGPT2LMHeadModel,
    "GPT2DoubleHeadsModel": double_heads.TFGPT2DoubleHeadsModel,
    "GPT2ForSequenceClassification": task_heads.TFGPT2ForSequenceClassification,
    "GPT2ForTokenClassification": task_heads.TFGPT2ForTokenClassification,
    "GPT2ForQuestionAnswering": task_heads.TFGPT2ForQuestionAnswering,
}
# How far logits may be apart, relative to the largest, for each type that weights are stored in.
_TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}
_PROBE = (2, 16)  # rows and columns of the ids that the check runs


@dataclasses.dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        path: The directory that was written.
        source_format: Format of the source, such as `"torch"`.
        format: Format that was written.
        model: Name of the model's class.
        tensors: Number of weights; each was read back and compared.
        size: Size of all files, in bytes.
        difference: Largest difference between logits before and after.
        files: Names of the files, relative to `path`.
        notes: What a user should know, such as a tokenizer that could not travel along.
    """

    path: Path
    source_format: str
    format: str
    model: str
    tensors: int
    size: int
    difference: float
    files: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str = "safetensors",
    dtype: str | None = None,
    progress: bool = True,
    **where: Any,
) -> Report:
    """Converts a checkpoint and checks that the model is still the same.

    The destination appears complete or not at all: everything is written beside it, read back,
    compared weight by weight and by the logits, and moved into place at the end.

    Args:
        src: Directory, bundled name or hub name, in any format that can be read.
        dst: Directory to make; it must not exist, or be empty.
        to: `"safetensors"` (PyTorch and Flax transformers load it), `"h5"` (TensorFlow
            transformers 4) or `"keras_hub"` (a preset).
        dtype: Type to store, such as `"float16"`; None is the source's own, or float32 where the
            format cannot hold that.
        progress: Show a progress bar on standard error.
        **where: Where to look for `src`: `revision`, `token`, `cache_dir`, `subfolder`, ...

    Returns:
        What was done.

    Raises:
        FileExistsError: `dst` exists and is not empty.
        FileNotFoundError: There is no such model, or it has no weights.
        ValueError: A format or type is unknown, the source is broken or does not fit its
            configuration, or the format cannot hold the model.
        RuntimeError: What was written is not what was read; `dst` is not made then.

    Example:
        >>> convert("gpt2-simple/run1", "gpt2-run1", to="safetensors")  # doctest: +SKIP
    """
    _check_options(to, dtype)
    dst = Path(dst).expanduser()
    _check_destination(dst)
    files = Repository(src, **where)
    config = load_config(files.find, str(src))
    reader, source_format = open_checkpoint(files.find, str(src))
    dtype = dtype or _type_of(reader, to)
    kind = _class_of(config, reader)
    with _bar(progress) as step, _beside(dst) as scratch:
        model = _load(kind, config, _Counting(reader, step("Reading")), str(src))
        model.load_settings(files)
        quantization.refuse(model, "A conversion")
        before = _logits(model)
        notes = _write(model, files, scratch, to, dtype, step("Writing"))
        written, _ = open_checkpoint(Repository(scratch).find, str(dst))
        tensors = _compare_weights(model, written, dtype, step("Checking"))
        del model
        again = load_config(Repository(scratch).find, str(dst))
        difference = _compare_logits(before, _logits(_load(kind, again, written, str(dst))), dtype)
        _take_place(scratch, dst)
    names = sorted(path for path in dst.rglob("*") if path.is_file())
    return Report(
        path=dst,
        source_format=source_format,
        format=to,
        model=kind.__name__,
        tensors=tensors,
        size=sum(path.stat().st_size for path in names),
        difference=difference,
        files=tuple(str(path.relative_to(dst)) for path in names),
        notes=tuple(notes),
    )


def load_keras_hub(model: Any) -> heads.TFGPT2LMHeadModel:
    """Makes our model from a living KerasHub GPT-2, with its weights.

    Args:
        model: A `keras_hub.models.GPT2Backbone` or `GPT2CausalLM`.

    Returns:
        A language model of the same weights; the weights are copies.

    Raises:
        TypeError: It is no GPT-2 of KerasHub.
    """
    config = keras_hub_models.config_from_model(model)
    reader = keras_hub_models.reader_of(model)
    return _load(heads.TFGPT2LMHeadModel, config, reader, type(model).__name__)


# Before ---------------------------------------------------------------------------------------


def _types(to: str) -> list[str]:
    """The types that weights can be stored in."""
    return [name for name in _TOLERANCE if not (to == "h5" and name == "bfloat16")]


def _type_of(reader: Reader, to: str) -> str:
    """The type of the source's token table, where the format can hold it."""
    tables = [key for key in reader.keys() if with_prefix(key) == "transformer.wte.weight"]
    name = np.dtype(reader.dtype(tables[0])).name if tables else ""
    return name if name in _types(to) else "float32"


def _check_options(to: str, dtype: str | None) -> None:
    if to not in FORMATS:
        raise ValueError(
            explain(
                "`to` must be a format that can be written.", fix=nearest(str(to), FORMATS), to=to
            )
        )
    known = _types(to)
    if dtype is not None and dtype not in known:
        raise ValueError(
            explain(
                f"`dtype` must be a floating-point type that the format {to!r} can hold.",
                fix=nearest(str(dtype), known),
                dtype=dtype,
            )
        )


def _check_destination(dst: Path) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise FileExistsError(
            explain(
                "The destination must be a directory that does not exist yet, or an empty one.",
                fix="Name another, or remove it first.",
                dst=str(dst),
            )
        )


def _class_of(config: GPT2Config, reader: Reader) -> type[TFGPT2PreTrainedModel]:
    """Chooses the class that has all of the checkpoint's weights.

    `architectures` decides where it names a class whose head is there; else the keys do.
    """
    keys = [with_prefix(key) for key in reader.keys() if not is_buffer(key)]
    present = {part(key) for key in keys} & set(HEADS) - {"lm_head"}
    for name in config.architectures or ():
        kind = _CLASSES.get(str(name).removeprefix("TF").removeprefix("Flax"))
        if kind is not None and present <= kind.head_parts and kind.head_parts <= present:
            return kind
    fitting = [kind for kind in _CLASSES.values() if present and present == kind.head_parts]
    if present and not fitting:
        raise ValueError(
            explain(
                "The checkpoint has heads that no GPT-2 class has together.",
                fix="Save the model from the class that it is.",
                heads=sorted(present),
            )
        )
    return fitting[0] if fitting else heads.TFGPT2LMHeadModel


def _load(
    kind: type[TFGPT2PreTrainedModel], config: GPT2Config, reader: Reader, name: str
) -> TFGPT2PreTrainedModel:
    loader = WeightLoader(reader)
    with initial_weights(loader.read):
        model = kind(config, dtype="float32")
    loader.check(name)
    return model


class _Counting:
    """A reader that reports each tensor it reads."""

    def __init__(self, reader: Reader, step: Callable[[int], None]) -> None:
        self._reader, self._step = reader, step
        self.keys, self.shape, self.dtype = reader.keys, reader.shape, reader.dtype

    def read(self, key: str) -> np.ndarray:
        self._step(len(self._reader.keys()))
        return self._reader.read(key)


# Writing --------------------------------------------------------------------------------------


def _write(
    model: TFGPT2PreTrainedModel,
    files: Repository,
    scratch: Path,
    to: str,
    dtype: str,
    step: Callable[[int], None],
) -> list[str]:
    """Writes all files, and returns notes for the user."""
    vocabulary, merges = companions.read_vocabulary(files.find, model.config.vocab_size)
    if to == "keras_hub":
        return _write_preset(model, scratch, vocabulary, merges, dtype, step)
    if to == "safetensors":
        model.save_pretrained(scratch, dtype=dtype)
        step(1)
    else:
        _write_h5(model, scratch, dtype, step)
    for name in companions.NAMES:
        path = companions.find_companion(files.find, name)
        if path is not None and not (scratch / name).exists():
            shutil.copyfile(path, scratch / name)
    return [] if vocabulary is not None else ["The source has no tokenizer."]


def _write_h5(
    model: TFGPT2PreTrainedModel, scratch: Path, dtype: str, step: Callable[[int], None]
) -> None:
    weights = model.weights

    def stored(weight: keras.Variable) -> Stored:
        kind = np.dtype(dtype)

        def read() -> np.ndarray:
            step(len(weights))
            return np.asarray(weight.value).astype(kind, copy=False)

        return Stored(key_from_path(weight.path), kind, tuple(weight.shape), read)

    h5.write([stored(weight) for weight in weights], scratch / h5.WEIGHTS_NAME)
    config = GPT2Config.from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__.removeprefix("TF")]
    config.dtype = dtype
    config.save_pretrained(scratch)
    model.save_settings(scratch)


def _write_preset(
    model: TFGPT2PreTrainedModel,
    scratch: Path,
    vocabulary: dict[str, int] | None,
    merges: list[str],
    dtype: str,
    step: Callable[[int], None],
) -> list[str]:
    """Writes a KerasHub preset, with the tokenizer where KerasHub's can do the same."""
    if type(model) not in (heads.TFGPT2Model, heads.TFGPT2LMHeadModel):
        raise ValueError(
            explain(
                "KerasHub's GPT-2 has no head for this model.",
                fix="Store it as safetensors.",
                model=type(model).__name__,
            )
        )
    weights = {key_from_path(weight.path): weight for weight in model.weights}

    def read(key: str) -> np.ndarray:
        step(len(weights))
        return np.asarray(weights[with_prefix(key)].value)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = keras_hub_models.make_backbone(model.config, read, dtype)
    notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
    complete = keras_hub_models.write(backbone, scratch, vocabulary=vocabulary, merges=merges)
    model.save_settings(scratch)
    if not complete:
        notes.append(
            "The preset is a backbone without a tokenizer: "
            + ("the source has none." if vocabulary is None else "KerasHub's needs <|endoftext|>.")
        )
    return notes


# Checking -------------------------------------------------------------------------------------


def _logits(model: TFGPT2PreTrainedModel) -> np.ndarray:
    """What a model makes of a few fixed ids."""
    config = model.config
    rows, columns = _PROBE[0], min(_PROBE[1], config.n_positions)
    ids = np.random.RandomState(0).randint(0, config.vocab_size, (rows, columns))
    mask = np.ones_like(ids)
    if isinstance(model, double_heads.TFGPT2DoubleHeadsModel):
        ids, mask = ids[:, None], mask[:, None]
    output = model(input_ids=tf.constant(ids), attention_mask=tf.constant(mask), return_dict=False)
    return np.concatenate([np.ravel(value) for value in output[:2] if tf.is_tensor(value)])


def _compare_weights(
    model: TFGPT2PreTrainedModel, written: Reader, dtype: str, step: Callable[[int], None]
) -> int:
    """Checks that every weight was written as it is, but for the rounding asked for."""
    stored = {with_prefix(key): key for key in written.keys()}
    kind = tf.as_dtype(dtype).as_numpy_dtype
    for weight in model.weights:
        key = key_from_path(weight.path)
        step(len(model.weights))
        wanted = np.asarray(weight.value).astype(kind)
        found = written.read(stored[key]) if key in stored else None
        if found is None or found.shape != wanted.shape or not _same(wanted, found):
            raise RuntimeError(
                explain(
                    "A weight that was written is not the one that was read.",
                    fix="Check the disk; if it is sound, report this as a bug.",
                    key=key,
                )
            )
    return len(model.weights)


def _same(wanted: np.ndarray, found: np.ndarray) -> bool:
    return wanted.dtype == found.dtype and bool(
        np.array_equal(wanted.view(np.uint8), found.view(np.uint8))
    )


def _compare_logits(before: np.ndarray, after: np.ndarray, dtype: str) -> float:
    """Returns the largest difference, and raises when it is not rounding."""
    difference = float(np.max(np.abs(before - after)))
    limit = _TOLERANCE[dtype] * max(1.0, float(np.max(np.abs(before))))
    if not difference <= limit:
        raise RuntimeError(
            explain(
                "The converted model gives other logits than the source.",
                fix="Choose a wider `dtype`; with float32, report this as a bug.",
                difference=difference,
                limit=limit,
            )
        )
    return difference


# The destination and the screen ---------------------------------------------------------------


@contextlib.contextmanager
def _beside(dst: Path) -> Iterator[Path]:
    """Makes a directory beside the destination, and removes what is left of it."""
    scratch = dst.absolute().parent / f".{dst.name}.{os.getpid()}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_place(scratch: Path, dst: Path) -> None:
    """Moves the finished directory to its place."""
    if dst.exists():
        dst.rmdir()  # empty, or this raises
    scratch.rename(dst)


@contextlib.contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """Shows one bar per stage; a stage is a function that is called for each tensor."""
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bars:

        def stage(name: str) -> Callable[[int], None]:
            task = bars.add_task(name, total=None)
            return lambda total: bars.update(task, total=total, advance=1)

        yield stage

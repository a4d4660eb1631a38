"""Conversion of a checkpoint of any format to another one: `tfgpt2 convert SRC DST`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints import tokenizer_files
from tfgpt2.checkpoints.detection import load_config, open_checkpoint
from tfgpt2.checkpoints.loader import WeightLoader, unused_message
from tfgpt2.checkpoints.names import HEADS, is_buffer, part, with_prefix
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.readers.keras_hub_backbone import read_backbone
from tfgpt2.checkpoints.registry import WRITERS
from tfgpt2.checkpoints.single_file import open_repository
from tfgpt2.checkpoints.writers import base
from tfgpt2.checkpoints.writers.base import CheckpointWriter, Content, StoredTensor
from tfgpt2.config import GPT2Config
from tfgpt2.conversion.progress import Step, show_progress
from tfgpt2.conversion.verification import check_outputs, check_weights, probe_outputs
from tfgpt2.errors import explain, nearest, value_error
from tfgpt2.hub import HubOptions, Repository
from tfgpt2.models import causal_lm, double_heads, task_heads, transformer
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.nn import quantization
from tfgpt2.nn.layers import initial_weights

# Classes that have the same heads come in order of preference.
_CLASSES: tuple[type[TFGPT2PreTrainedModel], ...] = (
    causal_lm.TFGPT2LMHeadModel,
    transformer.TFGPT2Model,
    double_heads.TFGPT2DoubleHeadsModel,
    task_heads.TFGPT2ForSequenceClassification,
    task_heads.TFGPT2ForTokenClassification,
    task_heads.TFGPT2ForQuestionAnswering,
)


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Attributes:
        path: The directory that was written.
        source_format: Format of the source, such as `"torch"`.
        format: Format that was written.
        model: Name of the model's class.
        tensors: Number of weights; each was read back and compared.
        size: Size of all files, in bytes.
        difference: Largest difference between logits before and after.
        files: Names of the files, relative to `path`.
        notes: Notes for the user, such as a tokenizer that could not be converted.
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
    **hub_options: Any,
) -> Report:
    """Converts a checkpoint to another format and verifies that the model is the same.

    The destination appears complete or not at all: everything is written beside it, read back,
    compared weight by weight and by the logits, and renamed at the end.

    Args:
        src: Directory, bundled name, hub name or file, in any format that can be read.
        dst: Directory to create; it must not exist, or be empty.
        to: `"safetensors"` (PyTorch and Flax transformers load it), `"h5"` (TensorFlow
            transformers 4) or `"keras_hub"` (a preset); the keys of
            `tfgpt2.checkpoints.registry.WRITERS`.
        dtype: Type to store, such as `"float16"`; None is the type of the source, or float32 where
            the format does not support that.
        progress: Whether to show a progress bar on standard error.
        **hub_options: Options of `tfgpt2.hub.HubOptions`, for `src`.

    Returns:
        What was written.

    Raises:
        FileExistsError: `dst` exists and is not empty.
        FileNotFoundError: There is no such model, or it has no weights.
        ValueError: A format or type is unknown, the source is damaged or does not fit its
            configuration, or the format cannot represent the model.
        RuntimeError: What was written is not what was read; `dst` is then not created.

    Example:
        >>> convert("gpt2-simple/run1", "gpt2-run1", to="safetensors")  # doctest: +SKIP
    """
    writer = _make_writer(to, dtype)
    dst = Path(dst).expanduser()
    _check_destination(dst)
    files = open_repository(src, HubOptions(**hub_options))
    config = load_config(files.find, str(src))
    reader = open_checkpoint(files.find, str(src))
    dtype = dtype or _source_dtype(reader, writer)
    kind = _model_class(config, reader)
    with show_progress(progress) as add_stage, _temporary_directory(dst) as temporary:
        model = _load(kind, config, reader, str(src), add_stage("Reading"))
        model.load_generation_config(files)
        quantization.require_float(model, "A conversion")
        before = probe_outputs(model)
        notes = _write(model, files, temporary, writer, dtype, add_stage("Writing"))
        if unused := WeightLoader(reader).unused:
            notes = [*notes, unused_message(str(src), kind.__name__, unused)]
        new_files = Repository(temporary)
        written = open_checkpoint(new_files.find, str(dst))
        num_tensors = check_weights(model, written, dtype, add_stage("Checking"))
        del model
        new_model = _load(kind, load_config(new_files.find, str(dst)), written, str(dst))
        difference = check_outputs(before, probe_outputs(new_model), dtype)
        if dst.exists():
            dst.rmdir()  # empty, or this raises
        temporary.rename(dst)
    paths = sorted(path for path in dst.rglob("*") if path.is_file())
    return Report(
        path=dst,
        source_format=reader.format,
        format=to,
        model=kind.__name__,
        tensors=num_tensors,
        size=sum(path.stat().st_size for path in paths),
        difference=difference,
        files=tuple(str(path.relative_to(dst)) for path in paths),
        notes=tuple(notes),
    )


def load_keras_hub(model: Any) -> causal_lm.TFGPT2LMHeadModel:
    """Converts a KerasHub GPT-2 model in memory.

    Args:
        model: A `keras_hub.models.GPT2Backbone` or `GPT2CausalLM`.

    Returns:
        A language model with copies of its weights.

    Raises:
        TypeError: It is not a GPT-2 model of KerasHub.
    """
    reader, fields = read_backbone(model)
    config = GPT2Config.from_dict(fields)
    return _load(causal_lm.TFGPT2LMHeadModel, config, reader, type(model).__name__)


def _make_writer(to: str, dtype: str | None) -> CheckpointWriter:
    """Returns the writer of a format, after checking that it can store the type."""
    if to not in WRITERS:
        raise value_error(
            f"`to` must be a format that can be written: {', '.join(WRITERS)}.",
            fix=nearest(str(to), WRITERS),
            to=to,
        )
    writer = WRITERS[to]()
    if dtype is not None and dtype not in writer.dtypes:
        raise value_error(
            f"`dtype` must be a floating-point type that the format {to!r} supports.",
            fix=nearest(str(dtype), writer.dtypes),
            dtype=dtype,
        )
    return writer


def _check_destination(dst: Path) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise FileExistsError(
            explain(
                "The destination must be a directory that does not exist yet, or an empty one.",
                fix="Choose another name, or remove it first.",
                dst=str(dst),
            )
        )


def _source_dtype(reader: CheckpointReader, writer: CheckpointWriter) -> str:
    """Returns the type of the source's token embeddings, or float32 if it cannot be written."""
    keys = [key for key in reader.keys() if with_prefix(key) == "transformer.wte.weight"]
    name = np.dtype(reader.dtype(keys[0])).name if keys else ""
    return name if name in writer.dtypes else "float32"


def _model_class(config: GPT2Config, reader: CheckpointReader) -> type[TFGPT2PreTrainedModel]:
    """Returns the class that has all of the checkpoint's weights.

    `architectures` decides where it names a class whose heads are present; otherwise the keys do.
    """
    keys = [with_prefix(key) for key in reader.keys() if not is_buffer(key)]
    present = {part(key) for key in keys} & set(HEADS) - {"lm_head"}
    fitting = {kind.__name__: kind for kind in _CLASSES if kind.head_parts == present}
    if not fitting:
        raise value_error(
            "The checkpoint has a combination of heads that no GPT-2 class has.",
            fix="Save the model from its own class.",
            heads=sorted(present),
        )
    for name in config.architectures or ():
        kind = fitting.get("TF" + str(name).removeprefix("TF").removeprefix("Flax"))
        if kind is not None:
            return kind
    return next(iter(fitting.values()))


def _load(
    kind: type[TFGPT2PreTrainedModel],
    config: GPT2Config,
    reader: CheckpointReader,
    name: str,
    step: Step = lambda total: None,
) -> TFGPT2PreTrainedModel:
    loader = WeightLoader(reader)
    loader.check_sizes(config, name)

    def read(path: str, shape: tuple[int, ...], dtype: str) -> tf.Tensor | None:
        step(len(reader.keys()))
        return loader.read(path, shape, dtype)

    with initial_weights(read):
        model = kind(config, dtype="float32")
    loader.check(name)
    return model


def _write(
    model: TFGPT2PreTrainedModel,
    files: Repository,
    directory: Path,
    writer: CheckpointWriter,
    dtype: str,
    step: Step,
) -> list[str]:
    """Writes weights, configuration, settings and tokenizer; returns notes for the user."""
    vocabulary = tokenizer_files.read_vocabulary(files.find, model.config.vocab_size)
    tensors = base.stored_tensors(model.weights, dtype)

    def with_step(tensor: StoredTensor) -> StoredTensor:
        def read() -> np.ndarray:
            step(len(tensors))
            return tensor.read()

        return tensor._replace(read=read)

    config = base.stored_config(model.config, type(model).__name__, dtype)
    content = Content(list(map(with_step, tensors)), config, vocabulary)
    notes = writer.write(content, directory)
    model.save_generation_config(directory)
    if not writer.keeps_tokenizer_files:
        return notes
    for name, content in tokenizer_files.read_embedded(files.find).items():
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (directory / name).write_text(text, encoding="utf-8")
    for name in tokenizer_files.NAMES:
        path = tokenizer_files.find_tokenizer_file(files.find, name)
        if path is not None and not (directory / name).exists():
            shutil.copyfile(path, directory / name)
    names = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    if any((directory / name).exists() for name in names):
        return notes
    return [*notes, "The source has no tokenizer."]


@contextlib.contextmanager
def _temporary_directory(dst: Path) -> Iterator[Path]:
    """Creates a directory beside the destination, and removes it if it is still there."""
    temporary = dst.absolute().parent / f".{dst.name}.{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

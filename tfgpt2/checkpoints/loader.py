"""Between a checkpoint and a model: what is loaded, what is written, what did not fit."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import HEADS, is_buffer, key_from_path, part, with_prefix
from tfgpt2.checkpoints.readers import safetensors
from tfgpt2.errors import explain

_WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_STORED_TYPES = ("float64", "float32", "float16", "bfloat16")
_SHAREABLE = (np.float32, np.float64, np.float16, np.int8)  # DLPack has no bfloat16 for numpy
_MAX_LISTED = 20  # keys of one kind that an error shows


class WeightLoader:
    """Hands a checkpoint's tensors to a model that is being built, and knows what did not fit.

    Args:
        reader: The checkpoint.
        may_lack: Parts of the model that may be missing; they are initialised freshly.

    Example:
        >>> from tfgpt2.hub import Repository
        >>> reader = safetensors.SafetensorsReader.from_files(Repository("shakespeare-tiny").find)
        >>> WeightLoader(reader).read("m/transformer/ln_f/bias", (224,), "float32").dtype.name
        'float32'
    """

    def __init__(
        self, reader: safetensors.SafetensorsReader, *, may_lack: Collection[str] = ()
    ) -> None:
        self._reader, self._may_lack = reader, may_lack
        self._stored: dict[str, str] = {}
        self._twice: list[str] = []
        for key in reader.keys():
            if is_buffer(key):
                continue
            if with_prefix(key) in self._stored:
                self._twice.append(key)
            self._stored[with_prefix(key)] = key
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misfits: list[str] = []
        self.fresh: list[str] = []  # keys of a head that the checkpoint lacks

    def read(self, path: str, shape: tuple[int, ...], dtype: str) -> tf.Tensor | None:
        """Returns the value of one weight; see `tfgpt2.nn.layers.initial_weights`.

        For a weight that does not fit, the value is empty: `check` will raise, and until then
        the model must not take the memory that a wrong configuration asks for.
        """
        key = key_from_path(path)
        nothing = tf.zeros([0] * len(shape), dtype)
        if key not in self._stored:
            if part(key) in self._may_lack:
                self.fresh.append(key)
                return None
            self._missing.append(key)
            return nothing
        self._used.add(key)
        stored = self._stored[key]
        found, kind = self._reader.shape(stored), self._reader.dtype(stored)
        if found != tuple(shape):
            self._misfits.append(f"{key} is {list(found)} in the file, {list(shape)} in the model")
            return nothing
        if dtype == "int8" and kind != np.int8:
            self._misfits.append(f"{key} holds {kind} in the file, not int8")
            return nothing
        if dtype != "int8" and not tf.as_dtype(kind).is_floating:
            self._misfits.append(f"{key} holds {kind} in the file, not floating-point numbers")
            return nothing
        return _as_tensor(self._reader.read(stored), dtype)

    def check(self, name: str) -> None:
        """Raises when the checkpoint and the model did not fit together.

        Keys of heads that the model does not have are no fault: a body is loaded from under
        another head, and a tied output matrix is the token table a second time.

        Args:
            name: The checkpoint's name, for the message.

        Raises:
            ValueError: Lists missing, unexpected and mis-shaped keys together.
        """
        unused = sorted(self._stored.keys() - self._used)
        kinds = {
            "missing": self._missing,
            "unexpected": [key for key in unused if part(key) not in HEADS],
            "of another shape or type": self._misfits,
            "stored twice": self._twice,
        }
        problems = [
            f"{kind} ({len(keys)}): {', '.join(keys[:_MAX_LISTED])}"
            + (", ..." if len(keys) > _MAX_LISTED else "")
            for kind, keys in kinds.items()
            if keys
        ]
        if problems:
            raise ValueError(
                explain(
                    "The checkpoint's tensors do not fit the model that its configuration"
                    f" describes. {'; '.join(problems)}.",
                    fix="Check that config.json belongs to the weights and that the class fits.",
                    checkpoint=name,
                )
            )


def _as_tensor(array: np.ndarray, dtype: str) -> tf.Tensor:
    """Makes a tensor of an array that nobody else uses, with at most one copy at a time.

    A plain conversion copies twice, and the token table of a small model is half of it. Shared
    memory has to be aligned as TensorFlow's own is.
    """
    kind = tf.as_dtype(dtype).as_numpy_dtype
    if kind not in _SHAREABLE or not array.size:
        return tf.convert_to_tensor(array.astype(kind, copy=False))
    in_place = array.dtype == kind and array.flags.c_contiguous
    if not in_place or array.ctypes.data % safetensors.ALIGNMENT:
        aligned = safetensors.aligned_array(array.shape, kind)
        aligned[...] = array
        array = aligned
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def write_weights(
    weights: Iterable[keras.Variable],
    directory: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    max_shard_bytes: int,
) -> list[Path]:
    """Writes weights as safetensors, in shards when they are larger than one.

    Every file is first written beside its place; only when all are complete do they move there.

    Args:
        weights: The variables of one model.
        directory: Made if need be. Weight files of an earlier save in it are replaced.
        dtype: Type to store (`"float16"`, `"bfloat16"`, ...); None keeps each weight's own.
        max_shard_bytes: Upper limit of one file, unless a single tensor is larger.

    Returns:
        The files written.

    Raises:
        ValueError: `dtype` is no floating-point type.
    """
    directory = Path(directory)
    shards = _split([_stored(weight, dtype) for weight in weights], max_shard_bytes)
    directory.mkdir(parents=True, exist_ok=True)
    names = [safetensors.WEIGHTS_NAME]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i, _ in enumerate(shards, 1)]
    beside = [directory / f".{name}.{os.getpid()}" for name in names]
    try:
        for path, shard in zip(beside, shards, strict=True):
            safetensors.write(shard, path)
        for path, name in zip(beside, names, strict=True):
            path.replace(directory / name)
    finally:
        for path in beside:
            path.unlink(missing_ok=True)
    if len(shards) > 1:
        safetensors.write_index(
            dict(zip(names, shards, strict=True)), directory / safetensors.INDEX_NAME
        )
        names.append(safetensors.INDEX_NAME)
    _remove_stale(directory, keep=names)
    return [directory / name for name in names]


def _stored(weight: keras.Variable, dtype: str | None) -> safetensors.Stored:
    """Describes one weight as it will stand in the file."""
    kind = dtype or weight.dtype
    if dtype is not None and dtype not in _STORED_TYPES:
        raise ValueError(
            explain(
                "`dtype` must be a floating-point type to store weights in.",
                fix=f"Choose one of {', '.join(_STORED_TYPES)}.",
                dtype=dtype,
            )
        )
    numpy_type = np.dtype(tf.as_dtype(kind).as_numpy_dtype)
    return safetensors.Stored(
        key_from_path(weight.path),
        numpy_type,
        tuple(weight.shape),
        lambda: np.asarray(weight.value).astype(numpy_type, copy=False),
    )


def _split(
    tensors: list[safetensors.Stored], max_shard_bytes: int
) -> list[list[safetensors.Stored]]:
    """Groups tensors, in order, into shards below the limit."""
    shards: list[list[safetensors.Stored]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _remove_stale(directory: Path, keep: list[str]) -> None:
    """Removes weight files of an earlier save, which a loader would otherwise prefer."""
    for path in directory.iterdir():
        if _WEIGHT_FILE.fullmatch(path.name) and path.name not in keep:
            path.unlink()

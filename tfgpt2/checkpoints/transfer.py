"""Between a checkpoint and a model: what is loaded, what is written, what did not fit."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints import safetensors
from tfgpt2.checkpoints.names import is_buffer, key_from_path, with_prefix
from tfgpt2.errors import explain

_MAX_LISTED = 20  # keys of one kind that an error shows


class WeightLoader:
    """Hands a checkpoint's tensors to a model that is being built, and knows what did not fit.

    Args:
        reader: The checkpoint; anything with `keys()`, `shape(key)` and `read(key)`.

    Example:
        >>> from tfgpt2.checkpoints.hub import Repository
        >>> reader = safetensors.SafetensorsReader.from_files(Repository("shakespeare-tiny").find)
        >>> WeightLoader(reader).read("m/transformer/ln_f/bias", (192,), "float32").dtype.name
        'float32'
    """

    def __init__(self, reader: safetensors.SafetensorsReader) -> None:
        self._reader = reader
        self._stored = {with_prefix(key): key for key in reader.keys() if not is_buffer(key)}
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misshapen: list[str] = []

    def read(self, path: str, shape: tuple[int, ...], dtype: str) -> tf.Tensor | None:
        """Returns the value of one weight; see `tfgpt2.modeling.layers.initial_weights`."""
        key = key_from_path(path)
        if key not in self._stored:
            self._missing.append(key)
            return None
        self._used.add(key)
        found = self._reader.shape(self._stored[key])
        if found != shape:
            self._misshapen.append(
                f"{key} is {list(found)} in the file, {list(shape)} in the model"
            )
            return None
        value = self._reader.read(self._stored[key])
        return tf.convert_to_tensor(value.astype(dtype, copy=False))

    def check(
        self, name: str, *, fresh: Collection[str] = (), optional: Collection[str] = ()
    ) -> None:
        """Raises when the checkpoint and the model did not fit together.

        Args:
            name: The checkpoint's name, for the message.
            fresh: Keys the checkpoint may lack: the model's head, initialised freshly.
            optional: Keys the model may not use, such as the output matrix of a tied model.

        Raises:
            ValueError: Lists missing, unexpected and mis-shaped keys together.
        """
        missing = [key for key in self._missing if key not in fresh]
        unexpected = sorted(self._stored.keys() - self._used - set(optional))
        problems = [
            f"{kind} ({len(keys)}): {', '.join(keys[:_MAX_LISTED])}"
            + (", ..." if len(keys) > _MAX_LISTED else "")
            for kind, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", self._misshapen),
            )
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


def write_weights(
    weights: Iterable[keras.Variable],
    directory: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    max_shard_bytes: int,
) -> list[Path]:
    """Writes weights as safetensors, in shards when they are larger than one.

    Args:
        weights: The variables of one model.
        directory: An existing directory. Weight files of an earlier save in it are replaced.
        dtype: Type to store (`"float16"`, `"bfloat16"`, ...); None keeps each weight's own.
        max_shard_bytes: Upper limit of one file, unless a single tensor is larger.

    Returns:
        The files written.
    """
    directory = Path(directory)
    keys = {key_from_path(weight.path): weight for weight in weights}
    shards = _split(keys, dtype, max_shard_bytes)
    names = [safetensors.WEIGHTS_NAME]
    if len(shards) > 1:
        names = [
            f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
        ]
    total = 0
    for name, shard in zip(names, shards, strict=True):
        arrays = dict(_arrays({key: keys[key] for key in shard}, dtype))
        total += sum(array.nbytes for array in arrays.values())
        safetensors.write(arrays, directory / name)
    if len(shards) > 1:
        by_name = dict(zip(names, shards, strict=True))
        safetensors.write_index(by_name, total, directory / safetensors.INDEX_NAME)
        names = [*names, safetensors.INDEX_NAME]
    _remove_stale(directory, keep=names)
    return [directory / name for name in names]


def _arrays(
    weights: dict[str, keras.Variable], dtype: str | None
) -> Iterator[tuple[str, np.ndarray]]:
    for key, weight in weights.items():
        array = np.asarray(weight.value)
        yield key, array if dtype is None else array.astype(tf.as_dtype(dtype).as_numpy_dtype)


def _split(
    weights: dict[str, keras.Variable], dtype: str | None, max_shard_bytes: int
) -> list[list[str]]:
    """Groups keys, in order, into shards below the limit."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, weight in weights.items():
        bytes_per_number = tf.as_dtype(dtype or weight.dtype).size
        grown = bytes_per_number * int(np.prod(weight.shape))
        if shards[-1] and size + grown > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += grown
    return shards


def _remove_stale(directory: Path, keep: list[str]) -> None:
    """Removes weight files of an earlier save, which a loader would otherwise prefer."""
    for path in directory.glob("model*.safetensors*"):
        if path.name not in keep:
            path.unlink()

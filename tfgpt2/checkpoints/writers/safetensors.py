"""Safetensors files as PyTorch and Flax transformers load them: one file, or shards with an index.

The format's own library copies all tensors before it writes, and creates files that only their
owner can read; this writer does neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tfgpt2.checkpoints.readers.safetensors import DTYPES, INDEX_NAME, WEIGHTS_NAME
from tfgpt2.checkpoints.writers.base import CheckpointWriter, Content, StoredTensor
from tfgpt2.errors import value_error
from tfgpt2.files import replace_files

_DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


class SafetensorsWriter(CheckpointWriter):
    """Writes safetensors files and `config.json`.

    All files are complete before they replace those of an earlier save.

    Args:
        max_shard_bytes: Upper limit of one file, unless a single tensor is larger.
    """

    format = "safetensors"

    def __init__(self, max_shard_bytes: int = 5_000_000_000) -> None:
        self._max_shard_bytes = max_shard_bytes

    def write(self, content: Content, directory: Path) -> list[str]:
        """Writes weights and configuration; see `CheckpointWriter.write`."""
        shards = _split(content.tensors, self._max_shard_bytes)
        names = [WEIGHTS_NAME]
        if len(shards) > 1:
            names = [
                f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
            ]
        directory.mkdir(parents=True, exist_ok=True)
        with replace_files([directory / name for name in names]) as temporary:
            for path, shard in zip(temporary, shards, strict=True):
                write_file(shard, path)
        if len(shards) > 1:
            _write_index(dict(zip(names, shards, strict=True)), directory / INDEX_NAME)
            names.append(INDEX_NAME)
        _remove_stale(directory, keep=names)
        content.config.save_pretrained(directory)
        return []


def write_file(tensors: Iterable[StoredTensor], path: Path) -> None:
    """Writes one safetensors file.

    Args:
        tensors: What to write, in this order.
        path: The file to write.

    Raises:
        ValueError: A tensor does not have the shape that was announced.
    """
    tensors = list(tensors)
    # transformers refuses a file whose metadata does not name a framework.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.key] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            array = np.asarray(tensor.read(), tensor.dtype, order="C")
            if array.shape != tensor.shape:
                raise value_error(
                    f"The values of {tensor.key} must have shape {tensor.shape}.",
                    fix="Pass the shape that `read` returns.",
                    shape=array.shape,
                )
            file.write(array.reshape(-1).view(np.uint8))


def _split(tensors: Iterable[StoredTensor], max_shard_bytes: int) -> list[list[StoredTensor]]:
    """Groups tensors, in order, into shards below the limit."""
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _write_index(shards: Mapping[str, Iterable[StoredTensor]], path: Path) -> None:
    """Writes the index of a sharded checkpoint, from tensors by file name."""
    named = [(tensor, name) for name, tensors in shards.items() for tensor in tensors]
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor, _ in named)},
        "weight_map": {tensor.key: name for tensor, name in sorted(named, key=lambda n: n[0].key)},
    }
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _remove_stale(directory: Path, keep: list[str]) -> None:
    """Removes weight files of an earlier save, which a loader might otherwise prefer."""
    for path in directory.iterdir():
        if _WEIGHT_FILE.fullmatch(path.name) and path.name not in keep:
            path.unlink()

"""Tensors under another framework's names, such as those of Flax in a safetensors file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers import base
from tfgpt2.checkpoints.readers.base import CheckpointReader, Rename
from tfgpt2.errors import unreadable


class _Entry(NamedTuple):
    """A tensor: its name in the file, PyTorch's shape, type, and whether it is transposed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    transposed: bool


class RenamedReader(CheckpointReader):
    """The tensors of another reader, under PyTorch's keys and in PyTorch's layout.

    Args:
        reader: Reader of the file.
        rename: From a name in the file to PyTorch's key and whether the matrix is transposed.

    Raises:
        ValueError: Two names are those of the same key.
    """

    def __init__(self, reader: CheckpointReader, rename: Rename) -> None:
        self._reader, self.format, self.path = reader, reader.format, reader.path
        self._entries: dict[str, _Entry] = {}
        for name in reader.keys():
            key, transposed = rename(name)
            if key in self._entries:
                raise unreadable(self.path, "two of its tensors have the same key", key=key)
            shape = reader.shape(name)
            transposed = transposed and len(shape) == 2
            shape = base.pytorch_shape(key, shape, transposed)
            self._entries[key] = _Entry(name, shape, reader.dtype(name), transposed)

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        return base.pytorch_layout(self._reader.read(entry.name), entry.shape, entry.transposed)

"""Checkpoints whose blocks are made of `torch.nn.Linear`, as nanoGPT, minGPT and llm.c have them.

transformers' GPT-2 keeps a projection as `[in, out]`; `torch.nn.Linear` as `[out, in]`. Of the four
projections of a block only `c_attn` tells which: it is `[D, 3D]` or `[3D, D]`. Such models may also
be trained without biases, which is the same as biases of zero.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers.base import CheckpointReader

_MATRIX = re.compile(
    r"(?:.*\.)?h\.\d+\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight"
)
_FUSED = re.compile(r"(?:.*\.)?h\.\d+\.attn\.c_attn\.weight")
# Layers that have biases together, or none of them has.
_GROUPS = (
    _MATRIX,
    re.compile(r"(?:.*\.)?(?:h\.\d+\.ln_[12]|ln_f)\.weight"),
)


class _Entry(NamedTuple):
    """A tensor: its key in the file (None for a bias of zeros), shape, type, and layout."""

    stored: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    transposed: bool = False


class LinearLayoutReader(CheckpointReader):
    """The tensors of another reader with `[in, out]` projections and with all biases.

    Args:
        reader: Reader of the file.
        transposed: Whether its projections are `[out, in]`.
        weights: Keys of the layers' weights whose biases are missing.
    """

    def __init__(self, reader: CheckpointReader, transposed: bool, weights: list[str]) -> None:
        self._reader, self.format, self.path = reader, reader.format, reader.path
        self._entries = {}
        for key in reader.keys():
            shape, turn = reader.shape(key), transposed and _MATRIX.fullmatch(key) is not None
            shape = shape[::-1] if turn else shape
            self._entries[key] = _Entry(key, shape, reader.dtype(key), turn)
        for key in weights:
            size = self._entries[key].shape[-1:]
            bias = f"{key.removesuffix('weight')}bias"
            self._entries[bias] = _Entry(None, size, reader.dtype(key))

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        if entry.stored is None:
            return np.zeros(entry.shape, entry.dtype)
        array = self._reader.read(entry.stored)
        return np.ascontiguousarray(array.T) if entry.transposed else array


def in_gpt2_layout(reader: CheckpointReader) -> CheckpointReader:
    """Returns a reader of the same tensors with `[in, out]` projections and with all biases.

    Args:
        reader: Reader of a GPT-2 checkpoint in PyTorch's names.
    """
    keys = reader.keys()
    shapes = [reader.shape(key) for key in keys if _FUSED.fullmatch(key)]
    transposed = bool(shapes) and all(_is_linear(shape) for shape in shapes)
    stored, missing = set(keys), []
    for group in _GROUPS:
        weights = [key for key in keys if group.fullmatch(key)]
        biases = [f"{key.removesuffix('weight')}bias" for key in weights]
        if stored.isdisjoint(biases):
            missing += weights
    return LinearLayoutReader(reader, transposed, missing) if transposed or missing else reader


def _is_linear(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == 3 * shape[1]

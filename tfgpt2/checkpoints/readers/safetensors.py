"""The safetensors format: one file, or several shards with an index.

A tensor is read straight into its final buffer: a memory map would keep the whole file resident
beside the weights. The header is not trusted.

Source: the format, https://huggingface.co/docs/safetensors (section "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfgpt2.checkpoints.readers.base import ShardedReader, read_into
from tfgpt2.errors import unreadable

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

ALIGNMENT = 64  # bytes; TensorFlow's own tensors begin at multiples of it
_MAX_HEADER = 100_000_000  # bytes; the limit that the format sets
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class _Entry(NamedTuple):
    """A tensor: its file, position of its first byte, type and shape."""

    path: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class SafetensorsReader(ShardedReader):
    """The tensors of a safetensors checkpoint.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is cut short, or its header is damaged or has wrong sizes.

    Example:
        >>> from tfgpt2.hub import Repository
        >>> files = Repository("shakespeare-tiny")
        >>> SafetensorsReader([files.require("model.safetensors")]).shape("transformer.ln_f.bias")
        (224,)
    """

    format = "safetensors"
    file_names = (WEIGHTS_NAME, INDEX_NAME)
    suffixes = (".safetensors",)

    def _read_entries(self, path: Path) -> Iterable[tuple[str, _Entry]]:
        return _read_header(path).items()

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        array = aligned_array(entry.shape, entry.dtype)
        read_into(array, entry.path, entry.start, key)
        return array


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array whose memory TensorFlow can use without a copy.

    Args:
        shape: Its shape.
        dtype: Its type.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _read_header(path: Path) -> dict[str, _Entry]:
    """Parses and checks the header of one file; returns entries by key."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise unreadable(path, f"its header claims {length} bytes of a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "its header is not valid JSON") from error
    try:
        header.pop("__metadata__", None)
        entries = {key: _entry(path, value, 8 + length) for key, value in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, f"its header is not a table of tensors ({error})") from error
    _check_extent(path, entries, 8 + length, size)
    return entries


def _check_extent(path: Path, entries: Mapping[str, _Entry], start: int, size: int) -> None:
    """Checks that the tensors fill the file without gaps or overlaps, as the format requires."""
    for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != start and math.prod(entry.shape):
            raise unreadable(
                path, f"a tensor begins at byte {entry.start} instead of {start}", key=key
            )
        start += math.prod(entry.shape) * entry.dtype.itemsize
        if start > size:
            raise unreadable(
                path, f"a tensor ends at byte {start} of a file of {size}: it is cut short", key=key
            )
    if start != size:
        raise unreadable(path, f"its tensors end at byte {start} of a file of {size}")


def _entry(path: Path, value: Mapping[str, object], base: int) -> _Entry:
    """Checks one entry of the header."""
    name, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    if name not in DTYPES:
        raise ValueError(f"the type {name!r} is not one of {', '.join(DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a negative or fractional size")
    dtype = np.dtype(DTYPES[name])
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - start} bytes for shape {list(shape)} of {name}")
    return _Entry(path, base + start, dtype, shape)

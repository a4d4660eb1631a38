"""The safetensors format: one file or several shards with an index.

Reading is our own, a tensor at a time straight into its final buffer: a memory map would keep
the whole file resident beside the weights; the header is not trusted. Writing is our own too: the
library copies all tensors first, and makes files that only their owner can read.

Source: the format, https://huggingface.co/docs/safetensors (section "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfgpt2.checkpoints.shards import ShardedReader
from tfgpt2.errors import explain

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

ALIGNMENT = 64  # bytes; TensorFlow's own tensors begin at multiples of it
_MAX_HEADER = 100_000_000  # bytes; the limit that the format sets
_DTYPES = {
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
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class _Entry(NamedTuple):
    """Where a tensor is: file, absolute first byte, type and shape."""

    path: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Stored(NamedTuple):
    """A tensor that `write` is to store.

    Attributes:
        key: Its checkpoint key.
        dtype: The type to store it in.
        shape: Its shape.
        read: Returns its values.
    """

    key: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsReader(ShardedReader):
    """The tensors of one checkpoint, read one at a time.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is truncated, or its header is broken or lies about sizes.

    Example:
        >>> from tfgpt2.hub import Repository
        >>> files = Repository("shakespeare-tiny")
        >>> SafetensorsReader([files.require("model.safetensors")]).shape("transformer.ln_f.bias")
        (224,)
    """

    WEIGHTS_NAME, INDEX_NAME = WEIGHTS_NAME, INDEX_NAME

    def __init__(self, paths: Iterable[Path]) -> None:
        self._entries: dict[str, _Entry] = {}
        for path in paths:
            for key, entry in _read_header(path).items():
                if key in self._entries:
                    raise _broken(path, f"the tensor {key!r} is also in {self._entries[key].path}")
                self._entries[key] = entry

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return self._entries[key].dtype

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in the type the file has (bfloat16 as `ml_dtypes.bfloat16`)."""
        entry = self._entries[key]
        array = aligned_array(entry.shape, entry.dtype)
        with entry.path.open("rb") as file:
            file.seek(entry.start)
            count = file.readinto(array.reshape(-1).view(np.uint8))
        if count != array.nbytes:
            raise _broken(entry.path, f"it ended inside the tensor {key!r}")
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


def write(tensors: Iterable[Stored], path: Path) -> None:
    """Writes one safetensors file that PyTorch transformers accepts.

    Args:
        tensors: What to write, in this order; each is read when its turn comes, so that a model
            is never held twice.
        path: The file to write.

    Raises:
        ValueError: A tensor is not what was announced.
    """
    tensors = list(tensors)
    # transformers refuses a file whose metadata does not name a framework.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.key] = {
            "dtype": _NAMES[tensor.dtype],
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
                raise ValueError(f"{tensor.key} has shape {array.shape} and not {tensor.shape}.")
            file.write(array.reshape(-1).view(np.uint8))


def write_index(shards: Mapping[str, Iterable[Stored]], path: Path) -> None:
    """Writes the index of a sharded checkpoint.

    Args:
        shards: Tensors by shard file name.
        path: The index file.
    """
    named = [(tensor, name) for name, tensors in shards.items() for tensor in tensors]
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor, _ in named)},
        "weight_map": {tensor.key: name for tensor, name in sorted(named, key=lambda n: n[0].key)},
    }
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read_header(path: Path) -> dict[str, _Entry]:
    """Parses and checks the header of one file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise _broken(path, f"its header claims {length} bytes of a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its header is not valid JSON") from error
    try:
        header.pop("__metadata__", None)
        entries = {key: _entry(path, value, 8 + length) for key, value in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"its header is no table of tensors ({error})") from error
    _check_extent(path, entries, 8 + length, size)
    return entries


def _check_extent(path: Path, entries: Mapping[str, _Entry], start: int, size: int) -> None:
    """Checks that the tensors fill the file, one after the other, as the format asks."""
    for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != start and math.prod(entry.shape):
            raise _broken(path, f"the tensor {key!r} begins at byte {entry.start} and not {start}")
        start += math.prod(entry.shape) * entry.dtype.itemsize
        if start > size:
            raise _broken(
                path,
                f"the tensor {key!r} ends at byte {start} of a file of {size}: it is cut short",
            )
    if start != size:
        raise _broken(path, f"its tensors end at byte {start} of a file of {size}")


def _entry(path: Path, value: Mapping[str, object], base: int) -> _Entry:
    """Checks one line of the header."""
    name, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    if name not in _DTYPES:
        raise ValueError(f"the type {name!r} is none of {', '.join(_DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a negative or fractional size")
    dtype = np.dtype(_DTYPES[name])
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - start} bytes for shape {list(shape)} of {name}")
    return _Entry(path, base + start, dtype, shape)


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        explain(
            f"The file is not a readable safetensors checkpoint: {reason}.",
            fix="Download or save it again.",
            path=str(path),
        )
    )

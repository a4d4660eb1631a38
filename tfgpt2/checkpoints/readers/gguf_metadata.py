"""The header of a GGUF file: metadata by name, and the table of tensors. It is not trusted.

Source: https://github.com/ggml-org/ggml, `docs/gguf.md` (section "File Structure").
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers.gguf_blocks import FLOATS, NAMES, QUANTISED
from tfgpt2.errors import unreadable, value_error

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 10_000_000  # of an array or a table; a vocabulary has some hundred thousand
_MAX_DIMENSIONS = 4


class TensorInfo(NamedTuple):
    """A tensor: shape, type of GGUF, and position of its first byte."""

    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        if self.kind in FLOATS:
            return math.prod(self.shape) * FLOATS[self.kind].itemsize
        blocks = QUANTISED[self.kind]
        return math.prod(self.shape) // blocks.size * blocks.nbytes


class Contents(NamedTuple):
    """A file's metadata and tensors, both by name."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_contents(path: Path) -> Contents:
    """Reads the header of a GGUF file and checks it against the file's size.

    Args:
        path: The file.

    Raises:
        ValueError: It is damaged, of another version, or has tensors of an unsupported type.
    """
    with path.open("rb") as file:
        stream = _Stream(path, file)
        if stream.take(4) != MAGIC:
            raise unreadable(path, "it does not begin with 'GGUF'")
        version = stream.number("<u4")
        if version not in _VERSIONS:
            raise value_error(
                f"The GGUF file must be of version {' or '.join(map(str, _VERSIONS))}, in"
                " little-endian order.",
                fix="Convert the model again with the current llama.cpp.",
                path=str(path),
                version=version,
            )
        num_tensors, num_values = stream.count("tensors"), stream.count("metadata values")
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            name = stream.string()
            if name in metadata:
                raise unreadable(path, "a metadata value is stored twice", key=name[:100])
            metadata[name] = stream.value(stream.number("<u4"))
        infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(num_tensors):
            name = stream.string()
            if name in infos:
                raise unreadable(path, "a tensor is stored twice", key=name[:100])
            infos[name] = _read_info(stream)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20:
            raise unreadable(path, "its alignment is not possible", alignment=alignment)
        first = -(-stream.position // alignment) * alignment
    tensors = {}
    for name, (shape, kind, offset) in infos.items():
        _check_type(path, name, shape, kind)
        tensors[name] = TensorInfo(shape, kind, first + offset)
        if tensors[name].start + tensors[name].nbytes > stream.size:
            raise unreadable(path, "a tensor ends after the end of the file", key=name[:100])
    return Contents(metadata, tensors)


def _read_info(stream: _Stream) -> tuple[tuple[int, ...], int, int]:
    """Reads shape, type and offset of one tensor."""
    count = stream.number("<u4")
    if count > _MAX_DIMENSIONS:
        raise unreadable(stream.path, f"a tensor has {count} dimensions")
    sizes = [stream.number("<u8") for _ in range(count)]
    # The first size is that of neighbouring elements: the last one of a shape.
    return tuple(reversed(sizes)), stream.number("<u4"), stream.number("<u8")


def _check_type(path: Path, name: str, shape: tuple[int, ...], kind: int) -> None:
    """Checks that a tensor has a supported type, and rows of whole blocks."""
    if kind not in FLOATS and kind not in QUANTISED:
        known = ", ".join(NAMES[each] for each in sorted({*FLOATS, *QUANTISED}))
        raise value_error(
            f"The GGUF file holds numbers of the type {NAMES.get(kind, kind)}; supported are"
            f" {known}.",
            fix="Convert it with llama.cpp: `llama-quantize --allow-requantize FILE OUT F16`.",
            path=str(path),
            tensor=name[:100],
        )
    size = 1 if kind in FLOATS else QUANTISED[kind].size
    if not shape or shape[-1] % size:
        raise unreadable(
            path, f"a tensor's rows are not whole blocks of {size} numbers", key=name[:100]
        )


class _Stream:
    """Values of a file one after the other, each no longer than the rest of the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file, self.position = path, file, 0
        self.size = os.fstat(file.fileno()).st_size

    def take(self, count: int) -> bytes:
        """Reads bytes."""
        if count > self.size - self.position:
            raise unreadable(self.path, "it is cut short, or a length in its header is wrong")
        self.position += count
        return self._file.read(count)

    def number(self, dtype: str) -> int:
        """Reads one integer."""
        return int(np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0])

    def count(self, what: str) -> int:
        """Reads the number of entries of a table."""
        count = self.number("<u8")
        if count > min(_MAX_ITEMS, self.size):
            raise unreadable(self.path, f"its header asks for {count} {what}")
        return count

    def string(self) -> str:
        """Reads a text."""
        data = self.take(self.number("<u8"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise unreadable(self.path, f"a text in its header is not UTF-8 ({error})") from error

    def value(self, kind: int) -> Any:
        """Reads a metadata value: a number, a text, or a list of either."""
        if kind in _NUMBERS:
            data = self.take(np.dtype(_NUMBERS[kind]).itemsize)
            number = np.frombuffer(data, _NUMBERS[kind])[0]
            # The shortest decimal: 1e-5, not the 9.99999974e-06 that float32 makes of it.
            return float(str(number)) if number.dtype == np.float32 else number.item()
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise unreadable(self.path, f"a metadata value has the unknown type {kind}")
        kind, length = self.number("<u4"), self.count("values in an array")
        if kind in _NUMBERS:
            data = self.take(length * np.dtype(_NUMBERS[kind]).itemsize)
            return np.frombuffer(data, _NUMBERS[kind]).tolist()
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        raise unreadable(self.path, f"an array in its metadata has elements of the type {kind}")

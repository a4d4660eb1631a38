"""The `flax_model.msgpack` files of Flax transformers.

The `msgpack` library can only load such a file as a whole, which would hold every weight twice.
Here the file is parsed for the positions of its arrays, and each is read on request.

Source: the format, https://github.com/msgpack/msgpack/blob/master/spec.md; flax's use of it,
flax 0.12, `serialization.py::_ndarray_to_bytes, _chunk`; transformers 4.57, `FlaxConv1D`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers.base import Rename, ShardedReader, pytorch_layout, read_into
from tfgpt2.checkpoints.readers.torch_pickle import DTYPES
from tfgpt2.errors import unreadable

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY = 1  # flax's msgpack extension type for arrays
_MAX_DEPTH = 32
_MAX_STRING = 4096  # bytes of a name
_MAX_RANK = 8


class _Piece(NamedTuple):
    """An array in the file: type, shape, and position of its first byte."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Entry(NamedTuple):
    """A tensor: its file, type, PyTorch's shape, whether it is transposed, and its numbers."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    transposed: bool
    pieces: tuple[_Piece, ...]


class FlaxReader(ShardedReader):
    """The tensors of a `flax_model.msgpack`, under PyTorch's keys and in PyTorch's layout.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is damaged or has wrong sizes.
    """

    format = "flax"
    file_names = ("flax_model.msgpack", "flax_model.msgpack.index.json")
    suffixes = (".msgpack",)

    def _read_entries(self, path: Path) -> Iterable[tuple[str, _Entry]]:
        for name, (shape, pieces) in _Parser(path).tensors().items():
            key, transposed = key_from_name(name)
            transposed = transposed and len(shape) == 2
            shape = shape[::-1] if transposed else shape
            yield key, _Entry(path, pieces[0].dtype, shape, transposed, pieces)

    @classmethod
    def renaming(cls, names: Iterable[str]) -> Rename | None:
        """Recognises Flax's names in a safetensors file by their `kernel`."""
        return key_from_name if any(name.endswith(".kernel") for name in names) else None

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        path, dtype, shape, transposed, pieces = self._entries[key]
        array = np.empty(shape[::-1] if transposed else shape, dtype)
        flat, done = array.reshape(-1).view(np.uint8), 0
        for piece in pieces:
            read_into(flat[done : done + piece.nbytes], path, piece.start, key)
            done += piece.nbytes
        return pytorch_layout(array, shape, transposed)


def key_from_name(name: str) -> tuple[str, bool]:
    """Returns PyTorch's key for a Flax parameter, and whether its matrix is transposed.

    Flax's GPT-2 has Conv1D kernels [out, in] and Dense kernels [in, out], the reverse of PyTorch.

    Args:
        name: Path of the parameter, with `/` or `.` between its parts.

    Example:
        >>> key_from_name("transformer/h/0/attn/c_attn/kernel")
        ('transformer.h.0.attn.c_attn.weight', True)
        >>> key_from_name("transformer/ln_f/scale")
        ('transformer.ln_f.weight', False)
    """
    parts = name.replace("/", ".").removeprefix("params.").split(".")
    leaf = parts[-1]
    return ".".join([*parts[:-1], _LEAVES.get(leaf, leaf)]), leaf == "kernel"


class _Parser:
    """Parses one file without loading its arrays."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, path.stat().st_size

    def _error(self, reason: str, **received: object) -> ValueError:
        return unreadable(self._path, reason, **received)

    def tensors(self) -> dict[str, tuple[tuple[int, ...], tuple[_Piece, ...]]]:
        """Returns shape and pieces of every array, by its path in the nested maps."""
        found: dict[str, tuple[tuple[int, ...], tuple[_Piece, ...]]] = {}
        with self._path.open("rb") as file:
            self._file: BinaryIO = file
            tree = self._value(0)
            if type(tree) is not dict or file.tell() != self._size:
                raise self._error("it is not a msgpack map of parameters")
        self._collect(tree, (), found)
        if not found:
            raise self._error("it holds no arrays")
        return found

    def _collect(self, tree: dict, path: tuple[str, ...], found: dict) -> None:
        for name, value in tree.items():
            key = "/".join((*path, str(name)))
            if type(value) is _Piece:
                found[key] = (value.shape, (value,))
            elif type(value) is dict and _CHUNKED in value:
                found[key] = self._joined(value, key)
            elif type(value) is dict:
                self._collect(value, (*path, str(name)), found)
            else:
                raise unreadable(
                    self._path,
                    f"it holds a {type(value).__name__} where an array is expected",
                    key=key,
                )

    def _joined(self, value: dict, key: str) -> tuple[tuple[int, ...], tuple[_Piece, ...]]:
        """Reads shape and pieces of an array that was too large for one msgpack value."""
        try:
            shape = tuple(value["shape"][str(i)] for i in range(len(value["shape"])))
            pieces = tuple(value["chunks"][str(i)] for i in range(len(value["chunks"])))
            whole = math.prod(shape) == sum(math.prod(piece.shape) for piece in pieces)
            same = len({piece.dtype for piece in pieces}) == 1
        except (KeyError, TypeError, AttributeError) as error:
            raise self._error("the pieces of an array are damaged", key=key) from error
        if not whole or not same or not all(type(size) is int and size >= 0 for size in shape):
            raise self._error("the pieces of an array do not match its shape", key=key)
        return shape, pieces

    def _value(self, depth: int) -> object:
        """Reads one value; an array becomes a `_Piece`."""
        if depth > _MAX_DEPTH:
            raise self._error("its maps are nested too deeply")
        code = self._uint(1)
        if code < 0x80:
            return code
        if code < 0x90 or code in (0xDE, 0xDF):
            return self._map(code & 15 if code < 0x90 else self._uint(2 << (code - 0xDE)), depth)
        if 0xA0 <= code < 0xC0 or 0xD9 <= code <= 0xDB:
            return self._string(code & 31 if code < 0xC0 else self._uint(1 << (code - 0xD9)))
        if 0xC7 <= code <= 0xC9:
            return self._extension(self._uint(1 << (code - 0xC7)))
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << (code - 0xD4))
        if 0xCC <= code <= 0xCF:
            return self._uint(1 << (code - 0xCC))
        if code in (0xC2, 0xC3):
            return code == 0xC3
        raise self._error(
            f"it holds a value of msgpack type 0x{code:02x}, which flax does not write"
        )

    def _map(self, count: int, depth: int) -> dict[object, object]:
        built: dict[object, object] = {}
        for _ in range(count):
            name = self._value(depth + 1)
            if type(name) not in (str, int) or name in built:
                raise self._error("a map in it has an invalid or repeated name", name=name)
            built[name] = self._value(depth + 1)
        return built

    def _string(self, length: int) -> str:
        if length > _MAX_STRING:
            raise self._error(f"a name in it has a length of {length} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _extension(self, length: int) -> _Piece:
        """Reads an array: msgpack of (shape, name of the type, numbers)."""
        kind, start = self._uint(1), self._file.tell()
        if kind != _NDARRAY or start + length > self._size:
            raise self._error(f"it holds an extension of type {kind} and {length} bytes at {start}")
        if self._uint(1) != 0x93:
            raise self._error("the description of an array in it is damaged")
        rank = self._uint(1) - 0x90
        if not 0 <= rank <= _MAX_RANK:
            raise self._error("an array in it has no readable shape")
        shape = tuple(self._value(_MAX_DEPTH) for _ in range(rank))
        name = self._value(_MAX_DEPTH)
        if (
            type(name) is not str
            or name not in DTYPES
            or not all(type(size) is int for size in shape)
        ):
            raise self._error("an array in it has an unknown type", type=name, shape=shape)
        code = self._uint(1)
        if not 0xC4 <= code <= 0xC6:
            raise self._error("an array in it has no data")
        size = self._uint(1 << (code - 0xC4))
        piece = _Piece(DTYPES[name], shape, self._file.tell())
        end = piece.start + size
        if size != piece.nbytes or end != start + length:
            raise self._error(f"an array of shape {list(shape)} and type {name} has {size} bytes")
        self._file.seek(end)
        return piece

    def _uint(self, length: int) -> int:
        return int.from_bytes(self._bytes(length), "big")

    def _bytes(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) != length:
            raise self._error("it is cut short")
        return data

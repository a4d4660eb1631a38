"""The `pytorch_model.bin` files of PyTorch, read without PyTorch and without executing anything.

`torch.save` writes a zip archive (since PyTorch 1.6) or several pickles followed by the numbers
(before; the original `gpt2` is one). Both hold a pickle that describes the tensors, which
`torch_pickle` reads, and storages: arrays of numbers of which a tensor is a view.

Source: PyTorch 2.13, `torch/serialization.py::_save, _legacy_save, _legacy_load`.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers import torch_pickle
from tfgpt2.checkpoints.readers.base import ShardedReader, read_into
from tfgpt2.checkpoints.readers.torch_pickle import RefusedError, Storage, Tensor
from tfgpt2.errors import unreadable

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE = 100_000_000  # bytes


class _Place(NamedTuple):
    """Position of a storage's first byte, and the checksum in the file (0 for none)."""

    start: int
    checksum: int = 0


class _Entry(NamedTuple):
    """A tensor: its file, shape and type, the place of its storage, and its view of it."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    place: _Place
    tensor: Tensor


class TorchBinReader(ShardedReader):
    """The tensors of a `pytorch_model.bin`.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is damaged, has wrong sizes, is compressed, or asks Python to execute
            something; nothing of it is executed.
    """

    format = "torch"
    file_names = ("pytorch_model.bin", "pytorch_model.bin.index.json")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file is one of `torch.save`."""
        with path.open("rb") as file:
            return file.read(4).startswith((_ZIP, _PICKLE))

    @staticmethod
    def select(value: object) -> Mapping[str, Tensor]:
        """Returns the state dict that a file holds.

        Args:
            value: What `torch.save` was given, as `torch_pickle` reads it.

        Raises:
            RefusedError: It is something else.
        """
        return _state_dict(value)

    def _read_entries(self, path: Path) -> Iterable[tuple[str, _Entry]]:
        value, places = read_value(path)
        try:
            tensors = self.select(value)
        except RefusedError as error:
            raise unreadable(path, str(error)) from error
        for key, tensor in tensors.items():
            _check_reach(path, key, tensor)
            place = places[tensor.storage.key]
            yield key, _Entry(path, tensor.shape, tensor.dtype, place, tensor)

    def stored(self, key: str) -> Tensor:
        """Returns the description of one tensor: tied weights have the same."""
        return self._entries[key].tensor

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type.

        Raises:
            ValueError: The tensor has more elements than are stored, or its numbers do not match
                their checksum.
        """
        path, shape, dtype, place, tensor = self._entries[key]
        if not math.prod(shape):
            return np.empty(shape, dtype)
        span = _span(tensor)
        if math.prod(shape) > span:
            # An expanded tensor: a few bytes on disk can ask for any amount of memory.
            raise unreadable(
                path, "a tensor has more elements than the file stores", key=key, shape=shape
            )
        numbers = np.empty(span, dtype)
        read_into(numbers, path, place.start + tensor.offset * dtype.itemsize, key)
        # A checksum covers a whole storage, so it is checked where the tensor fills its storage.
        whole = not tensor.offset and span == tensor.storage.length
        if whole and place.checksum and zlib.crc32(numbers.view(np.uint8)) != place.checksum:
            raise unreadable(path, "a tensor's numbers do not match their checksum", key=key)
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        view = np.lib.stride_tricks.as_strided(numbers, shape, strides, writeable=False)
        if view.flags.c_contiguous:
            return numbers.reshape(shape)
        return np.ascontiguousarray(view)


def _span(tensor: Tensor) -> int:
    """Number of elements of its storage that a tensor spans; the tensor is not empty."""
    steps = zip(tensor.shape, tensor.strides, strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def read_value(path: Path) -> tuple[object, dict[str, _Place]]:
    """Reads what a file of `torch.save` describes, and checks its storages against the file.

    Args:
        path: The file.

    Returns:
        The value, as `torch_pickle.load` returns it, and the places of its storages.

    Raises:
        ValueError: The file is damaged, or asks for something that a checkpoint does not need.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            return _read_zip(file) if start == _ZIP else _read_legacy(file)
        except RefusedError as error:
            raise unreadable(path, str(error)) from error


def _check_reach(path: Path, key: str, tensor: Tensor) -> None:
    """Checks that a tensor stays within its storage."""
    size = tensor.storage.length * tensor.storage.dtype.itemsize
    end = tensor.offset + (_span(tensor) if math.prod(tensor.shape) else 0)
    if end * tensor.dtype.itemsize > size:
        raise unreadable(
            path,
            f"a tensor reaches over {end * tensor.dtype.itemsize} bytes of a storage of {size}",
            key=key,
            shape=tensor.shape,
        )


def _state_dict(state: object) -> Mapping[str, Tensor]:
    """Checks that the pickled value is a dict of tensors."""
    if type(state) is not dict or not state:
        raise RefusedError("it does not hold a state dict, a dict of tensors by name")
    for key, value in state.items():
        if type(key) is str and type(value) is Tensor:
            continue
        if type(value) is dict and any(type(inner) is Tensor for inner in value.values()):
            program = "nanoGPT" if "model_args" in state else "a training program"
            raise RefusedError(
                f"it is the checkpoint of {program}, with a state dict under {key!r};"
                f" save only that one, with `torch.save(checkpoint[{key!r}], path)`"
            )
        raise RefusedError(f"under {key!r} it holds a {type(value).__name__}, not a tensor")
    return state


# The zip format -------------------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> tuple[object, dict[str, _Place]]:
    """Reads the pickle of a zip archive, and the places of its storages."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise RefusedError(
                    f"it is a zip archive with {len(pickles)} files `data.pkl` instead of one"
                )
            _check_member(members[pickles[0]], _MAX_PICKLE)
            folder = pickles[0].removesuffix("data.pkl")
            order = members.get(f"{folder}byteorder")
            if order is not None:
                _check_member(order, 16)
                if _content(file, order) != b"little":
                    raise RefusedError("its numbers are not in little-endian order")
            state = torch_pickle.load(io.BytesIO(_content(file, members[pickles[0]])))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError) as error:
        raise RefusedError(f"its zip archive is damaged ({error})") from error
    except (RuntimeError, EOFError, UnicodeError, OverflowError) as error:
        raise RefusedError(f"its zip archive is damaged ({error!r})") from error
    places = {
        storage.key: _storage_place(file, members, f"{folder}data/{storage.key}", storage)
        for storage in _storages(state)
    }
    return state, places


def _check_member(info: zipfile.ZipInfo, limit: int) -> None:
    """Checks that a member is not compressed, encrypted or larger than `limit` bytes."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise RefusedError(
            f"{info.filename!r} in it is compressed ({info.compress_size} bytes for"
            f" {info.file_size}), which PyTorch never does"
        )
    if info.flag_bits & 1:
        raise RefusedError(f"{info.filename!r} in it is encrypted")
    if info.file_size > limit:
        raise RefusedError(f"{info.filename!r} in it has {info.file_size} bytes")


def _storage_place(
    file: BinaryIO, members: Mapping[str, zipfile.ZipInfo], name: str, storage: Storage
) -> _Place:
    """Finds a storage and checks its size."""
    info = members.get(name)
    if info is None:
        raise RefusedError(f"the storage {name!r} is missing")
    size = storage.length * storage.dtype.itemsize
    _check_member(info, max(size, info.file_size))
    if info.file_size != size:
        raise RefusedError(f"the storage {name!r} has {info.file_size} bytes instead of {size}")
    return _Place(_member_start(file, info), info.CRC)


def _content(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """Reads a small member.

    `ZipFile.read` would refuse the checksum 0 of files that were saved under
    `torch.serialization.set_crc32_options(False)`.
    """
    file.seek(_member_start(file, info))
    content = file.read(info.file_size)
    if info.CRC and zlib.crc32(content) != info.CRC:
        raise RefusedError(f"{info.filename!r} in it does not match its checksum")
    return content


def _member_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Returns the position of a member's first byte, after checking that the member is complete."""
    # The member has its own name and padding, of other lengths than in the archive's table.
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
        raise RefusedError(f"{info.filename!r} in it has no header")
    start = info.header_offset + 30 + sum(np.frombuffer(header[26:30], "<u2").tolist())
    if start + info.file_size > file.seek(0, io.SEEK_END):
        raise RefusedError(
            f"{info.filename!r} in it ends after the end of the file: it is cut short"
        )
    return start


def _storages(value: object) -> list[Storage]:
    """Lists the storages of the tensors anywhere in a value."""
    found: dict[Storage, None] = {}
    values, seen = [value], set()  # a container may hold itself
    while values:
        value = values.pop()
        if type(value) is Tensor:
            found[value.storage] = None
        elif type(value) in (dict, list, tuple) and id(value) not in seen:
            seen.add(id(value))
            values += value.values() if type(value) is dict else value
    return list(found)


# The format before PyTorch 1.6 ------------------------------------------------------------------


def _read_legacy(file: BinaryIO) -> tuple[object, dict[str, _Place]]:
    """Reads the pickles of an old file, and the places of its storages."""
    try:
        magic = torch_pickle.load(file)
    except RefusedError as error:
        raise RefusedError(
            f"it is neither a zip archive nor a file of `torch.save` ({error})"
        ) from None
    if magic != _LEGACY_MAGIC:
        raise RefusedError("it is neither a zip archive nor a file of `torch.save`")
    if torch_pickle.load(file) != _LEGACY_PROTOCOL:
        raise RefusedError("it was written by a PyTorch version before 0.1.10")
    system = torch_pickle.load(file)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise RefusedError("its numbers are not in little-endian order")
    state, keys = torch_pickle.load(file), torch_pickle.load(file)
    storages = {storage.key: storage for storage in _storages(state)}
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise RefusedError("its list of storages is damaged")
    if missing := storages.keys() - set(keys):
        raise RefusedError(f"the storage {min(missing)!r} is missing")
    end = _size(file)
    places = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little", signed=True)
        if key not in storages or key in places:
            raise RefusedError(f"the storage {key!r} belongs to no tensor, or is stored twice")
        if length != storages[key].length:
            raise RefusedError(
                f"the storage {key!r} has {length} numbers instead of {storages[key].length}"
            )
        places[key] = _Place(file.tell())
        if file.seek(length * storages[key].dtype.itemsize, io.SEEK_CUR) > end:
            raise RefusedError(f"it ends inside the storage {key!r}: it is cut short")
    return state, places


def _size(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end

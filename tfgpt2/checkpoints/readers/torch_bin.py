"""The `pytorch_model.bin` files of PyTorch: read without PyTorch and without running anything.

`torch.save` writes a zip archive (since PyTorch 1.6) or a row of pickles with the numbers behind
them (before; the original `gpt2` is one). Both hold a pickle that describes the tensors, which
`torch_pickle` reads, and runs of numbers, from which a tensor is read when it is asked for.

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
from tfgpt2.checkpoints.readers.torch_pickle import Refused, Storage, Tensor
from tfgpt2.checkpoints.shards import ShardedReader, broken

WEIGHTS_NAME = "pytorch_model.bin"
INDEX_NAME = "pytorch_model.bin.index.json"

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE = 100_000_000  # bytes


class _Place(NamedTuple):
    """The first byte of a storage, and the checksum that the file has for it (0 for none)."""

    start: int
    checksum: int = 0


class _Entry(NamedTuple):
    """A tensor, the file it is in, and where its storage is there."""

    path: Path
    place: _Place
    tensor: Tensor


class TorchBinReader(ShardedReader):
    """The tensors of a `pytorch_model.bin`, read one at a time.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is damaged, lies about sizes, is compressed, or asks Python to run
            something; nothing of it is run.
    """

    WEIGHTS_NAME, INDEX_NAME = WEIGHTS_NAME, INDEX_NAME

    def __init__(self, paths: Iterable[Path]) -> None:
        self._entries: dict[str, _Entry] = {}
        for path in paths:
            for key, entry in _read_table(path).items():
                if key in self._entries:
                    raise broken(path, f"the tensor is also in {self._entries[key].path}", key=key)
                self._entries[key] = entry

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entries[key].tensor.shape

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return self._entries[key].tensor.dtype

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in the type the file has (bfloat16 as `ml_dtypes.bfloat16`).

        Raises:
            ValueError: The tensor repeats the numbers that the file stores, or its numbers are not
                those that were saved.
        """
        path, place, tensor = self._entries[key]
        if not math.prod(tensor.shape):
            return np.empty(tensor.shape, tensor.dtype)
        span = _span(tensor)
        if math.prod(tensor.shape) > span:
            # An expanded tensor: a few bytes on disk can ask for any amount of memory.
            raise broken(
                path, "a tensor has more elements than the file stores", key=key, shape=tensor.shape
            )
        numbers = np.empty(span, tensor.dtype)
        with path.open("rb") as file:
            file.seek(place.start + tensor.offset * tensor.dtype.itemsize)
            count = file.readinto(numbers.view(np.uint8))
        if count != numbers.nbytes:
            raise broken(path, "it ended inside a tensor", key=key)
        # A checksum is one of a whole storage, which a tensor of its own fills.
        whole = not tensor.offset and span == tensor.storage.length
        if whole and place.checksum and zlib.crc32(numbers.view(np.uint8)) != place.checksum:
            raise broken(path, "a tensor's numbers do not have their checksum", key=key)
        strides = tuple(stride * tensor.dtype.itemsize for stride in tensor.strides)
        view = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False)
        if view.flags.c_contiguous:
            return numbers.reshape(tensor.shape)
        return np.ascontiguousarray(view)


def _span(tensor: Tensor) -> int:
    """How many numbers of its storage a tensor that is not empty reaches over."""
    steps = zip(tensor.shape, tensor.strides, strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def _read_table(path: Path) -> dict[str, _Entry]:
    """Reads what a file says about its tensors, and checks it against what it holds."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                state, starts = _read_zip(file)
            else:
                state, starts = _read_legacy(file)
            tensors = _state_dict(state)
        except Refused as error:
            raise broken(path, str(error)) from error
    table = {}
    for key, tensor in tensors.items():
        _check_reach(path, key, tensor)
        table[key] = _Entry(path, starts[tensor.storage.key], tensor)
    return table


def _check_reach(path: Path, key: str, tensor: Tensor) -> None:
    """Checks that a tensor stays within its storage."""
    size = tensor.storage.length * tensor.storage.dtype.itemsize
    end = tensor.offset + (_span(tensor) if math.prod(tensor.shape) else 0)
    if end * tensor.dtype.itemsize > size:
        raise broken(
            path,
            f"a tensor reaches over {end * tensor.dtype.itemsize} bytes of a storage of {size}",
            key=key,
            shape=tensor.shape,
        )


def _state_dict(state: object) -> Mapping[str, Tensor]:
    """Checks that what was pickled is a dict of tensors."""
    if type(state) is not dict or not state:
        raise Refused("it holds no state dict: no dict of tensors by name")
    for key, value in state.items():
        if type(key) is str and type(value) is Tensor:
            continue
        if type(value) is dict and any(type(inner) is Tensor for inner in value.values()):
            raise Refused(
                f"it is the checkpoint of a training program, with a state dict under {key!r};"
                " save that one alone, with `torch.save(checkpoint[...], path)`"
            )
        raise Refused(f"under {key!r} it holds a {type(value).__name__} and no tensor")
    return state


# The zip format -------------------------------------------------------------------------------


def _read_zip(file: BinaryIO) -> tuple[object, dict[str, _Place]]:
    """Reads the pickle of a zip archive, and where its storages begin."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise Refused(f"a zip archive with {len(pickles)} files `data.pkl` instead of one")
            _check_member(members[pickles[0]], _MAX_PICKLE)
            folder = pickles[0].removesuffix("data.pkl")
            order = members.get(f"{folder}byteorder")
            if order is not None:
                _check_member(order, 16)
                if _content(file, order) != b"little":
                    raise Refused("its numbers are not in little-endian order")
            state = torch_pickle.load(io.BytesIO(_content(file, members[pickles[0]])))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError) as error:
        raise Refused(f"its zip archive is damaged ({error})") from error
    except (RuntimeError, EOFError, UnicodeError, OverflowError) as error:
        raise Refused(f"its zip archive is damaged ({error!r})") from error
    starts = {
        storage.key: _storage_place(file, members, f"{folder}data/{storage.key}", storage)
        for storage in _storages(state)
    }
    return state, starts


def _check_member(info: zipfile.ZipInfo, limit: int) -> None:
    """Checks that a member lies in the archive as it is: not compressed, encrypted or huge."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise Refused(
            f"{info.filename!r} in it is compressed ({info.compress_size} bytes that claim to be"
            f" {info.file_size}), which PyTorch never does"
        )
    if info.flag_bits & 1:
        raise Refused(f"{info.filename!r} in it is encrypted")
    if info.file_size > limit:
        raise Refused(f"{info.filename!r} in it has {info.file_size} bytes")


def _storage_place(
    file: BinaryIO, members: Mapping[str, zipfile.ZipInfo], name: str, storage: Storage
) -> _Place:
    """Finds a storage, and checks its size."""
    info = members.get(name)
    if info is None:
        raise Refused(f"the storage {name!r} is missing")
    size = storage.length * storage.dtype.itemsize
    _check_member(info, max(size, info.file_size))
    if info.file_size != size:
        raise Refused(f"the storage {name!r} has {info.file_size} bytes instead of {size}")
    return _Place(_member_start(file, info), info.CRC)


def _content(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """Reads a small member.

    Not `ZipFile.read`: it refuses the 0 that stands for a checksum in files that were saved under
    `torch.serialization.set_crc32_options(False)`.
    """
    file.seek(_member_start(file, info))
    content = file.read(info.file_size)
    if info.CRC and zlib.crc32(content) != info.CRC:
        raise Refused(f"{info.filename!r} in it does not have its checksum")
    return content


def _member_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Returns the first byte of a member, and checks that all of it is there."""
    # The name in the archive's table is followed, in the member itself, by padding of its own.
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
        raise Refused(f"{info.filename!r} in it has no header")
    start = info.header_offset + 30 + sum(np.frombuffer(header[26:30], "<u2").tolist())
    if start + info.file_size > file.seek(0, io.SEEK_END):
        raise Refused(f"{info.filename!r} in it ends behind the end of the file: it is cut short")
    return start


def _storages(state: object) -> list[Storage]:
    """Lists the storages that the tensors of a state dict look into."""
    values = state.values() if type(state) is dict else ()
    return list({value.storage: None for value in values if type(value) is Tensor})


# The format before PyTorch 1.6 ------------------------------------------------------------------


def _read_legacy(file: BinaryIO) -> tuple[object, dict[str, _Place]]:
    """Reads the pickles of an old file, and where its storages begin."""
    try:
        magic = torch_pickle.load(file)
    except Refused as error:
        raise Refused(f"it is neither a zip archive nor a file of `torch.save` ({error})") from None
    if magic != _LEGACY_MAGIC:
        raise Refused("it is neither a zip archive nor a file of `torch.save`")
    if torch_pickle.load(file) != _LEGACY_PROTOCOL:
        raise Refused("it was written by a PyTorch that is older than 0.1.10")
    system = torch_pickle.load(file)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("its numbers are not in little-endian order")
    state, keys = torch_pickle.load(file), torch_pickle.load(file)
    storages = {storage.key: storage for storage in _storages(state)}
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refused("its list of storages is damaged")
    if missing := storages.keys() - set(keys):
        raise Refused(f"the storage {min(missing)!r} is missing")
    end = _size(file)
    starts = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little", signed=True)
        if key not in storages or key in starts:
            raise Refused(f"the storage {key!r} belongs to no tensor, or comes twice")
        if length != storages[key].length:
            raise Refused(
                f"the storage {key!r} has {length} numbers instead of {storages[key].length}"
            )
        starts[key] = _Place(file.tell())
        if file.seek(length * storages[key].dtype.itemsize, io.SEEK_CUR) > end:
            raise Refused(f"it ends inside the storage {key!r}: it is cut short")
    return state, starts


def _size(file: BinaryIO) -> int:
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end

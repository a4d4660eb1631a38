"""The safetensors format: one file or several shards with an index.

Reading is our own, a tensor at a time straight into its final buffer: a memory map would keep
the whole file resident beside the weights. The header is not trusted. Writing is the library's.

Source: the format, https://huggingface.co/docs/safetensors (section "Format").
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfgpt2.errors import explain

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

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


class _Entry(NamedTuple):
    """Where a tensor is: file, absolute first byte, type and shape."""

    path: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class SafetensorsReader:
    """The tensors of one checkpoint, read one at a time.

    Args:
        paths: The files that together hold the checkpoint.

    Raises:
        ValueError: A file is truncated, or its header is broken or lies about sizes.

    Example:
        >>> from tfgpt2.checkpoints.hub import Repository
        >>> files = Repository("shakespeare-tiny")
        >>> SafetensorsReader([files.require("model.safetensors")]).shape("transformer.ln_f.bias")
        (192,)
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._entries: dict[str, _Entry] = {}
        for path in paths:
            self._entries.update(_read_header(path))

    @classmethod
    def from_files(cls, find: Callable[[str], Path | None]) -> SafetensorsReader | None:
        """Opens a model's weights, sharded or not.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the model has no safetensors file.

        Raises:
            FileNotFoundError: The index names a shard that does not exist.
            ValueError: A file is broken.
        """
        single = find(WEIGHTS_NAME)
        if single is not None:
            return cls([single])
        index = find(INDEX_NAME)
        return None if index is None else cls(_shards(index, find))

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entries[key].shape

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in the type the file has (bfloat16 as `ml_dtypes.bfloat16`)."""
        entry = self._entries[key]
        array = np.empty(entry.shape, entry.dtype)
        with entry.path.open("rb") as file:
            file.seek(entry.start)
            count = file.readinto(array.reshape(-1).view(np.uint8))
        if count != array.nbytes:
            raise _broken(entry.path, f"it ended inside the tensor {key!r}")
        return array


def write(tensors: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Writes one safetensors file that PyTorch transformers accepts.

    Args:
        tensors: Arrays by checkpoint key.
        path: The file to write; it appears complete or not at all.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # transformers refuses a file whose metadata does not name a framework.
        save_file(dict(tensors), str(beside), metadata={"format": "pt"})
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_index(shards: Mapping[str, Iterable[str]], total_bytes: int, path: Path) -> None:
    """Writes the index of a sharded checkpoint.

    Args:
        shards: Keys by shard file name.
        total_bytes: Size of all tensors.
        path: The index file.
    """
    weight_map = {key: name for name, keys in shards.items() for key in keys}
    index = {
        "metadata": {"total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(index: Path, find: Callable[[str], Path | None]) -> list[Path]:
    """Returns the files that an index names."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _broken(index, f"it is no index of shards ({error!r})") from error
    paths = []
    for name in names:
        # A name that climbs out of the directory would read a foreign file.
        path = find(name) if isinstance(name, str) and Path(name).name == name else None
        if path is None:
            raise FileNotFoundError(
                explain(
                    "A shard that the index of the checkpoint names does not exist.",
                    fix="Download or save the checkpoint again.",
                    index=str(index),
                    shard=name,
                )
            )
        paths.append(path)
    return paths


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
        header.pop("__metadata__", None)
        entries = {key: _entry(path, value, 8 + length) for key, value in header.items()}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _broken(path, "its header is not valid JSON") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"its header is no table of tensors ({error})") from error
    for key, entry in entries.items():
        end = entry.start + math.prod(entry.shape) * entry.dtype.itemsize
        if end > size:
            raise _broken(
                path, f"the tensor {key!r} ends at byte {end} of a file of {size}: it is cut short"
            )
    return entries


def _entry(path: Path, value: Mapping[str, object], base: int) -> _Entry:
    """Checks one line of the header."""
    dtype, shape = np.dtype(_DTYPES[value["dtype"]]), tuple(value["shape"])
    start, end = value["data_offsets"]
    numbers = (*shape, start, end)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a negative or fractional size")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - start} bytes for shape {list(shape)} of {value['dtype']}")
    return _Entry(path, base + start, dtype, shape)


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(
        explain(
            f"The file is not a readable safetensors checkpoint: {reason}.",
            fix="Download or save it again.",
            path=str(path),
        )
    )

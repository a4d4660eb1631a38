"""Base classes of the checkpoint readers, and the index of sharded checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfgpt2.errors import explain, unreadable
from tfgpt2.files import read_json_object
from tfgpt2.hub import Find

_MAX_INDEX = 100_000_000  # bytes; that of GPT-2 XL has 60 thousand

Rename = Callable[[str], tuple[str, bool]]
"""From a framework's tensor name to PyTorch's key, and whether its matrix is transposed."""


class CheckpointReader:
    """Base class of the readers, one class for each checkpoint format.

    A reader gives the tensors of a checkpoint under PyTorch's keys and in PyTorch's layout, one at
    a time; the matrices of the blocks may also be those of `torch.nn.Linear`, transposed, as
    `linear_layout` recognises them. It owns all that its format knows: file names, tensor names,
    configuration and tokenizer files. Files are untrusted data: nothing in them is executed, and a
    size is checked before memory is allocated for it. What is wrong raises
    `tfgpt2.errors.unreadable`.

    To add a format, write `checkpoints/readers/x.py` and add the class to
    `tfgpt2.checkpoints.registry.READERS`:

        class XReader(CheckpointReader):
            format = "x"
            file_names = ("model.x",)

            def __init__(self, path):
                self.path = path
                self._entries = {key: Entry(shape, dtype, ...), ...}

            @classmethod
            def from_files(cls, find):
                path = find("model.x")
                return None if path is None else cls(path)

            def read(self, key):
                return ...

    `Entry` is a named tuple with at least `shape` and `dtype`. A format that is stored in one file
    or in shards with an index derives from `ShardedReader` instead.

    Attributes:
        format: Name of the format.
        file_names: Names of the files by which the format is recognised in a directory.
        suffixes: Endings of the format's file, by which a file of another name is recognised.
        config_name: Name of the configuration file.
        tokenizer_files: Names of the tokenizer's files, by the names that transformers gives them.
        has_tokenizer: Whether the file of weights holds the tokenizer, too.
        path: The file that errors about the whole checkpoint name; None for a model in memory.
    """

    format: ClassVar[str]
    file_names: ClassVar[tuple[str, ...]]
    suffixes: ClassVar[tuple[str, ...]] = ()
    config_name: ClassVar[str] = "config.json"
    tokenizer_files: ClassVar[Mapping[str, str]] = {}
    has_tokenizer: ClassVar[bool] = False

    path: Path | None
    _entries: dict[str, Any]

    @classmethod
    def from_files(cls, find: Find) -> CheckpointReader | None:
        """Opens a model's weights.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the model has no files of this format.

        Raises:
            FileNotFoundError: Some of the checkpoint's files are missing.
            ValueError: A file is damaged.
        """
        raise NotImplementedError

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a single file of any name is of this format."""
        return path.name.endswith(cls.suffixes)

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any] | None:
        """Reads a configuration file of this format.

        Args:
            path: The file that is called `config_name`.

        Returns:
            Fields of a `GPT2Config`, or None when the file is one of transformers.

        Raises:
            ValueError: The file is damaged, or describes another architecture.
        """
        return None

    @classmethod
    def read_tokenizer(cls, find: Find) -> dict[str, dict[str, Any]]:
        """Reads the tokenizer inside the weights' file.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            Contents of transformers' files by their names; empty when there is no tokenizer.

        Raises:
            ValueError: The file is damaged, or its tokenizer is of an unsupported kind.
        """
        return {}

    @classmethod
    def owns_json(cls, values: Mapping[str, Any]) -> bool:
        """Whether a JSON file is this format's own, although its name is one of transformers'."""
        return False

    @classmethod
    def renaming(cls, names: Iterable[str]) -> Rename | None:
        """Returns how to rename the tensors of a safetensors file from this format's framework.

        Args:
            names: Names of the tensors in the file.

        Returns:
            The renaming, or None when these names are not the framework's.
        """
        return None

    def keys(self) -> list[str]:
        """Returns the keys of the tensors."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the shape of one tensor."""
        return self._entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Returns the stored type of one tensor (bfloat16 as `ml_dtypes.bfloat16`)."""
        return self._entries[key].dtype

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type.

        Raises:
            ValueError: Its file is damaged.
        """
        raise NotImplementedError


class ShardedReader(CheckpointReader):
    """Base class of the formats that are one file, or several and an index.

    A subclass writes `_read_entries` and `read`; its entries also have a `path`.

    Args:
        paths: The files that together hold the checkpoint.

    Attributes:
        file_names: Name of the file that holds everything, and name of the index.

    Raises:
        ValueError: A file is damaged, or two files hold the same tensor.
    """

    file_names: ClassVar[tuple[str, str]]

    def __init__(self, paths: Sequence[Path]) -> None:
        self.path = paths[0]
        self._entries = {}
        for path in paths:
            for key, entry in self._read_entries(path):
                if key in self._entries:
                    other = self._entries[key].path
                    raise unreadable(path, f"the tensor is also in {other}", key=key)
                self._entries[key] = entry

    @classmethod
    def from_files(cls, find: Find) -> ShardedReader | None:
        """Opens a model's weights, sharded or not; see `CheckpointReader.from_files`."""
        single_name, index_name = cls.file_names
        if (single := find(single_name)) is not None:
            return cls([single])
        if (index := find(index_name)) is not None:
            return cls(sorted(set(read_index(index, find).values())))
        return None

    def _read_entries(self, path: Path) -> Iterable[tuple[str, Any]]:
        """Yields key and entry of each tensor in one file."""
        raise NotImplementedError


def read_index(index: Path, find: Find) -> dict[str, Path]:
    """Reads the index of a sharded checkpoint.

    Args:
        index: Path of the index.
        find: From a shard's name to its local path.

    Returns:
        The shard of every tensor, by the tensor's name.

    Raises:
        FileNotFoundError: A shard does not exist.
        ValueError: The index is damaged, or names a file outside its directory.
    """
    if index.stat().st_size > _MAX_INDEX:
        raise unreadable(index, f"it is larger than {_MAX_INDEX} bytes")
    names = read_json_object(index).get("weight_map")
    if not names or not isinstance(names, dict) or not all(map(_is_name, names.values())):
        raise unreadable(index, "it is not an index of shards: `weight_map` is missing or damaged")
    paths: dict[str, Path] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or "\\" in name or "\0" in name:
            raise unreadable(index, f"it names a file outside its directory, {name!r}")
        path = find(name)
        if path is None:
            raise FileNotFoundError(
                explain(
                    "A shard that the index of the checkpoint names does not exist.",
                    fix="Download or save the checkpoint again.",
                    index=str(index),
                    shard=name,
                )
            )
        paths[name] = path
    return {key: paths[name] for key, name in names.items()}


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def read_into(array: np.ndarray, path: Path, start: int, key: str) -> None:
    """Fills an array with bytes of a file.

    Args:
        array: A contiguous array; the number of bytes follows from it.
        path: The file.
        start: Position of the first byte.
        key: Key of the tensor, for the error.

    Raises:
        ValueError: The file ends before.
    """
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(array.reshape(-1).view(np.uint8)) != array.nbytes:
            raise unreadable(path, "it ended inside a tensor", key=key)


def pytorch_shape(key: str, shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    """Returns the shape that PyTorch gives a tensor of TensorFlow or Flax.

    Args:
        key: PyTorch's key.
        shape: Shape in the file.
        transposed: Whether the file holds the transposed matrix.
    """
    if transposed:
        return shape[::-1]
    # TensorFlow's Conv1D has a bias [1, out].
    return shape[1:] if key.endswith(".bias") and len(shape) == 2 and shape[0] == 1 else shape


def pytorch_layout(array: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    """Returns a tensor of TensorFlow or Flax in PyTorch's layout, contiguous.

    Args:
        array: The tensor as it is in the file.
        shape: Shape in PyTorch.
        transposed: Whether the file holds the transposed matrix.
    """
    return np.ascontiguousarray(array.T) if transposed else array.reshape(shape)

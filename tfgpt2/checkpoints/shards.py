"""What the formats share: one file or several that an index names, and how a broken one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tfgpt2.errors import explain

Find = Callable[[str], Path | None]

_MAX_INDEX = 100_000_000  # bytes; that of GPT-2 XL has 60 thousand


class ShardedReader:
    """What the readers have in common whose format is one file, or several and an index.

    They are made from the paths of their files, and note in `_entries` where each tensor lies.

    Attributes:
        WEIGHTS_NAME: Name of the file that holds everything, such as `"pytorch_model.bin"`.
        INDEX_NAME: Name of the index of a sharded checkpoint.
    """

    WEIGHTS_NAME: ClassVar[str]
    INDEX_NAME: ClassVar[str]

    _entries: dict[str, Any]

    @classmethod
    def from_files(cls, find: Find) -> ShardedReader | None:
        """Opens a model's weights, sharded or not.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the model has no such file.

        Raises:
            FileNotFoundError: The index names a shard that does not exist.
            ValueError: A file is broken.
        """
        paths = open_files(find, cls.WEIGHTS_NAME, cls.INDEX_NAME)
        return None if paths is None else cls(paths)

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)


def open_files(find: Find, single: str, index: str) -> list[Path] | None:
    """Returns the files that hold a checkpoint of one format.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        single: Name of the file that holds everything, such as `"pytorch_model.bin"`.
        index: Name of the index of a sharded checkpoint.

    Returns:
        The paths, or None when the model has neither.

    Raises:
        FileNotFoundError: The index names a shard that does not exist.
        ValueError: The index is broken.
    """
    whole = find(single)
    if whole is not None:
        return [whole]
    path = find(index)
    return None if path is None else sorted(set(read_index(path, find).values()))


def read_index(index: Path, find: Find) -> dict[str, Path]:
    """Reads the index of a sharded checkpoint.

    Args:
        index: Path of the index.
        find: From a shard's name to its local path.

    Returns:
        The shard of every tensor, by the tensor's name.

    Raises:
        FileNotFoundError: A shard does not exist.
        ValueError: The index is broken, or names a file outside its directory.
    """
    names = _weight_map(index)
    paths: dict[str, Path] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or "\\" in name or "\0" in name:
            # A name that climbs out of the directory would read a foreign file.
            raise broken(index, f"it names a file outside its directory, {name!r}")
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


def _weight_map(index: Path) -> dict[str, str]:
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise ValueError(f"it is larger than {_MAX_INDEX} bytes")
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not names or not all(isinstance(name, str) and name for name in names.values()):
            raise ValueError("it names no files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(index, f"it is no index of shards ({error!r})") from error
    return names


def broken(path: Path, reason: str, **received: object) -> ValueError:
    """Returns the error for a file that cannot be trusted or understood.

    Args:
        path: The file.
        reason: A clause that says what is wrong with it.
        **received: The key and whatever else belongs to the fault.

    Example:
        >>> print(broken(Path("tf_model.h5"), "it was cut short", key="wte.weight"))
        tf_model.h5 is not a readable checkpoint: it was cut short. Received: path='tf_model.h5', \
key='wte.weight'. Download or save it again.
    """
    return ValueError(
        explain(
            f"{path.name} is not a readable checkpoint: {reason}.",
            fix="Download or save it again.",
            path=str(path),
            **received,
        )
    )

"""A model that is named by a single file of weights instead of its directory."""

from __future__ import annotations

import os
from pathlib import Path

from tfgpt2.checkpoints import tokenizer_files
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.registry import READERS
from tfgpt2.errors import value_error
from tfgpt2.hub import HubOptions, Repository


def open_repository(name: str | os.PathLike[str], options: HubOptions | None = None) -> Repository:
    """Returns the files of one model, which may be named by its single file of weights.

    Args:
        name: Directory, bundled name, hub name, or a file of weights.
        options: Version and download options.

    Raises:
        FileNotFoundError: There is no file `gguf_file`.
        ValueError: The name is empty, or the file is of no known format.

    Example:
        >>> open_repository("shakespeare-tiny").find("model.safetensors").name
        'model.safetensors'
    """
    files = Repository(name, options)
    return files if files.file is None else SingleFileRepository(name, options)


class SingleFileRepository(Repository):
    """A file of weights under the name that its format has in a directory, and those beside it.

    Other weights in its directory are not found, and no configuration or tokenizer where the file
    holds its own.

    Args:
        name: See `open_repository`.
        options: See `open_repository`.
    """

    def __init__(self, name: str | os.PathLike[str], options: HubOptions | None = None) -> None:
        super().__init__(name, options)
        self._path = self.file
        self._format = _format_of(self._path)
        self._hidden = _hidden_files(self._format)

    def find(self, filename: str) -> Path | None:
        """Returns the local path of one file; see `Repository.find`."""
        # The base class looks up the file itself before there is a format.
        kind = self.__dict__.get("_format")
        if kind is not None and filename == kind.file_names[0]:
            return self._path
        if kind is not None and filename in self._hidden:
            return None
        return super().find(filename)


def _hidden_files(kind: type[CheckpointReader]) -> set[str]:
    """Returns the files that do not belong to a single file of a format, or that it replaces."""
    names = {name for each in READERS for name in each.file_names}
    if kind.config_name in kind.file_names:
        names |= {each.config_name for each in READERS}
    if kind.has_tokenizer:
        names |= set(tokenizer_files.NAMES) - {"generation_config.json"}
        names |= {name for each in READERS for name in each.tokenizer_files.values()}
    return names


def _format_of(file: Path) -> type[CheckpointReader]:
    """Returns the reader of a file's format."""
    for kind in reversed(READERS):
        if kind.recognises(file):
            return kind
    raise value_error(
        "The file holds no weights in a known format: safetensors, PyTorch (.bin, .pt), HDF5,"
        " msgpack, nanoGPT, llm.c or GGUF.",
        fix="Name the directory of the model, or its file of weights.",
        path=str(file),
    )

"""`Row`, a row of an input file, and `Format`, how files of a kind are read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfgpt2.errors import value_error

TEXT = "text"  # the column of formats without columns


class Row(NamedTuple):
    """A row as it was read.

    Attributes:
        columns: Its values by column.
        place: Where it is in its file, such as `"line 7"`.
        offset: Bytes of the file that were read so far, for the progress.
        error: Why it could not be read; None for a good row.
    """

    columns: Mapping[str, Any]
    place: str
    offset: int
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffixes: Endings of its files.
        read: Reads a file row by row, in constant memory. A row that cannot be read has an `error`;
            a file of which the rest cannot be read raises.
        has_schema: Whether all rows have the same columns.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path], Iterator[Row]]
    has_schema: bool = False


@dataclasses.dataclass(frozen=True)
class Writer:
    """A kind of output file.

    Attributes:
        suffix: Ending of its files.
        write: Writes rows to a path.
        schema: What `write` needs to know of all rows: made of the first rows of the job, the types
            of the result columns, and the input files. None where it needs nothing.
        misfits: Names of a row's columns that the schema has no place for.
    """

    suffix: str
    write: Callable[[Path, Sequence[dict[str, Any]], Any], None]
    schema: Callable[[Sequence[Mapping[str, Any]], Mapping[str, str], Sequence[Path]], Any] = (
        lambda rows, result_types, files: None
    )
    misfits: Callable[[Mapping[str, Any], Any], list[str]] = lambda columns, schema: []


def decode(raw: bytes) -> tuple[str, str | None]:
    """Decodes UTF-8: the text, and what is wrong with it.

    Example:
        >>> decode(bytes([99, 233]))[1]
        'it is not UTF-8: byte 1 is invalid'
    """
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "replace"), f"it is not UTF-8: byte {error.start} is invalid"


def damaged(path: Path, place: str, reason: str) -> ValueError:
    """The error for a file of which nothing after a place can be read."""
    return value_error(
        f"{path.name} cannot be read after {place}: {reason}.",
        fix="Repair the file or leave it out; finished output files stay.",
        file=str(path),
    )

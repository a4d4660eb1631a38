"""The input files of a job: checks before anything is computed, and the stream of rows."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfgpt2.batch.engine import InputRow
from tfgpt2.batch.formats.base import Row
from tfgpt2.batch.formats.registry import find_format
from tfgpt2.errors import nearest, value_error
from tfgpt2.training.data.sources import files as find_files

_PROBE_ROWS = 100  # a file of which none of the first rows can be read has another format
_DIGEST_BYTES = 2**16  # of both ends of a file


class Inputs(NamedTuple):
    """The input files of a job.

    Attributes:
        files: In the order of the job.
        columns: The columns of the first row.
        size: Bytes of all files.
    """

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    size: int

    def identity(self) -> list[dict[str, Any]]:
        """What tells that the files are the same on resume, wherever they are."""
        return [
            {"name": path.name, "bytes": path.stat().st_size, "digest": _digest(path)}
            for path in self.files
        ]

    def rows(self) -> Iterator[tuple[InputRow, int]]:
        """Yields all rows, and the bytes of all files that were read so far."""
        number, before = 0, 0
        for path in self.files:
            for row in find_format(path).read(path):
                error = None if row.error is None else f"{path.name}, {row.place}: {row.error}."
                place = f"{path.name}, {row.place}"
                yield InputRow(number, row.columns, place, error), before + row.offset
                number += 1
            before += path.stat().st_size

    def windows(self, size: int) -> Iterator[tuple[list[InputRow], int]]:
        """The same, in lists of `size` rows, the last of which may be shorter."""
        rows = self.rows()
        while part := list(itertools.islice(rows, size)):
            yield [row for row, _ in part], part[-1][1]


def open_inputs(sources: Iterable[str | Path], needed: Sequence[str]) -> Inputs:
    """Finds the input files and checks their columns.

    Args:
        sources: Paths or patterns.
        needed: Columns that the job reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are none, one is empty or of an unknown format, a column is missing, or
            the files have different columns.
    """
    files = tuple(find_files([Path(source) for source in sources]) or ())
    if not files:
        raise value_error("A job needs input files.", fix="Name one or more.", inputs=[])
    columns = {path: _columns(path) for path in files}
    first = columns[files[0]]
    for path, names in columns.items():
        for name in needed:
            if name not in names:
                raise value_error(
                    f"{path.name} has no column {name!r}.",
                    fix=nearest(name, names),
                    columns=list(names),
                )
        if set(names) != set(first):
            raise value_error(
                f"{files[0].name} and {path.name} have different columns.",
                fix="Rename or drop columns, or run a job for each.",
                **{"first": list(first), "other": list(names)},
            )
    return Inputs(files, first, sum(path.stat().st_size for path in files))


def _columns(path: Path) -> tuple[str, ...]:
    """The columns of the first good row of a file.

    Raises:
        ValueError: It is empty, or none of its first rows can be read.
    """
    rows: list[Row] = []
    for row in itertools.islice(find_format(path).read(path), _PROBE_ROWS):
        if row.error is None:
            return tuple(row.columns)
        rows.append(row)
    if rows:
        raise value_error(
            f"None of the first {len(rows)} rows of {path.name} can be read.",
            fix="Check that its ending matches its format.",
            error=f"{rows[0].place}: {rows[0].error}",
        )
    raise value_error(f"{path.name} has no rows.", fix="Leave it out.", file=str(path))


def _digest(path: Path) -> str:
    """Identifies a file by both of its ends, since whole files may be very large."""
    with path.open("rb") as file:
        start = file.read(_DIGEST_BYTES)
        file.seek(max(path.stat().st_size - _DIGEST_BYTES, 0))
        return hashlib.sha256(start + file.read()).hexdigest()[:32]

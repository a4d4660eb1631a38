"""Parquet, with pyarrow: `pip install 'tfgpt2[parquet]'`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgpt2 import extras
from tfgpt2.batch.formats.base import Format, Row, Writer, damaged
from tfgpt2.errors import value_error

_ROWS = 1024  # read at once


def _pyarrow() -> Any:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        ImportError: They are not installed.
    """
    extras.require("A Parquet file", "parquet")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def read(path: Path) -> Iterator[Row]:
    """Reads a file, a few rows at a time.

    Raises:
        ValueError: It is damaged.
        ImportError: pyarrow is not installed.
    """
    pyarrow, number = _pyarrow(), 0
    size = path.stat().st_size
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(columns, f"row {number}", size * number // total)
    except pyarrow.ArrowException as error:
        raise damaged(path, f"row {number}", str(error).split("\n")[0]) from error


def schema(
    rows: Sequence[Mapping[str, Any]], result_types: Mapping[str, str], files: Sequence[Path]
) -> Any:
    """The schema of all output files.

    Args:
        rows: The columns of the first rows of the job, of which types are inferred.
        result_types: Types of the result columns.
        files: The input files; one that is Parquet says the types itself.

    Raises:
        ValueError: The types of the first rows do not agree, or two Parquet files differ.
    """
    pyarrow = _pyarrow()
    parquet = [path for path in files if path.suffix in PARQUET.suffixes]
    if parquet:
        fields = {path: pyarrow.parquet.read_schema(path).remove_metadata() for path in parquet}
        first = fields[parquet[0]]
        for path, other in fields.items():
            if not other.equals(first):
                raise value_error(
                    "The input files have columns of different types.",
                    fix="Convert them to one schema, or run a job for each.",
                    **{parquet[0].name: str(first), path.name: str(other)},
                )
        columns = list(first)
    else:
        columns = [_infer(name, rows) for name in dict.fromkeys(n for row in rows for n in row)]
    results = [pyarrow.field(name, _type(name_of)) for name, name_of in result_types.items()]
    return pyarrow.schema([*columns, *results])


def _infer(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    pyarrow = _pyarrow()
    try:
        # `infer_type` would take the first value's type.
        found = pyarrow.array([row.get(name) for row in rows]).type
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise value_error(
            f"Column {name!r} has values of different types in the first rows, and a Parquet column"
            " has one type.",
            fix="Write JSON Lines (--format jsonl), or clean the column.",
            error=str(error).split("\n")[0],
        ) from error
    return pyarrow.field(name, pyarrow.string() if pyarrow.types.is_null(found) else found)


def _type(name: str) -> Any:
    """The type of a name such as `"list<float32>"`."""
    pyarrow = _pyarrow()
    if name.startswith("list<"):
        return pyarrow.list_(_type(name[5:-1]))
    return getattr(pyarrow, name)()


def misfits(columns: Mapping[str, Any], schema: Any) -> list[str]:
    """Names of a row's columns whose values do not fit a schema, or that are not in it."""
    pyarrow, wrong = _pyarrow(), []
    for name, value in columns.items():
        try:
            # pyarrow makes 2 of 2.5 in a column of integers, and drops unknown fields of a struct.
            kept = pyarrow.array([value], schema.field(name).type).to_pylist()[0]
        except (pyarrow.ArrowException, KeyError, TypeError, ValueError, OverflowError):
            wrong.append(name)
            continue
        if not _is_same(value, kept):
            wrong.append(name)
    return wrong


def _is_same(value: Any, kept: Any) -> bool:
    """Whether a value is as it was; a missing field of a struct is null."""
    if isinstance(value, Mapping) and isinstance(kept, Mapping):
        return all(_is_same(value.get(key), kept.get(key)) for key in {*value, *kept})
    if isinstance(value, list) and isinstance(kept, list):
        return len(value) == len(kept) and all(map(_is_same, value, kept))
    return value == kept or (value != value and kept != kept)


def write(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    """Writes rows whose columns fit the schema."""
    pyarrow = _pyarrow()
    table = pyarrow.Table.from_pylist(list(rows), schema)
    with path.open("wb") as file:
        pyarrow.parquet.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())


PARQUET = Format((".parquet", ".pq"), read, has_schema=True)
PARQUET_WRITER = Writer(".parquet", write, schema, misfits)

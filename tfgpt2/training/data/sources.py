"""Sources of text: files, file patterns, datasets and lists, read as rows.

A *row* is a dict of columns. A text file gives rows with the single column `text`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest, type_error, value_error
from tfgpt2.files import parse_json_lines, read_utf8

TEXT = "text"
_RECORDS = (".tfrecord", ".tfrecords")
_JSON_LINES = (".jsonl", ".ndjson")


def rows(source: Any, *, separator: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Reads a source row by row.

    Args:
        source: One of
            - a path or a pattern (`"corpus/*.txt"`, `**` for subfolders) or a list of `Path`s:
              `.jsonl` and `.ndjson` hold one object per line, `.tfrecord` holds
              `tf.train.Example`s, anything else is UTF-8 text, without its byte-order mark;
            - a list of strings, each one a text;
            - rows: a Hugging Face dataset, a `tf.data.Dataset`, a list of dicts, or any object
              that is iterable or has `__len__` and `__getitem__`;
            - a dict of columns of the same length.
        separator: Ends a row of a text file, and is dropped; None reads a file as one row.

    Raises:
        FileNotFoundError: No file has this name.
        ValueError: A file is empty, cannot be read or is not of the format its name says.
        TypeError: The source is none of these.
    """
    found = files(source)
    if found is not None:
        for path in found:
            yield from _file_rows(path, separator)
    elif isinstance(source, Mapping):
        yield from _column_rows(source)
    else:
        for item in _items(source):
            yield item if isinstance(item, Mapping) else {TEXT: item}


def read_rows(source: Any) -> list[Mapping[str, Any]]:
    """All rows of a source.

    Raises:
        ValueError: There are none.
    """
    found = list(rows(source))
    if not found:
        raise value_error("The source holds no rows.", fix="Check the file names.", rows=0)
    return found


def files(source: Any) -> list[Path] | None:
    """The files that a source names, in a fixed order; None if it does not name files.

    Raises:
        FileNotFoundError: No file has this name.
    """
    if isinstance(source, (list, tuple)) and source:
        if all(isinstance(part, Path) for part in source):
            return [path for part in source for path in files(part)]
        return None
    if not isinstance(source, (str, os.PathLike)):
        return None
    name = os.fspath(source)
    path = Path(name)
    if path.is_file():
        return [path]
    matches = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
    if not matches:
        raise FileNotFoundError(
            explain(
                "No file has this name or matches this pattern.",
                fix="Name a folder's files with a pattern such as 'folder/*.txt'."
                if path.is_dir()
                else "Check the name; pass a text itself in a list: [text].",
                source=name,
            )
        )
    return matches


def column(row: Mapping[str, Any], name: str, number: int) -> Any:
    """One column of a row.

    Args:
        row: The row.
        name: Name of the column.
        number: Number of the row, for the message.

    Raises:
        ValueError: The row has no such column, or its value is None.
    """
    if name not in row:
        raise value_error(
            f"Row {number} has no column {name!r}.",
            fix=nearest(name, map(str, row)) + " Pass the names of the columns.",
            columns=sorted(map(str, row)),
        )
    if row[name] is None:
        raise value_error(
            f"Column {name!r} of row {number} is empty.",
            fix="Leave such rows out.",
            **{name: None},
        )
    return row[name]


def text(value: Any, name: str, number: int) -> bytes:
    """A text as UTF-8 bytes.

    Raises:
        TypeError: The value is not a text.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, bytes):
        return value
    raise type_error(
        f"Column {name!r} of row {number} must hold a text.",
        fix="Pass the names of the columns that hold the texts.",
        **{name: value},
    )


def _file_rows(path: Path, separator: str | None) -> Iterator[Mapping[str, Any]]:
    if path.suffix in _RECORDS:
        yield from _record_rows(path)
        return
    content = read_utf8(path)
    if not content.strip():
        raise _empty_file(path)
    if path.suffix in _JSON_LINES:
        yield from (row for _, row in parse_json_lines(content, path))
    elif separator is None:
        yield {TEXT: content}
    else:
        yield from ({TEXT: part} for part in content.split(separator) if part)


def _record_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    empty = True
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            empty = False
            yield {name: _feature(value) for name, value in features.items()}
    except (tf.errors.OpError, ValueError) as error:
        raise value_error(
            "A file does not hold complete TFRecords of tf.train.Example.",
            fix="Write it again, without compression.",
            file=str(path),
            error=str(error).split("\n")[0],
        ) from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's; its module differs between versions
            raise
        raise value_error(
            "A record is not a tf.train.Example.",
            fix="Write records as tf.train.Example(...).SerializeToString().",
            file=str(path),
        ) from error
    if empty:
        raise _empty_file(path)


def _empty_file(path: Path) -> ValueError:
    return value_error("A file is empty.", fix="Leave it out of the source.", file=str(path))


def _feature(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    values = list(getattr(value, kind).value) if kind else []
    return values[0] if len(values) == 1 else values


def _column_rows(columns: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise value_error(
            "Columns must have the same length.",
            fix="Give every column a value for every row.",
            lengths=lengths,
        )
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _items(source: Any) -> Iterable[Any]:
    if isinstance(source, tf.data.Dataset):
        return source.as_numpy_iterator()
    if isinstance(source, (bytes, int, float)) or source is None:
        raise TypeError(_not_a_source(source))
    if hasattr(source, "__iter__"):
        return source
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return (source[i] for i in range(len(source)))
    raise TypeError(_not_a_source(source))


def _not_a_source(source: Any) -> str:
    return explain(
        "Texts cannot be read from this source.",
        fix="Pass a path, a pattern, a list of texts, or rows such as a Hugging Face dataset.",
        source=source,
    )


# GPT-2's pre-tokenization splits on both sides of a line break between two letters, and special
# tokens do not contain such a line break: a text that is cut there has the tokens of its pieces.
_CUT = re.compile(rb"[0-9A-Za-z.,;]\n(?=[0-9A-Za-z])")


def split_document(document: bytes, size: int) -> Iterator[bytes]:
    """Cuts a long text at places where a token certainly ends.

    Args:
        document: UTF-8.
        size: Minimum size of a piece in bytes; a piece is longer where there is no such place.

    Returns:
        Pieces whose tokens, joined, are the tokens of the text.
    """
    start = 0
    while len(document) - start > size:
        place = _CUT.search(document, start + size - 1)
        if place is None:
            break
        yield document[start : place.end()]
        start = place.end()
    yield document[start:]


def numbers(values: Any, name: str, number: int) -> np.ndarray:
    """A column's numbers as an array of rank 0 or 1.

    Raises:
        TypeError: A value is not a number.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim > 1:
        raise type_error(
            f"Column {name!r} of row {number} must hold a number or a list of numbers.",
            fix="Turn names into numbers first, or pass `label_names`.",
            **{name: values},
        )
    return array

"""CSV and TSV with a header, quoted as in RFC 4180."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

from tfgpt2.batch.formats.base import Format, Row, damaged

_LONGEST_FIELD = 2**24  # characters; Python's own limit is 2**17
_ESCAPED = range(0xDC80, 0xDD00)  # how "surrogateescape" shows bytes that are not UTF-8


def read(path: Path, delimiter: str) -> Iterator[Row]:
    """Reads a file; a row with too few or too many fields has an error.

    Raises:
        ValueError: The header is missing or has a name twice, or a quote is not closed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    offset = 0

    def lines() -> Iterator[str]:
        nonlocal offset
        with path.open("rb") as file:
            for line in file:
                offset += len(line)
                yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise damaged(path, place, f"{error}, in a record that begins there") from error
        if not fields:  # a blank line
            continue
        if header is None:
            header = [name.removeprefix("\ufeff") for name in fields]
            if len(set(header)) < len(header):
                raise damaged(path, place, f"its header has a name twice: {header}")
            continue
        columns, error = dict(zip(header, fields, strict=False)), None
        if len(fields) != len(header):
            error = f"it has {len(fields)} fields, and the header has {len(header)}"
        elif any(ord(char) in _ESCAPED for field in fields for char in field):
            error = "it is not UTF-8"
        if error:
            columns = {name: _replaced(text) for name, text in columns.items()}
        yield Row(columns, place, offset, error)


def _replaced(text: str) -> str:
    """A text with U+FFFD for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


CSV = Format((".csv",), functools.partial(read, delimiter=","), has_schema=True)
TSV = Format((".tsv", ".tab"), functools.partial(read, delimiter="\t"), has_schema=True)

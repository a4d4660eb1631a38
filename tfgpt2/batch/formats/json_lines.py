"""JSON Lines: one object a line, in UTF-8."""

from __future__ import annotations

import base64
import codecs
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfgpt2.batch.formats.base import Format, Row, Writer, decode
from tfgpt2.files import parse_json


def read(path: Path) -> Iterator[Row]:
    """Reads a file; blank lines are not rows."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            offset += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield Row(*_parse(line, f"line {number}", offset))


def _parse(line: bytes, place: str, offset: int) -> tuple[Any, ...]:
    text, error = decode(line)
    if error is None:
        try:
            columns = parse_json(text)
        except ValueError as problem:
            error = f"it is not valid JSON ({problem})"
        else:
            if isinstance(columns, dict):
                return columns, place, offset
            error = f"it is not a JSON object but a {type(columns).__name__}"
    return {}, place, offset, error


def write(path: Path, rows: Sequence[Mapping[str, Any]], schema: None = None) -> None:
    """Writes rows; numbers that are not finite become null, as JSON has none."""
    with path.open("wb") as file:
        file.writelines(map(_line, rows))
        file.flush()
        os.fsync(file.fileno())


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):  # not finite, bytes, dates
        text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        return json.dumps(_plain(row), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """A value of any format as one of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):  # as TensorFlow Serving writes what is not text
        text, error = decode(value)
        return text if error is None else {"b64": base64.b64encode(value).decode()}
    if value is None or isinstance(value, (str, int)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


JSON_LINES = Format((".jsonl", ".ndjson"), read)
JSON_LINES_WRITER = Writer(".jsonl", write)

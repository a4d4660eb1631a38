"""Plain text: each line is a row with the one column `text`, empty lines too."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from tfgpt2.batch.formats.base import TEXT, Format, Row, decode


def read(path: Path) -> Iterator[Row]:
    """Reads a file; a line ends at a line feed, and a carriage return before it is dropped."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            offset += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            text, error = decode(line.removesuffix(b"\n").removesuffix(b"\r"))
            yield Row({TEXT: text}, f"line {number}", offset, error)


TEXT_LINES = Format((".txt", ".text"), read, has_schema=True)

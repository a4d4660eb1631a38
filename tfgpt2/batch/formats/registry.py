"""The formats that a job reads, by the ending of a file, and those that it writes, by name."""

from __future__ import annotations

from pathlib import Path

from tfgpt2.batch.formats.base import Format, Writer
from tfgpt2.batch.formats.delimited import CSV, TSV
from tfgpt2.batch.formats.json_lines import JSON_LINES, JSON_LINES_WRITER
from tfgpt2.batch.formats.parquet import PARQUET, PARQUET_WRITER
from tfgpt2.batch.formats.text_lines import TEXT_LINES
from tfgpt2.batch.formats.tfrecord import TFRECORD
from tfgpt2.errors import value_error

FORMATS: dict[str, Format] = {
    suffix: one
    for one in (JSON_LINES, CSV, TSV, PARQUET, TFRECORD, TEXT_LINES)
    for suffix in one.suffixes
}
WRITERS: dict[str, Writer] = {"jsonl": JSON_LINES_WRITER, "parquet": PARQUET_WRITER}


def find_format(path: Path) -> Format:
    """The format of a file, by its ending.

    Raises:
        ValueError: The ending is unknown.

    Example:
        >>> find_format(Path("corpus.ndjson")) is JSON_LINES
        True
    """
    if path.suffix.lower() not in FORMATS:
        raise value_error(
            f"The ending of {path.name} is not that of a known format.",
            fix=f"Known endings: {', '.join(FORMATS)}.",
            file=str(path),
        )
    return FORMATS[path.suffix.lower()]

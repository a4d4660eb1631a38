"""Text and JSON files that are read with checks, and files that are replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfgpt2.errors import explain, unreadable, value_error

_BYTE_ORDER_MARK = "\ufeff"
_MAX_JSON = 500_000_000  # bytes; the largest vocabularies have a few tens of millions
_MAX_LEVELS = 100  # of JSON values; what copies or writes them calls itself for each level


def read_utf8(path: Path) -> str:
    """Reads a text file; a byte-order mark at its start is dropped, and line ends are kept.

    Raises:
        ValueError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise value_error(
            "A file cannot be read.", fix=f"Check the file: {error}.", file=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise value_error(
            f"The file is not UTF-8: {error.reason} at byte {error.start}.",
            fix="Convert it first, for example with iconv -f latin1 -t utf-8.",
            file=str(path),
        ) from error


def parse_json_lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parses a file with one JSON object per line; empty lines are skipped.

    Args:
        text: Its text.
        path: Its path, for the error.

    Yields:
        The number of the line, from 1, and its object.

    Raises:
        ValueError: A line is not a JSON object.

    Example:
        >>> list(parse_json_lines('{"a": 1}', Path("a.jsonl")))
        [(1, {'a': 1})]
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise bad_line(path, number, f"is not valid JSON ({error})", line) from error
        if not isinstance(row, dict):
            raise bad_line(path, number, "is not an object", line)
        yield number, row


def bad_line(path: str | os.PathLike[str], number: int, problem: str, line: Any) -> ValueError:
    """Returns the error for a line of a file with one JSON object per line.

    Args:
        path: The file.
        number: Number of the line, from 1.
        problem: A clause that says what is wrong with it.
        line: The line, or its object.
    """
    return value_error(
        f"Line {number} of the file {problem}.",
        fix='Write one JSON object on each line, such as {"text": "..."}, in UTF-8.',
        file=str(path),
        line=line,
    )


def parse_json(text: str) -> Any:
    """Parses JSON whose values are at most 100 levels deep, so that anything can be done with them.

    Raises:
        ValueError: It is not valid JSON, or deeper.

    Example:
        >>> parse_json("[" * 101 + "]" * 101)
        Traceback (most recent call last):
            ...
        ValueError: it is nested more than 100 levels deep
    """
    too_deep = f"it is nested more than {_MAX_LEVELS} levels deep"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MAX_LEVELS):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in inside for one in values if isinstance(one, (dict, list))]
        if not level:
            return value
    raise ValueError(too_deep)


def read_json_object(path: Path, kind: str = "checkpoint") -> dict[str, Any]:
    """Parses a JSON file that holds an object.

    Args:
        path: The file.
        kind: What the file is expected to be, for the error.

    Raises:
        ValueError: It is huge, not UTF-8, not valid JSON, nested too deeply, or not an object.
    """
    if (size := path.stat().st_size) > _MAX_JSON:
        raise unreadable(path, f"it has {size} bytes, more than any such file", kind=kind)
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unreadable(path, f"it is not valid JSON ({error})", kind=kind) from error
    if not isinstance(values, dict):
        reason = f"expected a JSON object, found a {type(values).__name__}"
        raise unreadable(path, reason, kind=kind)
    return values


def try_read_json_object(path: Path | None) -> dict[str, Any]:
    """Parses a JSON file that holds an object; returns {} where `read_json_object` would raise.

    Args:
        path: The file, or None for {}.
    """
    try:
        return {} if path is None else read_json_object(path)
    except ValueError:
        return {}


def make_directory(directory: str | os.PathLike[str], what: str) -> Path:
    """Creates the directory of a save, if it does not exist.

    Args:
        directory: Its path.
        what: What is saved, such as `"A model"`, for the error.

    Raises:
        NotADirectoryError: It is a file.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(
            explain(
                f"{what} is saved into a directory.",
                fix="Pass the path of a directory.",
                directory=str(directory),
            )
        )
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def replace_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Writes files under temporary names and renames them when all of them are complete.

    If the block raises, for example on a full disk, the files of an earlier save stay as they were.

    Args:
        paths: The final paths, all in directories that exist.

    Yields:
        The temporary paths to write to, in the same order.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replace_files([Path(folder, "a.txt")]) as (temporary,):
        ...         _ = temporary.write_text("complete")
        ...     print(Path(folder, "a.txt").read_text())
        complete
    """
    temporary = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    try:
        yield temporary
        for source, target in zip(temporary, paths, strict=True):
            source.replace(target)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)

"""Text files and JSON files of a tokenizer, read with an error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfgpt2.errors import value_error
from tfgpt2.files import parse_json


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Raises:
        ValueError: It does not.
    """
    text = read_text(path)
    try:
        data = parse_json(text)
    except ValueError as error:  # a number may have too many digits
        raise _damaged(path, str(error)) from error
    if not isinstance(data, dict):
        raise _damaged(path, f"expected an object, found {type(data).__name__}")
    return data


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text.

    Raises:
        ValueError: It is not valid UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> ValueError:
    return value_error(
        f"{path.name!r} is damaged: {reason}.",
        fix="Download or save the tokenizer again.",
        path=str(path),
    )

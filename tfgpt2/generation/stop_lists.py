"""Checks of stop strings.

This module does not import TensorFlow, so that other runtimes can use it.
"""

from __future__ import annotations

from typing import Any

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.options import LONGEST_STOP, MOST_STOPS


def stop_lists(name: str, stop: Any, rows: int) -> list[list[bytes]]:
    """Checks stop strings and gives each row its own.

    Args:
        name: Name of the argument, for errors.
        stop: A string, a list of strings for all rows, or such a list for each row.
        rows: How many rows there are.

    Returns:
        The strings of each row.

    Raises:
        TypeError: It is something else.
        ValueError: A string is too long, or there are too many.

    Example:
        >>> stop_lists("stop", "END", rows=2)
        [[b'END'], [b'END']]
    """
    lists = [stop] if isinstance(stop, (str, bytes)) else stop
    if isinstance(lists, (list, tuple)) and all(isinstance(one, (str, bytes)) for one in lists):
        lists = [lists] * rows
    if isinstance(lists, (list, tuple)):
        lists = [[one] if isinstance(one, (str, bytes)) else one for one in lists]
    if not isinstance(lists, (list, tuple)) or len(lists) != rows or not all(
        isinstance(row, (list, tuple)) and all(isinstance(one, (str, bytes)) for one in row)
        for row in lists
    ):  # fmt: skip
        raise type_error(
            f"`{name}` must be a string, a list of strings, or one such list for each of the"
            f" {rows} prompts.",
            fix=f"Pass {name}=['\\n'] to end each text at a line break.",
            **{name: stop},
        )
    texts = [[to_bytes(one) for one in row] for row in lists]
    if any(len(row) > MOST_STOPS or max(map(len, row), default=0) > LONGEST_STOP for row in texts):
        raise value_error(
            f"A prompt can have {MOST_STOPS} stop strings of {LONGEST_STOP} bytes each.",
            fix="Pass fewer or shorter ones.",
            **{name: stop},
        )
    return texts


def to_bytes(text: str | bytes) -> bytes:
    """Text as bytes; half a surrogate pair becomes bytes that are not valid UTF-8."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text

"""Memory that a process has freed and not given back."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release_free_memory() -> None:
    """Gives memory that is free back to the operating system.

    XLA needs some hundred megabytes to compile a program, and the C library keeps what is freed
    for later. Does nothing where the C library has no such function.

    Example:
        >>> release_free_memory()

    Source: the GNU C library, `malloc_trim`.
    """
    _malloc_trim()(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int]:
    """The function of the C library that this process uses."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return lambda padding: 0

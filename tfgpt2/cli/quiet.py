"""Silence where C++ libraries talk: TensorFlow's notes at start-up are no concern of a user."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what C++ libraries print to standard error; they know nothing of Python's streams.

    With `TFGPT2_TRACEBACK` in the environment everything is shown.

    Example:
        >>> with quiet():
        ...     _ = os.write(2, b"not seen")
    """
    if os.environ.get("TFGPT2_TRACEBACK"):
        yield
        return
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)

"""Silence on standard error while a C++ library starts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards what C++ libraries, such as TensorFlow at start-up, write to descriptor 2.

    With `TFGPT2_TRACEBACK` in the environment everything is shown.

    Example:
        >>> with quiet():
        ...     _ = os.write(2, b"discarded")
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

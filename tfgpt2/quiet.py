"""Silence on standard error while a C++ library starts."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator


class _StandardError:
    """Descriptor 2, which belongs to the process: the last of several threads restores it."""

    def __init__(self) -> None:
        self._lock, self._users, self._saved = threading.Lock(), 0, -1

    def discard(self) -> None:
        """Discards what is written from now on."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                sys.stderr.flush()
                self._saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)

    def restore(self) -> None:
        """Ends one `discard`."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)


_standard_error = _StandardError()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards what C++ libraries, such as TensorFlow at start-up, write to descriptor 2.

    With `TFGPT2_TRACEBACK` in the environment everything is shown. Threads may overlap.

    Example:
        >>> with quiet():
        ...     _ = os.write(2, b"discarded")
    """
    if os.environ.get("TFGPT2_TRACEBACK"):
        yield
        return
    _standard_error.discard()
    try:
        yield
    finally:
        _standard_error.restore()

"""The time in which a version compiles programs; it does not count against requests.

In an export with XLA, a signature that is called with new shapes is compiled first, for seconds in
which all requests that need it wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Hashable, Iterator

_log = logging.getLogger(__name__)
_WORTH_A_LINE = 1.0  # seconds


class FirstRuns:
    """A clock that runs while some call has shapes that were never called before.

    Args:
        name: Of the model, for the log.
        compiles: Whether the export has programs that XLA compiles. Without any, it never runs.

    Attributes:
        compiles: As given.

    Example:
        >>> clock = FirstRuns("model", compiles=True)
        >>> for _ in range(2):
        ...     with clock.measure("generate", (8, 64)):
        ...         before = clock.seconds()
        ...         time.sleep(0.02)
        ...     print(clock.seconds() - before >= 0.02)
        True
        False
    """

    def __init__(self, name: str, *, compiles: bool):
        self._name, self.compiles = name, compiles
        self._lock = threading.Lock()
        self._known: set[Hashable] = set()
        self._running, self._since, self._total = 0, 0.0, 0.0

    def seconds(self) -> float:
        """Time on the clock; that of calls at the same time counts once."""
        with self._lock:
            return self._total + (time.monotonic() - self._since if self._running else 0.0)

    @contextlib.contextmanager
    def measure(self, signature: str, shapes: Hashable) -> Iterator[None]:
        """Context of a call.

        Args:
            signature: What is called.
            shapes: Of its inputs.
        """
        key = (signature, shapes)
        if not self.compiles or key in self._known:
            yield
            return
        begin = time.monotonic()
        with self._lock:
            if not self._running:
                self._since = begin
            self._running += 1
        try:
            yield
            self._known.add(key)
        finally:
            end = time.monotonic()
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._total += end - self._since
            if end - begin > _WORTH_A_LINE:
                _log.info(
                    "%s: compiled %s for new shapes in %.1f s",
                    self._name, signature, end - begin,
                )  # fmt: skip

"""Display of a job: rows, rows and tokens per second, and the remaining time."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS = 60  # between two lines, where the console is no terminal


class JobProgress:
    """A progress bar; a line each minute where the console is not a terminal.

    The bar follows the bytes of the input files: their rows are not known before they are read.

    Args:
        size: Bytes of all input files.
        console: The console; None shows nothing.

    Attributes:
        rows: Rows that were processed.
        tokens: Tokens that were generated or scored.
    """

    def __init__(self, size: int, console: Console | None) -> None:
        self.rows = self.tokens = 0
        self._console, self._start = console, time.monotonic()
        self._next_line = self._start + _SECONDS
        self._bar = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=console is None or not console.is_terminal,
            transient=True,
            refresh_per_second=2,
        )
        self._task = self._bar.add_task("", total=size, text="starting")

    def __enter__(self) -> JobProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-9)
        speed = f"{self.rows / seconds:,.1f} rows/s, {self.tokens / seconds:,.0f} tokens/s"
        return f"{self.rows:,} rows, {speed}"

    def add(self, rows: int, tokens: int) -> None:
        """Counts a batch."""
        self.rows += rows
        self.tokens += tokens
        self._bar.update(self._task, text=str(self))
        if self._console and not self._console.is_terminal and time.monotonic() > self._next_line:
            self._next_line += _SECONDS
            self._console.print(str(self), highlight=False)

    def move(self, offset: int, *, skipped: bool = False) -> None:
        """Moves the bar to a number of bytes; skipped ones do not count for the remaining time."""
        if skipped:
            self._bar.reset(self._task, completed=offset, text=str(self))
        else:
            self._bar.update(self._task, completed=offset)

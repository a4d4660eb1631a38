"""Console input and output that the commands share: progress notes, silence, prompts from stdin."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from rich.console import Console

from tfgpt2.quiet import quiet

# Standard error for progress, notes and errors. A descriptor of its own, so that `quiet` can
# silence descriptor 2 without silencing this console.
notes = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace"))


def read_text(argument: str | None) -> str:
    """Returns the argument of a command; for None or "-", standard input as UTF-8."""
    if argument not in (None, "-"):
        return argument
    if sys.stdin.isatty():
        notes.print("Type the text, then Ctrl-D:", style="dim")
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


@contextlib.contextmanager
def progress(description: str) -> Iterator[None]:
    """Shows a spinner with a description, and silences C++ libraries meanwhile."""
    with notes.status(f"{description} ..."), quiet():
        yield

"""A continuation written to the terminal as it grows, and what it took."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfgpt2.cli.console import progress


@dataclasses.dataclass
class Streamed:
    """A continuation that was written, all of it or as much as there was until Ctrl-C.

    Attributes:
        text: The continuation.
        tokens: Its tokens, an end token included; None if it was interrupted.
        first: Seconds to its first piece, the compiler's included.
        seconds: Seconds in all.
    """

    text: str = ""
    tokens: int | None = None
    first: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        """The closing line."""
        if self.tokens is None:
            return "stopped"
        return closing_line(self.tokens, self.seconds, self.first)


def closing_line(tokens: int, seconds: float, first: float | None = None) -> str:
    """One line about what was generated: tokens, tokens per second, seconds to the first piece.

    Args:
        tokens: How many there are.
        seconds: How long it took.
        first: How long the first piece took, which is part of `seconds`.

    Example:
        >>> closing_line(40, 2.0, 1.5)
        '40 tokens, 20.0 tokens/s, 1.5 s to the first'
    """
    shown = f"{tokens:,} token{'s' * (tokens != 1)}, {tokens / max(seconds, 1e-9):,.1f} tokens/s"
    return shown if first is None else f"{shown}, {first:.1f} s to the first"


def write_stream(
    generator: Any,
    prompt: str,
    settings: Mapping[str, Any],
    *,
    before: str = "",
    write: Callable[[str], None] | None = None,
) -> Streamed:
    """Continues a text and writes the pieces as they come.

    Args:
        generator: A `TextGenerator`.
        prompt: The text.
        settings: Options of `TextGenerator.stream`.
        before: What is written before the first piece.
        write: Where to; by default standard output.

    Returns:
        What was written. Ctrl-C ends it early; it raises nothing.

    Raises:
        ValueError: A setting is out of range, or the prompt cannot run.
    """
    write, found, start = write or write_out, Streamed(), time.perf_counter()

    def pieces() -> Iterator[str]:
        found.tokens = yield from generator.stream(prompt, **settings)

    try:
        stream = pieces()
        with progress("Waiting for the first token"):  # and, the first time, for the compiler
            piece = next(stream, "")
        found.first = time.perf_counter() - start
        write(before)
        while piece:
            write(piece)
            found.text += piece
            piece = next(stream, "")
    except KeyboardInterrupt:
        found.tokens = None
    found.seconds = time.perf_counter() - start
    write("\n")
    return found


def write_out(text: str) -> None:
    """Writes to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()

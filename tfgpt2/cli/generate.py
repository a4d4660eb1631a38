"""`tfgpt2 generate`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import typer

from tfgpt2.cli.console import progress, read_text
from tfgpt2.cli.options import DEFAULT_MODEL, Model, Prompt, add_flags, flag


@dataclasses.dataclass
class GenerateOptions:
    """Options of `TextGenerator.stream`; None is the default of the model."""

    max_new_tokens: int = flag(200, short="-n")
    temperature: float | None = flag(None, "0 is greedy.", short="-t")
    top_k: int | None = flag(None, "0 is off.")
    top_p: float | None = flag(None, "1 is off.")
    min_p: float | None = flag(None, "0 is off.")
    repetition_penalty: float | None = flag(None, "1 is off.")
    seed: int | None = flag(None, "Repeats a result.")
    stop: list[str] | None = flag(None, "Ends the text; may be given several times.")


@add_flags(GenerateOptions, defaults=True)
def generate(prompt: Prompt = None, model: Model = DEFAULT_MODEL, **options: Any) -> None:
    """Continue a text, token by token as it is written."""
    text = read_text(prompt)
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model, on_long_prompt="truncate_left")
    pieces = generator.stream(text, **options)
    with progress("Compiling the decode loop"):
        first = next(pieces, "")  # the first piece waits for the compiler
    _write(typer.style(text, bold=True) if sys.stdout.isatty() else text)
    _write(first)
    for piece in pieces:
        _write(piece)
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

"""`tfgpt2 generate`."""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
from typing import Annotated, Any

import typer

from tfgpt2.cli.console import progress, read_text
from tfgpt2.cli.options import DEFAULT_MODEL, Model, Prompt, add_flags, flag
from tfgpt2.validation import check_choice


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


RUNTIMES = ("tensorflow", "litert")
Runtime = Annotated[
    str, typer.Option("--runtime", help="tensorflow; or litert, for a folder of `export --format`.")
]


@add_flags(GenerateOptions, defaults=True)
def generate(
    prompt: Prompt = None,
    model: Model = DEFAULT_MODEL,
    runtime: Runtime = "tensorflow",
    **options: Any,
) -> None:
    """Continue a text, token by token as it is written."""
    check_choice("runtime", runtime, RUNTIMES)
    text = read_text(prompt)
    with progress(f"Loading {model}"):
        generator = (_load_litert if runtime == "litert" else _load_tensorflow)(model)
    pieces = generator.stream(text, **options)
    with progress("Reading the prompt" if runtime == "litert" else "Compiling the decode loop"):
        first = next(pieces, "")  # the first piece waits for the compiler
    _write(typer.style(text, bold=True) if sys.stdout.isatty() else text)
    _write(first)
    for piece in pieces:
        _write(piece)
    _write("\n")


def _load_tensorflow(model: str) -> Any:
    from tfgpt2.text.generator import TextGenerator

    return TextGenerator.from_pretrained(model, on_long_prompt="truncate_left")


def _load_litert(model: str) -> Any:
    """Loads a LiteRT export; TensorFlow is not imported."""
    from tfgpt2.litert.generator import LiteRTGenerator

    # The runtime reports on standard error that it ends, after all of Python.
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
    return LiteRTGenerator.from_pretrained(model, on_long_prompt="truncate_left")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

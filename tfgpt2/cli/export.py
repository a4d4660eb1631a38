"""`tfgpt2 export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tfgpt2.cli.console import progress
from tfgpt2.cli.options import DEFAULT_MODEL, Model, add_flags, flag
from tfgpt2.errors import value_error

_BATCH_SIZES = {"auto": "auto", "any": None}
_INTEGER_LISTS = ("batch_sizes", "prompt_buckets", "output_buckets")


PANELS = {
    "What is written": ("signatures", "inputs", "weights", "prefix", "on_long_prompt"),
    "Shapes and batches": ("batch_sizes", "prompt_buckets", "output_buckets", "max_new_tokens",
                           "batching", "jit_compile"),
    "Checks": ("warmup", "check"),
}  # fmt: skip


@dataclasses.dataclass
class ExportOptions:
    """Options of `TextGenerator.export`; lists of integers as text."""

    signatures: list[str] | None = flag(
        None, "May be given several times.", flag="signature", default_text="all of them"
    )
    weights: str | None = flag(
        None, "float32, bfloat16, float16 or int8.", default_text="the model's own"
    )
    batch_sizes: str | None = flag("auto", "Such as 1,4,16; 'auto', or 'any' for no padding.")
    prompt_buckets: str | None = flag(None, "Such as 64,256.")
    output_buckets: str | None = flag(None, "Such as 32,128.")
    max_new_tokens: int | None = flag(None, "The most tokens a request gets.")
    batching: str | None = flag(None, "graph or server: put concurrent requests together.")
    warmup: bool = flag(False, "Write a request for every shape, run when a server starts.")
    on_long_prompt: str = flag("truncate_left", "truncate_left or error.")
    jit_compile: bool = flag(True, "Compile with XLA; the server then needs its XLA flag.")
    prefix: str | None = flag(None, "A text before every prompt, read once.")
    inputs: list[str] | None = flag(
        None, "A setting that requests give; may be given several times.", flag="input"
    )
    check: bool = flag(True, "Compare with a clean process.")


@add_flags(ExportOptions, PANELS)
def export(
    path: Annotated[Path, typer.Argument(help="Version directory, such as saved_models/gpt2/1.")],
    model: Model = DEFAULT_MODEL,
    next_version: Annotated[
        bool, typer.Option("--next", help="PATH is the model's directory; make its next version.")
    ] = False,
    **options: Any,
) -> None:
    """Write a string-to-string SavedModel for TensorFlow Serving."""
    options |= {name: _integers(name, options[name]) for name in _INTEGER_LISTS}
    options |= {name: options[name] or None for name in ("signatures", "inputs")}
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model)
    with progress(f"Exporting to {path}" + (" and checking it" if options["check"] else "")):
        report = generator.export(path, version="next" if next_version else None, **options)
    Console().print(report)


def _integers(name: str, text: str | None) -> list[int] | str | None:
    """Parses integers separated by commas."""
    if name == "batch_sizes" and text in _BATCH_SIZES:
        return _BATCH_SIZES[text]
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise value_error(
            f"`--{name.replace('_', '-')}` must be integers separated by commas.",
            fix="For example 1,4,16.",
            **{name: text},
        ) from None

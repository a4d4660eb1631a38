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
from tfgpt2.validation import check_choice

FORMATS = ("saved_model", "litert")
_BATCH_SIZES = {"auto": "auto", "any": None}
_INTEGER_LISTS = ("batch_sizes", "prompt_buckets", "output_buckets")


PANELS = {
    "What is written": ("signatures", "inputs", "weights", "prefix", "on_long_prompt"),
    "Shapes and batches": ("batch_sizes", "prompt_buckets", "output_buckets", "max_new_tokens",
                           "batching", "jit_compile"),
    "Checks": ("warmup", "check"),
    "--format litert": ("quantize", "batch_size", "context"),
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


@dataclasses.dataclass
class LiteRTOptions:
    """Options of `TextGenerator.export_litert` that an export of a SavedModel does not have."""

    quantize: str | None = flag(None, "int8, float16 or int4.", default_text="float32")
    batch_size: int | None = flag(None, "Rows of every call.", default_text="1")
    context: int | None = flag(None, "Most tokens of a text.", default_text="the model's")


@add_flags(LiteRTOptions, PANELS)
@add_flags(ExportOptions, PANELS)
def export(
    path: Annotated[Path, typer.Argument(help="Version directory, such as saved_models/gpt2/1.")],
    model: Model = DEFAULT_MODEL,
    format: Annotated[str, typer.Option(help="saved_model; or litert, a folder.")] = "saved_model",
    next_version: Annotated[
        bool, typer.Option("--next", help="PATH is the model's directory; make its next version.")
    ] = False,
    **options: Any,
) -> None:
    """Write a string-to-string SavedModel for TensorFlow Serving, or a folder for LiteRT."""
    check_choice("format", format, FORMATS)
    options = _options_of(format, options | {"next": next_version})
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        # A SavedModel's is an argument of its export.
        more = {"on_long_prompt": options.pop("on_long_prompt")} if format == "litert" else {}
        generator = TextGenerator.from_pretrained(model, **more)
    with progress(f"Exporting to {path}" + (" and checking it" if options["check"] else "")):
        write = generator.export_litert if format == "litert" else generator.export
        report = write(path, **options)
    Console().print(report)


def _options_of(format: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a format, in Python's form.

    Raises:
        ValueError: An option of the other format is given.
    """
    litert = {field.name: field.default for field in dataclasses.fields(LiteRTOptions)}
    saved_model = {field.name: field.default for field in dataclasses.fields(ExportOptions)}
    shared = ("prompt_buckets", "check", "on_long_prompt")
    defaults = saved_model | litert | {"next": False}
    foreign = litert if format == "saved_model" else saved_model | {"next": False}
    for name in foreign.keys() - {*shared}:
        if options[name] not in (defaults[name], []):
            raise value_error(
                f"`--{name.replace('_', '-')}` does not belong to the format {format}.",
                fix="Leave it out, or give the other --format.",
                format=format,
                **{name: options[name]},
            )
    kept = {name: value for name, value in options.items() if name in shared or name not in foreign}
    for name in _INTEGER_LISTS:
        if name in kept:
            kept[name] = _integers(name, kept[name])
    if format == "saved_model":
        kept |= {name: kept[name] or None for name in ("signatures", "inputs")}
        kept["version"] = "next" if kept.pop("next") else None
    return {n: v for n, v in kept.items() if v is not None or format == "saved_model"}


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

"""`tfgpt2 export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from tfgpt2.cli.console import progress
from tfgpt2.cli.options import DEFAULT_MODEL, Model, add_flags, flag
from tfgpt2.errors import value_error
from tfgpt2.extras import require
from tfgpt2.validation import check_choice

_BATCH_SIZES = {"auto": "auto", "any": None}
_INTEGER_LISTS = ("batch_sizes", "prompt_buckets", "output_buckets")


PANELS = {
    "Content": ("signatures", "inputs", "weights", "cache_dtype", "prefix", "on_long_prompt"),
    "Shapes and batches": ("batch_sizes", "prompt_buckets", "output_buckets", "max_new_tokens",
                           "batching", "jit_compile"),
    "Checks": ("warmup", "check"),
    "Only with --format litert or litertlm": ("quantize", "batch_size", "context"),
}  # fmt: skip


@dataclasses.dataclass
class ExportOptions:
    """Options of `TextGenerator.export`; lists of integers as text."""

    signatures: list[str] | None = flag(
        None,
        "Signature to export; may be given several times.",
        flag="signature",
        default_text="all of them",
    )
    weights: str | None = flag(
        None, "float32, bfloat16, float16 or int8.", default_text="the model's own"
    )
    cache_dtype: str | None = flag(
        None,
        "float32, bfloat16 or float16: type of keys and values.",
        default_text="the model's own",
    )
    batch_sizes: str | None = flag(
        "auto", "Sizes to which batches are padded, such as 1,4,16; 'auto'; 'any': no padding."
    )
    prompt_buckets: str | None = flag(
        None, "Sizes to which prompts are padded, such as 64,256.", default_text="16, 32, 64, ..."
    )
    output_buckets: str | None = flag(
        None, "Sizes of the output buffer, such as 32,128.", default_text="16, 32, 64, ..."
    )
    max_new_tokens: int | None = flag(None, "Maximum number of new tokens of a request.")
    batching: str | None = flag(None, "Batch concurrent requests, by the graph or the server.")
    warmup: bool = flag(False, "Write a request for every shape, which a server runs at start.")
    on_long_prompt: str = flag("truncate_left", "truncate_left or error.")
    jit_compile: bool = flag(True, "Compile with XLA; the server then needs its XLA flag.")
    prefix: str | None = flag(None, "Text before every prompt, computed once.")
    inputs: list[str] | None = flag(
        None, "Setting that requests can set; may be given several times.", flag="input"
    )
    check: bool = flag(True, "Run the export in a clean process and compare the outputs.")


@dataclasses.dataclass
class LiteRTOptions:
    """Options of `TextGenerator.export_litert` that an export of a SavedModel does not have."""

    quantize: str | None = flag(None, "int8, float16 or int4.", default_text="float32")
    batch_size: int | None = flag(
        None, "Number of rows of each call; not with litertlm.", default_text="1"
    )
    context: int | None = flag(
        None, "Most tokens of prompt and continuation together.", default_text="the model's"
    )


class Format(NamedTuple):
    """What an export can be.

    Attributes:
        method: The method of `TextGenerator` that writes it.
        options: The options that it has.
        extra: What must be installed.
    """

    method: str
    options: tuple[str, ...]
    extra: str | None = None


_DEFAULTS = {
    field.name: field.default
    for options in (ExportOptions, LiteRTOptions)
    for field in dataclasses.fields(options)
} | {"next": False}
_SAVED_MODEL = (*(field.name for field in dataclasses.fields(ExportOptions)), "next")
_LITERT = ("quantize", "context", "prompt_buckets", "check")
FORMATS = {
    "saved_model": Format("export", _SAVED_MODEL),
    "litert": Format("export_litert", (*_LITERT, "batch_size", "on_long_prompt")),
    "litertlm": Format("export_litertlm", _LITERT, extra="litertlm"),
}


@add_flags(LiteRTOptions, PANELS)
@add_flags(ExportOptions, PANELS)
def export(
    path: Annotated[
        Path, typer.Argument(help="Version directory, such as saved_models/gpt2/1; folder; file.")
    ],
    model: Model = DEFAULT_MODEL,
    format: Annotated[
        str, typer.Option(help="saved_model; litert, a folder; or litertlm, a file for LiteRT-LM.")
    ] = "saved_model",
    next_version: Annotated[
        bool, typer.Option("--next", help="PATH is the model's directory; write its next version.")
    ] = False,
    **options: Any,
) -> None:
    """Write a string-to-string SavedModel for TensorFlow Serving, or what LiteRT runs."""
    check_choice("format", format, (*FORMATS,))
    options = _options_of(format, options | {"next": next_version})
    if extra := FORMATS[format].extra:
        require(f"The format {format}", extra)
    with progress(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        # A SavedModel's is an argument of its export.
        more = {"on_long_prompt": options.pop("on_long_prompt")} if format == "litert" else {}
        generator = TextGenerator.from_pretrained(model, **more)
    with progress(f"Exporting to {path}" + (" and checking it" if options["check"] else "")):
        report = getattr(generator, FORMATS[format].method)(path, **options)
    Console().print(report)


def _options_of(format: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a format, in Python's form.

    Raises:
        ValueError: An option of another format is given.
    """
    own = FORMATS[format].options
    for name in _DEFAULTS.keys() - {*own}:
        if options[name] not in (_DEFAULTS[name], []):
            raise value_error(
                f"`--{name.replace('_', '-')}` does not belong to the format {format}.",
                fix="Leave it out, or give another --format.",
                format=format,
                **{name: options[name]},
            )
    kept = {name: options[name] for name in own}
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

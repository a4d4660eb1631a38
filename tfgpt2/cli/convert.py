"""`tfgpt2 convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tfgpt2.cli.console import notes, progress


def convert(
    source: Annotated[str, typer.Argument(help="Directory, bundled name, hub name or file.")],
    destination: Annotated[Path, typer.Argument(help="Directory to create.")],
    to: Annotated[str, typer.Option(help="safetensors, h5 or keras_hub.")] = "safetensors",
    dtype: Annotated[
        str | None, typer.Option(help="Such as float16.", show_default="that of the source")
    ] = None,
) -> None:
    """Convert a checkpoint to another format, and check that the model is the same."""
    with progress("Starting"):
        from tfgpt2.conversion.convert import convert as convert_checkpoint
    report = convert_checkpoint(source, destination, to=to, dtype=dtype)
    print(
        f"{report.path}  {report.model}, {report.source_format} -> {report.format},"
        f" {report.tensors} tensors, {report.size / 1e6:.1f} MB,"
        f" largest difference of logits {report.difference:.1e}"
    )
    for note in report.notes:
        notes.print(escape(note), style="yellow")

"""`tfgpt2 train-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tfgpt2.cli.console import notes


def train_tokenizer(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 texts.")],
    output: Annotated[Path, typer.Argument(help="Directory to write to.")],
    vocab_size: Annotated[int, typer.Option(help="Number of tokens, special ones included.")],
    min_frequency: Annotated[
        int, typer.Option(help="A pair must occur this often to be merged.")
    ] = 2,
    special_token: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times.", show_default="<|endoftext|>"),
    ] = None,
) -> None:
    """Learn a byte-level BPE vocabulary from texts."""
    from tfgpt2.tokenizers import training

    tokenizer = training.train_tokenizer(
        files,
        vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_token or [training.END_OF_TEXT],
        show_progress=notes.is_terminal,
    )
    for path in tokenizer.save_pretrained(output):
        print(path)
    notes.print(f"{tokenizer.vocab_size:,} tokens", style="dim")

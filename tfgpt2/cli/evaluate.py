"""`tfgpt2 eval`: `perplexity`, `lambada` and `choices`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tfgpt2.cli.console import notes, progress
from tfgpt2.cli.options import DEFAULT_MODEL, Model
from tfgpt2.quiet import quiet

app = typer.Typer(help="Measure a model on text.", no_args_is_help=True)

BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="Texts read at once.")]
Limit = Annotated[int | None, typer.Option(help="Evaluate only the first N examples.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("perplexity")
def evaluate_perplexity(
    file: Annotated[Path, typer.Argument(help="UTF-8 text.")],
    model: Model = DEFAULT_MODEL,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens per window.", show_default="the model's context")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Tokens from one window to the next.", show_default="half a window"),
    ] = None,
    start_token: Annotated[bool, typer.Option(help="Score the first token, too.")] = False,
    batch_size: BatchSize = 8,
    json: Json = False,
) -> None:
    """Perplexity of a text by sliding windows, per token, word and byte."""
    with progress("Starting"):
        from tfgpt2.evaluation.perplexity import perplexity
    options = {"max_length": max_length, "stride": stride, "start_token": start_token}
    _evaluate(perplexity, model, file, json, batch_size=batch_size, **options)


@app.command("lambada")
def evaluate_lambada(
    file: Annotated[Path, typer.Argument(help='JSONL with {"text": ...}.')],
    model: Model = DEFAULT_MODEL,
    limit: Limit = None,
    batch_size: BatchSize = 8,
    json: Json = False,
) -> None:
    """Accuracy on the last word, in OpenAI's variant of LAMBADA."""
    with progress("Starting"):
        from tfgpt2.evaluation.cloze import lambada
    _evaluate(lambada, model, file, json, batch_size=batch_size, limit=limit)


@app.command("choices")
def evaluate_choices(
    file: Annotated[
        Path, typer.Argument(help='JSONL with {"context": ..., "choices": [...], "answer": 0}.')
    ],
    model: Model = DEFAULT_MODEL,
    delimiter: Annotated[str, typer.Option(help="Text between context and choice.")] = " ",
    limit: Limit = None,
    batch_size: BatchSize = 8,
    json: Json = False,
) -> None:
    """Multiple choice by log-likelihood, raw and divided by length."""
    with progress("Starting"):
        from tfgpt2.evaluation.cloze import choices
    options = {"delimiter": delimiter, "limit": limit}
    _evaluate(choices, model, file, json, batch_size=batch_size, **options)


def _evaluate(
    function: Callable[..., Any], model: str, file: Path, json: bool, **options: Any
) -> None:
    """Loads a model, runs a function of `tfgpt2.evaluation` and prints its result."""
    with progress(f"Loading {model}"):
        from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        parts = TFGPT2LMHeadModel.from_pretrained(model), TFGPT2Tokenizer.from_pretrained(model)
    with quiet():
        result = dataclasses.asdict(function(*parts, file, progress=notes, **options))
    if json:
        print(dumps({"model": model, "file": str(file)} | result))
        return
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        shown = f"{value:,.5g}" if isinstance(value, float) else f"{value:,}" if value else "-"
        table.add_row(key.replace("_", " "), shown)
    Console().print(table)

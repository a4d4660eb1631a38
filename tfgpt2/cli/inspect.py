"""`tfgpt2 inspect`: looks inside a model and writes a picture or a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfgpt2.cli.quiet import quiet
from tfgpt2.errors import explain, nearest

KINDS = {"attention": "attention_maps", "surprise": "surprise", "lens": "logit_lens"}


def inspect(
    text: Annotated[str, typer.Argument(help="The text; '-' reads standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Ends in .html or .png.")],
    kind: Annotated[str, typer.Option("--kind", "-k", help=", ".join(KINDS) + ".")] = "surprise",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Bundled name, directory or hub name.")
    ] = "shakespeare-tiny",
    top: Annotated[
        int | None, typer.Option(help="Likely tokens to show; of surprise and lens.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="The map to show, from 0; of attention.")
    ] = None,
    head: Annotated[int | None, typer.Option(help="Likewise.")] = None,
    start_token: Annotated[
        bool, typer.Option(help="Put the model's start token before the text.")
    ] = False,
) -> None:
    """Show what a model attends to, what surprises it, or what each layer would say."""
    options = _options(kind, top, layer, head)
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    with quiet():
        import tfgpt2.inspect as inspection
        from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        parts = TFGPT2LMHeadModel.from_pretrained(model), TFGPT2Tokenizer.from_pretrained(model)
        settings = {"top": top} if top is not None else {}
        look = getattr(inspection, KINDS[kind])
        found = look(*parts, text, start_token=start_token, **settings)
    print(found.save(output, **options))


def _options(kind: str, top: int | None, layer: int | None, head: int | None) -> dict[str, Any]:
    """Checks which options belong to a kind; returns those of `save`."""
    if kind not in KINDS:
        raise ValueError(
            explain(f"There is no kind {kind!r}.", fix=nearest(kind, KINDS), kind=kind)
        )
    foreign = {"top": top} if kind == "attention" else {"layer": layer, "head": head}
    given = {name: value for name, value in foreign.items() if value is not None}
    if given:
        raise ValueError(
            explain(
                f"`--kind {kind}` has no such option.",
                fix="`--top` is for surprise and lens, `--layer` and `--head` are for attention.",
                **given,
            )
        )
    return {"layer": layer, "head": head} if kind == "attention" else {}

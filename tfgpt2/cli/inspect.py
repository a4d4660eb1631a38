"""`tfgpt2 inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tfgpt2 import extras
from tfgpt2.cli.console import read_text
from tfgpt2.cli.options import DEFAULT_MODEL, Model
from tfgpt2.errors import nearest, value_error
from tfgpt2.quiet import quiet

_FUNCTIONS = {"attention": "attention_maps", "surprise": "surprise", "lens": "logit_lens"}


def inspect(
    text: Annotated[str, typer.Argument(help="The text; '-' reads standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .html or .png.")],
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="One of " + ", ".join(_FUNCTIONS) + ".")
    ] = "surprise",
    model: Model = DEFAULT_MODEL,
    top: Annotated[
        int | None, typer.Option(help="surprise, lens: number of likely tokens to show.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="attention: layer of the map to enlarge, from 0.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="attention: head of the map to enlarge, from 0.")
    ] = None,
    start_token: Annotated[
        bool, typer.Option(help="Put the model's start token before the text.")
    ] = False,
) -> None:
    """Show what a model attends to, what surprises it, or what each layer predicts."""
    save_options = _save_options(kind, top, layer, head)
    if output.suffix.lower() == ".png":
        extras.require("A picture (.png; a page, .html, does without)", "inspect")
    text = read_text(text)
    with quiet():
        import tfgpt2.inspect as inspection
        from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        parts = TFGPT2LMHeadModel.from_pretrained(model), TFGPT2Tokenizer.from_pretrained(model)
        options = {"top": top} if top is not None else {}
        function = getattr(inspection, _FUNCTIONS[kind])
        result = function(*parts, text, start_token=start_token, **options)
    print(result.save(output, **save_options))


def _save_options(
    kind: str, top: int | None, layer: int | None, head: int | None
) -> dict[str, Any]:
    """Returns the arguments of `save`; raises where an option does not belong to the kind."""
    if kind not in _FUNCTIONS:
        raise value_error(f"There is no kind {kind!r}.", fix=nearest(kind, _FUNCTIONS), kind=kind)
    foreign = {"top": top} if kind == "attention" else {"layer": layer, "head": head}
    given = {name: value for name, value in foreign.items() if value is not None}
    if given:
        raise value_error(
            f"`--kind {kind}` has no such option.",
            fix="`--top` is for surprise and lens, `--layer` and `--head` are for attention.",
            **given,
        )
    return {"layer": layer, "head": head} if kind == "attention" else {}

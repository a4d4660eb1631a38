"""The command line: `tfgpt2 generate`, `tokenize`, `export`, `convert`, `eval`, `info`, ...

Texts and results go to standard output, progress and errors to standard error, so commands can be
piped. TensorFlow is imported inside the commands: `tfgpt2 --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tfgpt2.cli.inspect import inspect
from tfgpt2.cli.migrate import migrate
from tfgpt2.cli.quiet import quiet
from tfgpt2.cli.serve import serve
from tfgpt2.cli.train import train

DEFAULT_MODEL = "shakespeare-tiny"

app = typer.Typer(
    help="GPT-2 in TensorFlow and Keras: strings in, strings out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate = typer.Typer(help="Measure a model on text.", no_args_is_help=True)
app.add_typer(evaluate, name="eval")
# A descriptor of its own, so that `quiet` can silence the usual one without silencing this.
_notes = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace"))

Model = Annotated[str, typer.Option("--model", "-m", help="Bundled name, directory or hub name.")]
Prompt = Annotated[str | None, typer.Argument(help="The text; '-' or nothing reads stdin.")]
Batch = Annotated[int, typer.Option("--batch-size", "-b", help="Texts read at once.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def generate(
    prompt: Prompt = None,
    model: Model = DEFAULT_MODEL,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n")] = 200,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", help="0 is greedy.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="0 is off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    min_p: Annotated[float | None, typer.Option(help="0 is off.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a result.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Ends the text; may be given several times.")
    ] = None,
) -> None:
    """Continue a text, token by token as it is written."""
    text = _text(prompt)
    with _working(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model, on_long_prompt="truncate_left")
    pieces = generator.stream(
        text,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
    )
    with _working("Compiling the decode loop"):
        first = next(pieces, "")  # XLA compiles on the way to the first piece
    _write(typer.style(text, bold=True) if sys.stdout.isatty() else text)
    _write(first)
    for piece in pieces:
        _write(piece)
    _write("\n")


@app.command()
def tokenize(prompt: Prompt = None, model: Model = DEFAULT_MODEL) -> None:
    """Show the tokens of a text: one line per token with its id and its bytes."""
    text = _text(prompt)
    with _working(f"Loading {model}"):
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        tokenizer = TFGPT2Tokenizer.from_pretrained(model)
        ids = tokenizer.tokenize(text).numpy().tolist()
    for token_id in ids:
        print(f"{token_id}\t{tokenizer.token_bytes[token_id]!r}")
    _notes.print(f"{len(text.encode())} bytes, {len(ids)} tokens", style="dim")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="Version directory, such as saved_models/gpt2/1.")],
    model: Model = DEFAULT_MODEL,
    next_version: Annotated[
        bool, typer.Option("--next", help="PATH is the model's directory; make its next version.")
    ] = False,
    signature: Annotated[
        list[str] | None, typer.Option(help="May be given several times; all of them otherwise.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16 or int8; the model's own otherwise."),
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option(help="Such as 1,4,16; 'auto', or 'any' for no padding.")
    ] = "auto",
    prompt_buckets: Annotated[str | None, typer.Option(help="Such as 64,256.")] = None,
    output_buckets: Annotated[str | None, typer.Option(help="Such as 32,128.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens a request gets.")
    ] = None,
    batching: Annotated[
        str | None, typer.Option(help="graph or server: put concurrent requests together.")
    ] = None,
    warmup: Annotated[
        bool, typer.Option(help="Write a request for every shape, run when a server starts.")
    ] = False,
    on_long_prompt: Annotated[str, typer.Option(help="truncate_left or error.")] = "truncate_left",
    jit_compile: Annotated[
        bool, typer.Option(help="Compile with XLA; the server then needs its XLA flag.")
    ] = True,
    prefix: Annotated[
        str | None, typer.Option(help="A text before every prompt, read once.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="A setting that requests give; may be given several times."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare with a clean process.")] = True,
) -> None:
    """Write a string-to-string SavedModel for TensorFlow Serving."""
    sizes = {"auto": "auto", "any": None}
    options = {
        "version": "next" if next_version else None,
        "signatures": signature or None,
        "inputs": inputs or None,
        "prefix": prefix,
        "weights": weights,
        "batch_sizes": sizes[batch_sizes] if batch_sizes in sizes
        else _numbers("--batch-sizes", batch_sizes),
        "prompt_buckets": _numbers("--prompt-buckets", prompt_buckets),
        "output_buckets": _numbers("--output-buckets", output_buckets),
        "max_new_tokens": max_new_tokens,
        "batching": batching,
        "warmup": warmup,
        "on_long_prompt": on_long_prompt,
        "jit_compile": jit_compile,
        "check": check,
    }  # fmt: skip
    with _working(f"Loading {model}"):
        from tfgpt2.serving.export.export import export as write
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model)
    with _working(f"Exporting to {path}" + (" and checking it" if check else "")):
        report = write(generator, path, **options)
    Console().print(report)


def _numbers(option: str, text: str | None) -> list[int] | None:
    """Whole numbers between commas."""
    if text is None:
        return None
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        from tfgpt2.errors import explain

        raise ValueError(
            explain(f"`{option}` must be whole numbers between commas.", fix="For example 1,4,16.",
                    **{option.strip("-").replace("-", "_"): text})
        ) from None  # fmt: skip


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Directory, bundled name or hub name.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make.")],
    to: Annotated[str, typer.Option(help="safetensors, h5 or keras_hub.")] = "safetensors",
    dtype: Annotated[str | None, typer.Option(help="Such as float16; the source's own.")] = None,
) -> None:
    """Convert a checkpoint of any format, and check that the model is the same."""
    with _working("Starting"):
        from tfgpt2.conversion.convert import convert as run
    report = run(source, destination, to=to, dtype=dtype)
    print(
        f"{report.path}  {report.model}, {report.source_format} -> {report.format},"
        f" {report.tensors} tensors, {report.size / 1e6:.1f} MB,"
        f" largest difference of logits {report.difference:.1e}"
    )
    for note in report.notes:
        _notes.print(escape(note), style="yellow")


@evaluate.command("perplexity")
def eval_perplexity(
    file: Annotated[Path, typer.Argument(help="UTF-8 text.")],
    model: Model = DEFAULT_MODEL,
    max_length: Annotated[int | None, typer.Option(help="Window; the context.")] = None,
    stride: Annotated[int | None, typer.Option(help="Window to window; half of it.")] = None,
    start_token: Annotated[bool, typer.Option(help="Score the first token, too.")] = False,
    batch_size: Batch = 8,
    json: Json = False,
) -> None:
    """Perplexity of a text by sliding windows, per token, word and byte."""
    options = {"max_length": max_length, "stride": stride, "start_token": start_token}
    _evaluate("perplexity.perplexity", model, file, json, batch_size=batch_size, **options)


@evaluate.command("lambada")
def eval_lambada(
    file: Annotated[Path, typer.Argument(help='JSONL with {"text": ...}.')],
    model: Model = DEFAULT_MODEL,
    limit: Limit = None,
    batch_size: Batch = 8,
    json: Json = False,
) -> None:
    """Accuracy on the last word, in OpenAI's variant of LAMBADA."""
    _evaluate("cloze.lambada", model, file, json, batch_size=batch_size, limit=limit)


@evaluate.command("choices")
def eval_choices(
    file: Annotated[
        Path, typer.Argument(help='JSONL with {"context": ..., "choices": [...], "answer": 0}.')
    ],
    model: Model = DEFAULT_MODEL,
    delimiter: Annotated[str, typer.Option(help="Between context and choice.")] = " ",
    limit: Limit = None,
    batch_size: Batch = 8,
    json: Json = False,
) -> None:
    """Multiple choice by log-likelihood, raw and divided by length."""
    options = {"delimiter": delimiter, "limit": limit}
    _evaluate("cloze.choices", model, file, json, batch_size=batch_size, **options)


def _evaluate(what: str, model: str, file: Path, json: bool, **options: Any) -> None:
    """Runs a function of `tfgpt2.evaluation` and prints its record."""
    import dataclasses
    import importlib
    from json import dumps

    with _working(f"Loading {model}"):
        from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
        from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

        module, name = what.split(".")
        function = getattr(importlib.import_module(f"tfgpt2.evaluation.{module}"), name)
        parts = TFGPT2LMHeadModel.from_pretrained(model), TFGPT2Tokenizer.from_pretrained(model)
    with quiet():
        found = dataclasses.asdict(function(*parts, file, progress=_notes, **options))
    if json:
        print(dumps({"model": model, "file": str(file)} | found))
        return
    table = Table(show_header=False, box=None)
    for key, value in found.items():
        shown = f"{value:,.5g}" if isinstance(value, float) else f"{value:,}" if value else "-"
        table.add_row(key.replace("_", " "), shown)
    Console().print(table)


@app.command("train-tokenizer")
def train_tokenizer(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 texts.")],
    output: Annotated[Path, typer.Argument(help="Directory to write to.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, special ones included.")],
    min_frequency: Annotated[int, typer.Option(help="Occurrences of a pair to merge it.")] = 2,
    special_token: Annotated[
        list[str] | None, typer.Option(help="May be given several times; <|endoftext|>.")
    ] = None,
) -> None:
    """Learn a byte-level BPE vocabulary from texts."""
    from tfgpt2.tokenizers.training import END_OF_TEXT
    from tfgpt2.tokenizers.training import train_tokenizer as train

    trained = train(
        files,
        vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_token or [END_OF_TEXT],
        show_progress=_notes.is_terminal,
    )
    for path in trained.save_pretrained(output):
        print(path)
    _notes.print(f"{trained.vocab_size:,} tokens", style="dim")


@app.command()
def info(model: Model = DEFAULT_MODEL) -> None:
    """Show what a model is."""
    with _working(f"Loading {model}"):
        from tfgpt2.text.generator import TextGenerator

        generator = TextGenerator.from_pretrained(model)
    config, settings = generator.model.config, generator.generation_config
    table = Table(show_header=False, box=None)
    for name, value in {
        "model": model,
        "parameters": f"{generator.model.num_parameters():,}",
        "layers x heads x width": f"{config.n_layer} x {config.n_head} x {config.n_embd}",
        "context": f"{config.n_positions} tokens",
        "vocabulary": f"{config.vocab_size:,} in the model,"
        f" {generator.tokenizer.vocab_size:,} in the tokenizer",
        "activation": config.activation_function,
        "start / end token": f"{config.bos_token_id} / {settings.eos_ids or None}",
        "default settings": ", ".join(f"{k}={v}" for k, v in settings.row_options().items()),
    }.items():
        table.add_row(name, str(value))
    Console().print(table)


app.command()(serve)
app.command()(train)
app.command()(migrate)
app.command()(inspect)


@app.command()
def version() -> None:
    """Print the versions of tfgpt2, TensorFlow and Keras."""
    import keras
    import tensorflow as tf

    import tfgpt2

    print(f"tfgpt2 {tfgpt2.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}")


def main() -> None:
    """Runs the command line; an error is one line and exit status 1."""
    # TensorFlow's start-up notes are no concern of somebody who wants a text.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        if os.environ.get("TFGPT2_TRACEBACK"):
            raise
        _notes.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _text(prompt: str | None) -> str:
    """The argument, or standard input."""
    if prompt not in (None, "-"):
        return prompt
    if sys.stdin.isatty():
        _notes.print("Type the text, then Ctrl-D:", style="dim")
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _working(what: str) -> Iterator[Any]:
    """Shows that something takes a moment, and silences the libraries' notes meanwhile."""
    with _notes.status(f"{what} ...") as status, quiet():
        yield status


if __name__ == "__main__":
    main()

"""The command line: `tfgpt2 generate`, `tokenize`, `export`, `convert`, `info`.

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

from tfgpt2.commands_serve import serve

DEFAULT_MODEL = "shakespeare-tiny"

app = typer.Typer(
    help="GPT-2 in TensorFlow and Keras: strings in, strings out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A descriptor of its own, so that `_quiet` can silence the usual one without silencing this.
_notes = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace"))

Model = Annotated[str, typer.Option("--model", "-m", help="Bundled name, directory or hub name.")]
Prompt = Annotated[str | None, typer.Argument(help="The text; '-' or nothing reads stdin.")]


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
        from tfgpt2.text import TextGenerator

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
        from tfgpt2.tokenizer.layer import TFGPT2Tokenizer

        tokenizer = TFGPT2Tokenizer.from_pretrained(model)
        ids = tokenizer.tokenize(text).numpy().tolist()
    for token_id in ids:
        print(f"{token_id}\t{tokenizer.token_bytes[token_id]!r}")
    _notes.print(f"{len(text.encode())} bytes, {len(ids)} tokens", style="dim")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="Version directory, such as saved_models/gpt2/1.")],
    model: Model = DEFAULT_MODEL,
    jit_compile: Annotated[
        bool, typer.Option(help="Compile with XLA; the server then needs its XLA flag.")
    ] = True,
    check: Annotated[bool, typer.Option(help="Compare with a clean process.")] = True,
) -> None:
    """Write a string-to-string SavedModel for TensorFlow Serving."""
    with _working(f"Loading {model}"):
        from tfgpt2.serving.export import export as write
        from tfgpt2.text import TextGenerator

        generator = TextGenerator.from_pretrained(model)
    with _working(f"Exporting to {path}" + (" and checking it" if check else "")):
        report = write(generator, path, jit_compile=jit_compile, check=check)
    print(f"{report.path}  {report.megabytes:.1f} MB  {', '.join(report.signatures)}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Directory, bundled name or hub name.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make.")],
    to: Annotated[str, typer.Option(help="safetensors, h5 or keras_hub.")] = "safetensors",
    dtype: Annotated[str | None, typer.Option(help="Such as float16; the source's own.")] = None,
) -> None:
    """Convert a checkpoint of any format, and check that the model is the same."""
    with _working("Starting"):
        from tfgpt2.conversion import convert as run
    report = run(source, destination, to=to, dtype=dtype)
    print(
        f"{report.path}  {report.model}, {report.source_format} -> {report.format},"
        f" {report.tensors} tensors, {report.size / 1e6:.1f} MB,"
        f" largest difference of logits {report.difference:.1e}"
    )
    for note in report.notes:
        _notes.print(escape(note), style="yellow")


@app.command()
def info(model: Model = DEFAULT_MODEL) -> None:
    """Show what a model is."""
    with _working(f"Loading {model}"):
        from tfgpt2.text import TextGenerator

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
    with _notes.status(f"{what} ...") as status, _quiet():
        yield status


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what C++ libraries print to standard error; they know nothing of Python's streams."""
    if os.environ.get("TFGPT2_TRACEBACK"):
        yield
        return
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


if __name__ == "__main__":
    main()

"""The command line: the list of commands, and how errors are reported.

Texts and results go to standard output, progress and errors to standard error, so commands can be
piped. TensorFlow is imported inside the commands: `tfgpt2 --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from tfgpt2.cli.batch import app as batch
from tfgpt2.cli.chat import chat
from tfgpt2.cli.console import notes
from tfgpt2.cli.convert import convert
from tfgpt2.cli.evaluate import app as evaluate
from tfgpt2.cli.export import export
from tfgpt2.cli.generate import generate
from tfgpt2.cli.info import info
from tfgpt2.cli.inspect import inspect
from tfgpt2.cli.migrate import migrate
from tfgpt2.cli.models import models, pull, rm
from tfgpt2.cli.serve import serve
from tfgpt2.cli.tokenize import tokenize
from tfgpt2.cli.train import train
from tfgpt2.cli.train_tokenizer import train_tokenizer
from tfgpt2.cli.version import version
from tfgpt2.version import __version__

COMMANDS = {
    "generate": generate,
    "chat": chat,
    "tokenize": tokenize,
    "export": export,
    "convert": convert,
    "train-tokenizer": train_tokenizer,
    "info": info,
    "models": models,
    "pull": pull,
    "rm": rm,
    "serve": serve,
    "train": train,
    "migrate": migrate,
    "inspect": inspect,
    "version": version,
    "eval": evaluate,
    "batch": batch,
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tfgpt2 {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """GPT-2 in TensorFlow and Keras: strings in, strings out."""


for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def main() -> None:
    """Runs the command line; an error is one message and exit status 1."""
    try:
        app()
    except (TypeError, ValueError, OSError, RuntimeError, FloatingPointError, ImportError) as error:
        if os.environ.get("TFGPT2_TRACEBACK"):
            raise
        notes.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

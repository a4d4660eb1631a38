"""`tfgpt2 train`: settings from a YAML file and from flags, and where they go."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tfgpt2.cli.quiet import quiet
from tfgpt2.errors import explain


def train(config: Path | None, resume: bool, **flags: Any) -> None:
    """Train a language model on texts, from scratch or from a checkpoint.

    Settings come from a YAML file, from flags, or from both: flags win. Ctrl-C saves a checkpoint;
    --resume goes on from the newest one.
    """
    # Progress is shown while C++ libraries are silenced, so it needs a descriptor of its own.
    notes = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace"))
    with quiet():
        from tfgpt2.training.trainer import Trainer

        settings = gather(config, resume, flags)
        report = Trainer(settings, console=notes).run(resume=resume)
    if report.stopped:
        notes.print(
            f"Stopped after step {report.steps:,}; a checkpoint is saved. To go on:\n"
            f"  tfgpt2 train --resume --output {report.path}",
            markup=False,
            highlight=False,
        )
        sys.exit(130)
    shown = [f"{report.steps:,} steps"]
    if report.loss is not None:
        shown.append(f"loss {report.loss:.4f}")
    if report.val_loss is not None:
        shown.append(f"validation {report.val_loss:.4f}")
    print(f"{report.path}  " + ", ".join(shown))


def gather(config: Path | None, resume: bool, flags: dict[str, Any]) -> Any:
    """Puts the settings of a file and of flags together.

    Args:
        config: A YAML file; None with `resume` is the one in the output directory.
        resume: Whether a training goes on.
        flags: What the command line gave; None, and empty lists, for what it did not.

    Raises:
        ValueError: The file cannot be read, or a value does not fit.
        TypeError: There is no such setting.
    """
    from tfgpt2.training.settings import TrainSettings, read_yaml

    given = {name: value for name, value in flags.items() if value not in (None, [])}
    if config is None and resume:
        if "output" not in given:
            raise ValueError(
                explain("What goes on?", fix="Name its directory with --output.", output=None)
            )
        config = Path(given["output"]) / "train.yaml"
    values = read_yaml(config) if config is not None else {}
    return TrainSettings.from_dict(values | given)


def _signature() -> inspect.Signature:
    """One flag for each setting, so that the two cannot differ."""
    # The settings' module imports TensorFlow only inside functions that need it.
    from tfgpt2.training.settings import TrainSettings

    kinds = typing.get_type_hints(TrainSettings)
    parameters = [
        ("config", Path | None, None, typer.Option("--config", "-c", help="YAML with settings.")),
        ("resume", bool, False, typer.Option("--resume", help="Go on from the last checkpoint.")),
    ]
    for field in dataclasses.fields(TrainSettings):
        kind = kinds[field.name]
        if kind == tuple[str, ...]:
            kind = list[str]
        text = field.metadata["help"]
        if field.default not in (None, (), ""):
            shown = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
            text += f" [{shown}]"
        name = f"--{field.name.replace('_', '-')}"
        names = (name, f"--no-{name[2:]}") if kind in (bool, bool | None) else (name,)
        option = typer.Option(names[0] if len(names) == 1 else "/".join(names), help=text)
        parameters.append((field.name, kind | None, None, option))
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
            for name, kind, default, option in parameters
        ]
    )


train.__signature__ = _signature()
train.__annotations__ = {
    name: parameter.annotation for name, parameter in train.__signature__.parameters.items()
}

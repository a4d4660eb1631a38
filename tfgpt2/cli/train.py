"""`tfgpt2 train`: settings from a YAML file and from flags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tfgpt2.cli.console import notes, quiet
from tfgpt2.cli.options import add_flags
from tfgpt2.errors import value_error
from tfgpt2.training.settings import TrainSettings, read_yaml


@add_flags(TrainSettings, defaults=False)
def train(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML with settings.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    **flags: Any,
) -> None:
    """Train a language model on texts, from scratch or from a checkpoint.

    Settings come from a YAML file, from flags, or from both: flags win. Ctrl-C saves a checkpoint;
    --resume goes on from the newest one.
    """
    with quiet():
        from tfgpt2.training.trainer import Trainer

        settings = merge_settings(config, resume, flags)
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


def merge_settings(config: Path | None, resume: bool, flags: dict[str, Any]) -> TrainSettings:
    """Merges the settings of a file with flags; flags win.

    Args:
        config: A YAML file; None with `resume` is the one in the output directory.
        resume: Whether a training run is resumed.
        flags: Values by setting; None and empty lists are flags that were not given.

    Raises:
        ValueError: The file cannot be read, or a value is invalid.
        TypeError: A setting is unknown.
    """
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    if config is None and resume:
        if "output" not in given:
            raise value_error(
                "`--resume` needs the directory of the training run.",
                fix="Name it with --output.",
                output=None,
            )
        config = Path(given["output"]) / "train.yaml"
    values = read_yaml(config) if config is not None else {}
    return TrainSettings.from_dict(values | given)

"""`tfgpt2 train`: settings from a YAML file and from flags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfgpt2 import extras
from tfgpt2.cli.console import notes
from tfgpt2.cli.options import add_flags, given_flags
from tfgpt2.errors import value_error
from tfgpt2.hub import check_name
from tfgpt2.quiet import quiet
from tfgpt2.training.settings import TrainSettings, read_yaml

if TYPE_CHECKING:
    from tfgpt2.training.trainer import TrainingReport

PANELS = {
    "Texts and results": ("texts", "output", "validation", "validation_share", "separator",
                          "document_mask", "cache"),
    "Model": ("model", "tokenizer", "n_layer", "n_head", "n_embd", "n_positions", "dropout",
              "freeze"),
    "Steps": ("block_size", "batch_size", "accumulate", "epochs", "steps", "seed"),
    "Optimizer and loss": ("learning_rate", "schedule", "warmup", "floor", "weight_decay",
                           "beta_1", "beta_2", "clip_norm", "ema", "label_smoothing", "z_loss",
                           "chunked_loss"),
    "LoRA": ("lora_rank", "lora_alpha", "lora_targets"),
    "Memory and speed": ("dtype", "gradient_checkpointing", "blockwise",
                         "strategy"),
    "Evaluation, checkpoints and log": ("eval_every", "checkpoint_every", "keep", "log_every",
                                        "sample_prompt", "sample_tokens", "tensorboard", "push"),
}  # fmt: skip


@add_flags(TrainSettings, PANELS)
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file with settings.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint.")
    ] = False,
    **flags: Any,
) -> None:
    """Train a language model on texts, from scratch or from a checkpoint.

    Settings come from a YAML file, from flags, or from both; flags take precedence. Ctrl-C saves a
    checkpoint; --resume continues from the newest one.
    """
    extras.require("tfgpt2 train", "train", "yaml", "matplotlib")
    settings = merge_settings(config, resume, given_flags(context, flags))
    if settings.tensorboard:
        extras.require("--tensorboard", "train", "tensorboard")
    for name in (settings.model, settings.tokenizer):
        if name:
            check_name(name)
    with quiet():
        from tfgpt2.training.trainer import Trainer

        report = Trainer(settings, console=notes).run(resume=resume)
    if report.stopped:
        notes.print(
            f"Stopped after step {report.steps:,}; a checkpoint is saved. To continue:\n"
            f"  tfgpt2 train --resume --output {report.path}",
            markup=False,
            highlight=False,
        )
        sys.exit(130)
    print(f"{report.path}  {summary(report)}")
    notes.print(
        f"Next: tfgpt2 generate --model {report.path}", style="dim", markup=False, highlight=False
    )


def summary(report: TrainingReport) -> str:
    """One line about a training run: its losses before and after, and where it was best."""
    shown = [f"{report.steps:,} step{'s' * (report.steps != 1)}"]
    before = "" if report.loss_before is None else f"{report.loss_before:.4f} -> "
    if report.val_loss is None:
        if report.loss is not None:
            shown.append(f"loss {before}{report.loss:.4f}")
        return ", ".join(shown)
    shown.append(f"validation loss {before}{report.val_loss:.4f}")
    if report.best_step is not None:
        shown.append(f"best at step {report.best_step:,}")
    return ", ".join(shown)


def merge_settings(config: Path | None, resume: bool, given: dict[str, Any]) -> TrainSettings:
    """Merges the settings of a file with flags; flags win.

    Args:
        config: A YAML file; None with `resume` is the one in the output directory.
        resume: Whether a training run is resumed.
        given: Values by setting, of the flags that were given.

    Raises:
        ValueError: The file cannot be read, or a value is invalid.
        TypeError: A setting is unknown.
    """
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

"""Display of a training run: the progress bar and the plot of the losses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from tfgpt2 import extras
from tfgpt2.files import replace_files
from tfgpt2.training.callbacks import StepCallback, perplexity, read_log
from tfgpt2.training.output_files import report_write_errors

_FEW, _MANY = 40, 1000  # points of a curve


class ProgressBar(StepCallback):
    """Progress bar with steps, loss, tokens per second, remaining time and evaluation results.

    If the console is not a terminal, only the evaluation results are printed.

    Args:
        steps: Steps of the whole training.
        tokens: Tokens per step.
        console: The console; standard error by default.
    """

    def __init__(self, steps: int, tokens: int, console: Console | None = None) -> None:
        super().__init__()
        self.steps, self.tokens = steps, tokens
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._loss: float | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the bar."""
        super().on_train_begin(logs)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Remaining(),
            console=self.console,
            disable=not self.console.is_terminal,
            refresh_per_second=2,
        )
        self._task = self._bar.add_task("", total=self.steps, completed=self.step, loss="",
                                        speed="starting")  # fmt: skip
        self._bar.start()

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Moves the bar."""
        new = self.recent(batches, logs["loss"])
        # An exponential moving average: the loss of one batch is noisy.
        self._loss = new if self._loss is None else 0.9 * self._loss + 0.1 * new
        task = self._bar.tasks[0]
        speed = f"{task.speed * self.tokens:,.0f} tokens/s" if task.speed else ""
        self._bar.update(self._task, completed=step, loss=f"loss {self._loss:.3f}", speed=speed)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Prints the evaluation results."""
        self.print_evaluation(self.step, logs or {})

    def print_evaluation(self, step: int, logs: Mapping[str, Any]) -> None:
        """Prints the losses at a step, those that there are."""
        shown = [f"loss {float(logs['loss']):.4f}"] if "loss" in logs else []
        if "val_loss" in logs:
            loss = float(logs["val_loss"])
            shown += [f"validation {loss:.4f}", f"perplexity {perplexity(loss):,.2f}"]
        self.print(f"step {step:,}/{self.steps:,}: {', '.join(shown)}")

    def print(self, text: str, style: str | None = None) -> None:
        """Prints above the bar."""
        # A `Text`, since `style=` would also apply to the bar below.
        self.console.print(Text(text, style=style or ""))

    def close(self) -> None:
        """Removes the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, logs: Any = None) -> None:
        """Removes the bar."""
        self.close()


class LossCurve(keras.callbacks.Callback):
    """Plots the losses of a log into a PNG after each epoch.

    Args:
        log: The file of `JsonLog`, a callback that must come before.
        path: The PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def __init__(self, log: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
        super().__init__()
        _figure()
        self.log, self.path = Path(log), Path(path)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Plots."""
        draw_losses(read_log(self.log), self.path)

    on_train_end = on_epoch_end


def draw_losses(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Plots training and validation loss and the learning rate over the steps.

    Args:
        lines: The log, as `read_log` returns it.
        path: The PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure()(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_xmargin(0.1)  # room for the last values
    for name, label, above, style in (
        ("loss", "training", 4, {"color": "#4c72b0"}),
        ("val_loss", "validation", -12, {"color": "#c44e52"}),
    ):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            # Few points are seen by their markers, many by a thin line.
            style = style | {"marker": "o" if len(points) <= _FEW else "", "markersize": 4}
            style["linewidth"] = 1.2 if len(points) <= _MANY else 0.5
            axes.plot(*zip(*points, strict=True), label=label, **style)
            axes.annotate(f"{points[-1][1]:.3f}", points[-1], xytext=(4, above),
                          textcoords="offset points", color=style["color"])  # fmt: skip
    axes.set(xlabel="step", ylabel="loss, nats per token")
    axes.grid(alpha=0.25)
    rates = [(line["step"], line["learning_rate"]) for line in lines if "learning_rate" in line]
    handles, labels = axes.get_legend_handles_labels()
    if rates:
        right_axes = axes.twinx()
        right_axes.plot(*zip(*rates, strict=True), color="0.6", ls=":", label="learning rate")
        right_axes.set_ylabel("learning rate", color="0.4")
        right_axes.set_ylim(bottom=0)
        more = right_axes.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    with report_write_errors("The plot", path), replace_files([Path(path)]) as (temporary,):
        figure.savefig(temporary, format="png")


def _figure() -> Any:
    """Matplotlib's figure class, which needs no display, unlike `pyplot`."""
    extras.require("The plot of the losses", "train", "matplotlib")
    from matplotlib.figure import Figure

    return Figure

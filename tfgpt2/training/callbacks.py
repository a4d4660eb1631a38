"""Keras callbacks: checkpoints, logs, samples, and uploads to the hub.

They work with any `fit` of the models of this package. A *step* is one update of the weights, and
is counted from the beginning of the training, also after it was resumed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.files import replace_files
from tfgpt2.training.checkpoint import Checkpoints
from tfgpt2.training.output_files import report_write_errors
from tfgpt2.training.recipes import averaged, base_optimizer, steps_of, value_of


class TrainingStopped(Exception):  # noqa: N818 - not an error
    """Training was interrupted, and a checkpoint was saved.

    Attributes:
        step: Steps that were trained.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StepCallback(keras.callbacks.Callback):
    """Base of callbacks that act after a step: it calls `at_step`, and computes recent losses."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts counting batches."""
        optimizer = base_optimizer(self.model)
        self._every = optimizer.gradient_accumulation_steps or 1
        # Batches of a step that an earlier `fit` left incomplete count, too.
        self._batch = int(value_of(optimizer._iterations))
        self._seen = self._sum = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Resets the sums, as Keras resets its means."""
        self._seen = self._sum = 0.0

    @property
    def step(self) -> int:
        """Steps that were trained."""
        return steps_of(self.model)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts a batch, and calls `at_step` if it completes a step."""
        self._batch += 1
        if self._batch % self._every == 0:
            self.at_step(self._batch // self._every, batch + 1, logs or {})

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Acts after a step.

        Args:
            step: Its number, from 1.
            batches: Batches of the epoch so far, over which Keras averages.
            logs: Keras' means.
        """

    def recent(self, batches: int, mean: float) -> float:
        """Mean loss of the batches since the last call, from Keras' mean of the epoch."""
        total = float(mean) * batches
        loss = (total - self._sum) / max(batches - self._seen, 1)
        self._sum, self._seen = total, batches
        return loss


class StopOnNaN(StepCallback):
    """Stops training when the loss is NaN or infinite, before anything is saved.

    Put it first. The error names the newest of the `checkpoints`.
    """

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        super().__init__()
        self.checkpoints = checkpoints

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Raises FloatingPointError."""
        loss = float(logs.get("loss", 0.0))
        if math.isfinite(loss):
            return
        paths = self.checkpoints.paths() if self.checkpoints else []
        size = getattr(getattr(self.model, "config", None), "vocab_size", "vocab_size")
        raise FloatingPointError(
            explain(
                f"The loss of step {step} is {loss}: the learning rate is too high, or, in a step"
                f" that XLA compiled, there are ids or labels outside [0, {size}).",
                fix=f"Resume from {paths[-1]} with a smaller learning rate, in another directory"
                " (pass the last saved model as `model`)." if paths else "Use a smaller"
                " learning rate, a longer warm-up, or float32, and check the data with"
                " `tfgpt2.training.data.check_batches`.",
                step=step,
            )
        )  # fmt: skip


class Perplexity(keras.callbacks.Callback):
    """Adds `perplexity` and `val_perplexity`, the exponentials of the losses, to an epoch's logs.

    Put it before callbacks that read them.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds both."""
        for name in ("loss", "val_loss"):
            if logs and name in logs:
                logs[name.replace("loss", "perplexity")] = perplexity(logs[name])


def perplexity(loss: float) -> float:
    """Perplexity of a mean loss in nats; infinite if it exceeds the range of a float.

    Example:
        >>> perplexity(0.0)
        1.0
    """
    return math.exp(loss) if loss < 700 else math.inf


class EvaluateBefore(StepCallback):
    """Evaluates the model before the first step, so that a log tells what training changed.

    Args:
        batches: Returns the validation batches.
        report: Called with `val_loss` and `val_perplexity`.
    """

    def __init__(
        self, batches: Callable[[], tf.data.Dataset], report: Callable[[dict[str, float]], None]
    ) -> None:
        super().__init__()
        self.batches, self.report = batches, report

    def on_train_begin(self, logs: Any = None) -> None:
        """Evaluates, unless training is resumed."""
        super().on_train_begin(logs)
        if self.step == 0:
            loss = float(self.model.evaluate(self.batches(), verbose=0, return_dict=True)["loss"])
            self.report({"val_loss": loss, "val_perplexity": perplexity(loss)})


class AveragedEvaluation(keras.callbacks.Callback):
    """Evaluates with the averaged weights, if the optimizer keeps them."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Swaps the averages in."""
        self._swap = averaged(self.model)
        self._swap.__enter__()

    def on_test_end(self, logs: Any = None) -> None:
        """Restores the weights."""
        self._swap.__exit__(None, None, None)


class SaveCheckpoint(StepCallback):
    """Writes a checkpoint every few steps, at the end, and when `stop` is set.

    Args:
        checkpoints: Where to write.
        every: Steps between checkpoints.
        extra: Returns JSON values to store with a checkpoint.
        write: False if another process writes.
        evaluated: Whether a step is followed by an evaluation. The checkpoint of such a step is
            written after it, so that its result is stored, too; put this callback last.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int,
        extra: Callable[[], Mapping[str, Any]] = dict,
        *,
        write: bool = True,
        evaluated: Callable[[int], bool] = lambda step: False,
    ) -> None:
        super().__init__()
        self.checkpoints, self.every, self.extra, self.write = checkpoints, every, extra, write
        self.evaluated = evaluated
        self.stop = False
        self._saved: int | None = None

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Saves if a checkpoint is due, and raises TrainingStopped if `stop` is set."""
        if not self.evaluated(step):
            self._save_or_stop(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Does the same after an evaluation."""
        if self.evaluated(self.step):
            self._save_or_stop(self.step)

    def _save_or_stop(self, step: int) -> None:
        if step % self.every == 0 or self.stop:
            self.save(step)
        if self.stop:
            raise TrainingStopped(step)

    def save(self, step: int) -> None:
        """Saves, unless this step is saved already."""
        if self.write and step != self._saved:
            self.checkpoints.save(self.model, step, self.extra())
        self._saved = step

    def on_train_end(self, logs: Any = None) -> None:
        """Saves the last step."""
        self.save(self.step)


class SaveBest(keras.callbacks.Callback):
    """Saves the model, with averaged weights, whenever `val_loss` reaches a new minimum.

    Args:
        save: Writes the model.
        best: The lowest `val_loss` so far, if training is resumed.
    """

    def __init__(self, save: Callable[[], None], best: float | None = None) -> None:
        super().__init__()
        self.write, self.best = save, best

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves if the loss is the lowest so far."""
        loss = (logs or {}).get("val_loss")
        if loss is None or not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return
        with averaged(self.model):
            self.write()
        self.best = float(loss)


class JsonLog(StepCallback):
    """Log with one JSON object per line: `{"step": ..., "loss": ..., ...}` and evaluation results.

    The first and the last step always have a line.

    Args:
        path: The file. Lines after the step from which training is resumed are removed from it.
        every: Steps between lines.
        tokens: Tokens per step, for `tokens_per_second`.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 10, tokens: int = 0) -> None:
        super().__init__()
        self.path, self.every, self.tokens = Path(path), every, tokens

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens the file."""
        super().on_train_begin(logs)
        start = self.step
        kept = [line for line in read_log(self.path) if line["step"] <= start] if start else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with (
            report_write_errors("The log", self.path),
            replace_files([self.path]) as (temporary,),
        ):
            temporary.write_text(text)
        self._last, self._time = start, time.perf_counter()
        self._pending: tuple[int, int, Mapping[str, Any]] | None = None

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Writes a line if one is due."""
        self._pending = (step, batches, dict(logs))
        if step == 1 or step % self.every == 0:
            self._write_step()

    def on_train_end(self, logs: Any = None) -> None:
        """Writes the last step, if it has no line yet."""
        if self._pending is not None:
            self._write_step()

    def _write_step(self) -> None:
        (step, batches, logs), self._pending = self._pending, None
        now = time.perf_counter()
        line = {"step": step, "loss": self.recent(batches, logs["loss"]),
                "learning_rate": float(value_of(self.model.optimizer.learning_rate))}  # fmt: skip
        if self.tokens and step > 1:  # the first step waits for the compiler
            speed = self.tokens * (step - self._last) / max(now - self._time, 1e-9)
            line["tokens_per_second"] = round(speed, 1)
        self.write(line)
        self._last, self._time = step, now

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the evaluation results."""
        found = {name: float(v) for name, v in (logs or {}).items() if name.startswith("val_")}
        if found:
            self.write({"step": self.step} | found)
        self._time, self._last = time.perf_counter(), self.step

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line."""
        with report_write_errors("The log", self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a log of `JsonLog`; an incomplete last line is left out."""
    found = []
    for line in Path(path).read_text().split("\n") if Path(path).exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


class SampleText(keras.callbacks.Callback):
    """Generates a sample after each epoch.

    Args:
        tokenizer: A `TFGPT2Tokenizer`.
        prompt: The prompt.
        show: Called with the step and the prompt with its continuation.
        max_new_tokens: Tokens of the continuation.
        temperature: 0 is greedy.
        seed: Seed of the sampling, the same each time.
        log_dir: A folder for TensorBoard, which shows the samples under "Text".
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: str,
        show: Callable[[int, str], None],
        *,
        max_new_tokens: int = 60,
        temperature: float = 0.8,
        seed: int = 0,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.prompt, self.show = tokenizer, prompt, show
        self.options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        self.log_dir = log_dir
        self._generator = self._writer = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Generates and shows a sample."""
        if self._generator is None:
            from tfgpt2.text.generator import TextGenerator

            self._generator = TextGenerator(self.model, self.tokenizer)
        with averaged(self.model):
            text = self.prompt + self._generator.generate(self.prompt, **self.options)
        step = steps_of(self.model)
        self.show(step, text)
        if self.log_dir is not None:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "samples"))
            with self._writer.as_default():
                tf.summary.text("sample", text, step=step)
            self._writer.flush()


class PushToHub(keras.callbacks.Callback):
    """Uploads a folder to the Hugging Face hub when training has ended.

    Args:
        folder: The folder; training checkpoints in it are left out.
        repo_id: `"name/repository"`; created if it does not exist.
        token: Access token; None is the stored one.
        private: Whether a new repository is private.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        repo_id: str,
        *,
        token: str | None = None,
        private: bool = True,
    ) -> None:
        super().__init__()
        self.folder, self.repo_id, self.token, self.private = folder, repo_id, token, private

    def on_train_end(self, logs: Any = None) -> None:
        """Uploads."""
        self.push()

    def push(self) -> None:
        """Uploads the folder as one commit."""
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        api.create_repo(self.repo_id, private=self.private, exist_ok=True)
        api.upload_folder(
            repo_id=self.repo_id,
            folder_path=str(self.folder),
            commit_message="A model trained with tfgpt2",
            ignore_patterns=["checkpoints/*", "tensorboard/*", "last/*", ".*"],
        )

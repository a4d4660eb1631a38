"""What goes on beside the steps of a training: checkpoints, logs, plots, samples, a progress bar.

All of them are Keras callbacks and work with any `fit` of our models. A *step* is one update of
the weights, and counts from the beginning of the training, also after it was continued.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.training.checkpoint import Checkpoints
from tfgpt2.training.recipes import averaged, steps_of, value_of


class TrainingStopped(Exception):  # noqa: N818 - it is no error
    """A training was asked to stop, and has saved a checkpoint.

    Attributes:
        step: Steps that were trained.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StepCallback(keras.callbacks.Callback):
    """Calls `at_step` after every step, and knows the loss of the steps since it last asked."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts counting batches."""
        self._every = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        self._batch = self.step * self._every
        self._seen = self._sum = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras begins its mean anew."""
        self._seen = self._sum = 0.0

    @property
    def step(self) -> int:
        """Steps that were trained."""
        return steps_of(self.model)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts a batch, and calls `at_step` where it ends a step."""
        self._batch += 1
        if self._batch % self._every == 0:
            self.at_step(self._batch // self._every, batch + 1, logs or {})

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Does something after a step.

        Args:
            step: Its number, from 1.
            batches: Batches since Keras began its means anew.
            logs: Keras' means.
        """

    def recent(self, batches: int, mean: float) -> float:
        """Mean loss of the batches since the last call, from Keras' mean of the whole epoch."""
        total = float(mean) * batches
        loss = (total - self._sum) / max(batches - self._seen, 1)
        self._sum, self._seen = total, batches
        return loss


class StopOnNaN(StepCallback):
    """Ends a training whose loss is NaN or infinite, before anything is saved of it.

    Put it first. `checkpoints` is named in the error.
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
        raise FloatingPointError(
            explain(
                f"The loss of step {step} is {loss}.",
                fix=f"Go on from {paths[-1]} with a smaller learning rate, in another directory"
                " (`model` takes the last saved model)." if paths else "Use a smaller"
                " learning rate, a longer warm-up, or float32.",
                step=step,
            )
        )  # fmt: skip


class Perplexity(keras.callbacks.Callback):
    """Adds `perplexity` and `val_perplexity`, e to the power of the losses, to an epoch's logs.

    Put it before callbacks that read them.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the two."""
        for name in ("loss", "val_loss"):
            if logs and name in logs:
                logs[name.replace("loss", "perplexity")] = perplexity(logs[name])


def perplexity(loss: float) -> float:
    """Perplexity of a mean loss in nats; infinite where a float holds no more.

    Example:
        >>> perplexity(0.0)
        1.0
    """
    return math.exp(loss) if loss < 700 else math.inf


class AveragedEvaluation(keras.callbacks.Callback):
    """Measures with the averages of the weights, where the optimizer keeps them."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Puts the averages in place."""
        self._swap = averaged(self.model)
        self._swap.__enter__()

    def on_test_end(self, logs: Any = None) -> None:
        """Puts the weights back."""
        self._swap.__exit__(None, None, None)


class SaveCheckpoint(StepCallback):
    """Writes a checkpoint every so many steps, at the end, and when it is asked to stop.

    Args:
        checkpoints: Where they go.
        every: Steps from one to the next.
        extra: Returns plain values to keep beside.
        write: False where another process writes.
        measured: Says of a step whether something is measured after it. A checkpoint of such a
            step is written when that is done, so that it is not lost; put this callback last.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int,
        extra: Callable[[], Mapping[str, Any]] = dict,
        *,
        write: bool = True,
        measured: Callable[[int], bool] = lambda step: False,
    ) -> None:
        super().__init__()
        self.checkpoints, self.every, self.extra, self.write = checkpoints, every, extra, write
        self.measured = measured
        self.stop = False
        self._saved: int | None = None

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Saves where it is time, and raises TrainingStopped where `stop` is set."""
        if not self.measured(step):
            self._save_or_stop(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Does so after a measurement."""
        if self.measured(self.step):
            self._save_or_stop(self.step)

    def _save_or_stop(self, step: int) -> None:
        if step % self.every == 0 or self.stop:
            self.save(step)
        if self.stop:
            raise TrainingStopped(step)

    def save(self, step: int) -> None:
        """Saves, unless this step has been saved."""
        if self.write and step != self._saved:
            self.checkpoints.save(self.model, step, self.extra())
        self._saved = step

    def on_train_end(self, logs: Any = None) -> None:
        """Saves the last step."""
        self.save(self.step)


class SaveBest(keras.callbacks.Callback):
    """Saves the model, with averaged weights, whenever `val_loss` is lower than ever.

    Args:
        save: Writes the model.
        best: The lowest `val_loss` so far, of a training that goes on.
    """

    def __init__(self, save: Callable[[], None], best: float | None = None) -> None:
        super().__init__()
        self.write, self.best = save, best

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Compares and saves."""
        loss = (logs or {}).get("val_loss")
        if loss is None or not math.isfinite(loss) or (self.best is not None and loss >= self.best):
            return
        self.best = float(loss)
        with averaged(self.model):
            self.write()


class JsonLog(StepCallback):
    """Writes one JSON object a line: `{"step": ..., "loss": ..., ...}` and the measurements.

    Args:
        path: The file. Lines beyond the step from which a training goes on are dropped from it.
        every: Steps from one line to the next.
        tokens: Tokens of a step, for `tokens_per_second`.
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
        self.path.write_text(text)
        self._last, self._time = start, time.perf_counter()

    def at_step(self, step: int, batches: int, logs: Mapping[str, Any]) -> None:
        """Writes a line where it is time."""
        if step % self.every:
            return
        now = time.perf_counter()
        line = {"step": step, "loss": self.recent(batches, logs["loss"]),
                "learning_rate": float(value_of(self.model.optimizer.learning_rate))}  # fmt: skip
        if self.tokens:
            speed = self.tokens * (step - self._last) / max(now - self._time, 1e-9)
            line["tokens_per_second"] = round(speed, 1)
        self._write(line)
        self._last, self._time = step, now

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes what was measured."""
        found = {name: float(v) for name, v in (logs or {}).items() if name.startswith("val_")}
        if found:
            self._write({"step": self.step} | found)
        self._time, self._last = time.perf_counter(), self.step

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads what `JsonLog` wrote; a last line that is not whole is left out."""

    def lines() -> Iterator[dict[str, Any]]:
        for line in Path(path).read_text().split("\n") if Path(path).exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    return list(lines())


class SampleText(keras.callbacks.Callback):
    """Continues a text after each epoch, so that somebody can look at it.

    Args:
        tokenizer: A `TFGPT2Tokenizer`.
        prompt: The text.
        show: Takes the step and the whole text.
        max_new_tokens: Tokens of the continuation.
        temperature: 0 is greedy.
        seed: The same noise each time.
        log_dir: A folder for TensorBoard, where the texts are shown under "Text".
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
        """Writes a text."""
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
    """Uploads a folder to the Hugging Face hub when the training has ended.

    Args:
        folder: What is uploaded, without checkpoints of the training.
        repo_id: `"name/repository"`; made where there is none.
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

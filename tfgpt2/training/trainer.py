"""The trainer: from texts and settings to a checkpoint, by `model.fit`.

The `Trainer` makes the data, the model, the optimizer and the callbacks of its settings, and calls
`model.fit`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from tfgpt2.errors import explain, value_error
from tfgpt2.files import replace_files
from tfgpt2.text.generator import TextGenerator
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer
from tfgpt2.training import callbacks, data, distribution, lora, recipes
from tfgpt2.training.build import compile_model, make_model
from tfgpt2.training.checkpoint import Checkpoints, RestoredCheckpoint
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.display import LossCurve, ProgressBar
from tfgpt2.training.output_files import lock_directory, report_write_errors
from tfgpt2.training.plan import block_size, checksum, even_batch, fit_calls, hold_out, make_plan
from tfgpt2.training.settings import TrainSettings, write_yaml


class TrainingReport(NamedTuple):
    """Result of a training run.

    Attributes:
        steps: Steps that were trained in total.
        loss: Last training loss of the log, nats per token.
        val_loss: Lowest validation loss; None without validation texts.
        path: The directory of the model.
        stopped: Whether it was interrupted, and can be resumed.
        loss_before: Validation loss before the first step; without validation texts the training
            loss of the first step.
        best_step: The step with the lowest validation loss.
    """

    steps: int
    loss: float | None
    val_loss: float | None
    path: Path
    stopped: bool
    loss_before: float | None = None
    best_step: int | None = None


class Trainer:
    """Trains a language model on texts.

    The output directory holds the best model, or the last one if there are no validation texts, for
    `TextGenerator.from_pretrained`; the last one is in `last/`. It also holds `checkpoints/`,
    `log.jsonl`, `loss.png`, and the settings as `train.yaml`.

    Args:
        settings: Model, data and hyperparameters.
        console: Console for the progress; standard error by default.
        callbacks: Further Keras callbacks.

    Example:
        >>> import tempfile
        >>> from tfgpt2.training.settings import TrainSettings
        >>> folder = tempfile.mkdtemp()
        >>> text = Path(folder, "text.txt")
        >>> _ = text.write_text("To be, or not to be: that is the question. " * 40)
        >>> settings = TrainSettings(texts=str(text), output=folder + "/out", steps=2,
        ...     model="shakespeare-tiny", block_size=16, batch_size=2, freeze=("wte", "h.0-4"))
        >>> Trainer(settings).run().steps
        2
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        console: Console | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        self.settings, self.callbacks = settings, list(callbacks)
        self.console = console or Console(stderr=True)
        self.output = Path(settings.output)
        self.strategy = distribution.make_strategy(settings.strategy)
        self.chief = distribution.is_chief(self.strategy)

    def run(self, *, resume: bool = False) -> TrainingReport:
        """Trains.

        Args:
            resume: Resume from the newest checkpoint in the output directory.

        Raises:
            FileNotFoundError: A file does not exist, or there is no checkpoint to resume from.
            ValueError: There is too little text, a file is empty or not text, the settings do not
                match the model, or the checkpoint belongs to another training run.
            FloatingPointError: The loss became NaN or infinite.
            OSError: A checkpoint or another file could not be written; earlier checkpoints are
                unchanged.
            RuntimeError: Another training run writes to the output directory, or another worker
                cannot be reached.
        """
        with lock_directory(self.output) if self.chief else contextlib.nullcontext():
            return self._run(resume)

    def _run(self, resume: bool) -> TrainingReport:
        self._check_output(resume)
        keras.utils.set_random_seed(self.settings.seed)
        self._make(resume)
        start = RestoredCheckpoint(0, {}, self.output)
        if resume:
            start = self.checkpoints.restore(self.model)
            self._note(f"Resuming after step {start.step:,} of {self.plan.steps:,}.")
        if self.chief:  # not before the settings are known to be those of the checkpoint
            path = self.output / "train.yaml"
            with report_write_errors("The settings", path):
                write_yaml(self.settings, path)
        distribution.check_same_step(self.strategy, start.step)
        try:
            return self._fit(start)
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
                tf.errors.DeadlineExceededError) as error:  # fmt: skip
            raise RuntimeError(
                explain(
                    "Another worker stopped or cannot be reached.",
                    fix="Start all of them again with --resume.",
                    error=str(error).split("\n")[0],
                )
            ) from error

    # Setup --------------------------------------------------------------------------------------

    def _check_output(self, resume: bool) -> None:
        old = Checkpoints(self.output / "checkpoints", {}).paths()
        if old and not resume:
            raise value_error(
                "The output directory holds the checkpoints of a training run.",
                fix="Resume it with --resume, or use another directory.",
                output=str(self.output),
                newest=old[-1].name,
            )

    def _make(self, resume: bool) -> None:
        """Reads the texts, and makes model, plan, optimizer and checkpoints."""
        s = self.settings
        self.tokenizer = TFGPT2Tokenizer.from_pretrained(s.tokenizer or s.model)
        dtype = s.dtype
        if dtype == "auto":
            dtype = self._chosen_precision(resume)
        with self.strategy.scope():
            self.model = make_model(s, self.tokenizer, dtype)
        self.corpus, self.held_out = self._read()
        replicas = self.strategy.num_replicas_in_sync
        self.plan = make_plan(s, self.model.config.n_positions, self.corpus, replicas)
        with self.strategy.scope():
            compile_model(self.model, s, self.plan)
        distribution.prepare(self.model, self.strategy)
        identity = self._identity() | {"precision": dtype}
        self.checkpoints = Checkpoints(self.output / "checkpoints", identity, keep=s.keep)

    def _chosen_precision(self, resume: bool) -> str:
        """The dtype policy for `auto`, measured once for a training run."""
        paths = Checkpoints(self.output / "checkpoints", {}).paths()
        if resume and paths:
            about = json.loads((paths[-1] / "state.json").read_text())["about"]
            return about.get("precision", "float32")
        if distribution.is_multi_worker(self.strategy):
            raise value_error(
                "Workers could choose different precisions.",
                fix="Choose one: float32 or mixed_bfloat16.",
                dtype="auto",
            )
        return recipes.precision("auto")

    def _read(self) -> tuple[Corpus, Corpus | None]:
        s = self.settings
        options = {"separator": s.separator}
        corpus = data.tokenize_corpus(
            [Path(name) for name in s.texts], self.tokenizer, cache=s.cache, **options
        )
        block = block_size(s, self.model.config.n_positions)
        if s.validation:
            names = [Path(name) for name in s.validation]
            held_out = data.tokenize_corpus(names, self.tokenizer, **options)
            held_out.blocks(block)  # raises if they are too short
            return corpus, held_out
        return hold_out(corpus, s.validation_share, block)

    def _identity(self) -> dict[str, Any]:
        """What must be the same to resume from a checkpoint."""
        may_change = {
            "output", "texts", "validation", "tokenizer", "cache", "keep", "log_every", "push",
            "sample_prompt", "sample_tokens", "tensorboard", "strategy", "checkpoint_every",
            "epochs", "steps", "warmup", "floor", "eval_every", "model",
        }  # fmt: skip
        recipe = {k: v for k, v in self.settings.to_dict().items() if k not in may_change}
        schedule = {"steps": self.plan.steps, "warmup": self.plan.warmup, "floor": self.plan.floor}
        tokens = np.asarray(self.corpus.tokens)
        return {
            "config": self.model.config.to_dict(),
            "recipe": recipe | schedule,
            "data": {"tokens": len(tokens), "checksum": checksum(tokens)},
        }

    # Training -----------------------------------------------------------------------------------

    def _fit(self, start: RestoredCheckpoint) -> TrainingReport:
        s, plan = self.settings, self.plan
        every = s.accumulate

        def evaluated(step: int) -> bool:
            return step % plan.eval_every == 0 or step == plan.steps

        self.best = callbacks.SaveBest(lambda: self._save(self.output), start.extra.get("best"))
        saver = callbacks.SaveCheckpoint(self.checkpoints, plan.checkpoint_every,
                               lambda: {"best": self.best.best}, write=self.chief,
                               evaluated=evaluated)  # fmt: skip
        self.bar = ProgressBar(plan.steps, s.batch_size * plan.block * every, self.console)
        calls = fit_calls(start.step, plan.steps, plan.eval_every)
        shared = SingleRunCallbacks(self._callbacks(saver), self.model, len(calls))
        if not calls:
            self._note("All steps are trained already.")
        stopped = False
        try:
            with stop_on_signal(saver):
                for call in calls:
                    self.model.fit(
                        self._batches(call.first * every),
                        initial_epoch=call.epoch,
                        epochs=call.epoch + call.epochs,
                        steps_per_epoch=call.steps * every,
                        validation_data=self._validation_batches(),
                        callbacks=shared,
                        shuffle=False,
                        verbose=0,
                    )
        except callbacks.TrainingStopped:
            stopped = True
        finally:
            self.bar.close()
        return self._finish(stopped)

    def _batches(self, skip: int) -> tf.data.Dataset:
        s = self.settings
        return self._dataset(self.corpus, s.batch_size, epochs=None, seed=s.seed, skip_batches=skip,
                             drop_remainder=True)  # fmt: skip

    def _validation_batches(self) -> tf.data.Dataset | None:
        if self.held_out is None:
            return None
        # Replicas must get equal parts of each batch; the remaining blocks are left out.
        replicas = self.strategy.num_replicas_in_sync
        blocks = self.held_out.blocks(self.plan.block)
        batch_size = even_batch(blocks, self.settings.batch_size, replicas)
        return self._dataset(self.held_out, batch_size, shuffle=False, drop_remainder=replicas > 1)

    def _dataset(self, corpus: Corpus, batch_size: int, **options: Any) -> tf.data.Dataset:
        return data.lm_dataset(corpus, None, self.plan.block, batch_size,
                               document_mask=self.settings.document_mask, **options)  # fmt: skip

    def _callbacks(self, saver: callbacks.SaveCheckpoint) -> list[keras.callbacks.Callback]:
        s = self.settings
        found: list[keras.callbacks.Callback] = [callbacks.StopOnNaN(self.checkpoints)]
        if s.ema is not None:
            found.append(callbacks.AveragedEvaluation())
        found.append(callbacks.Perplexity())
        if self.chief:
            tokens = s.batch_size * self.plan.block * s.accumulate
            log = self.output / "log.jsonl"
            board = str(self.output / "tensorboard") if s.tensorboard else None
            self.log = callbacks.JsonLog(log, s.log_every, tokens)
            found += [self.log, self.bar, LossCurve(log, self.output / "loss.png"), self.best]
            if s.sample_prompt is not None:
                found.append(self._sampler(board))
            if board:
                found.append(
                    keras.callbacks.TensorBoard(
                        board, update_freq=s.log_every * s.accumulate, write_graph=False
                    )
                )
        if self.held_out is not None:  # on every worker, after the log is open
            found.append(callbacks.EvaluateBefore(self._validation_batches, self._note_before))
        return [*found, *self.callbacks, saver]

    def _note_before(self, logs: dict[str, float]) -> None:
        if self.chief:
            self.log.write({"step": 0} | logs)
            self.bar.print_evaluation(0, logs)

    def _sampler(self, board: str | None) -> callbacks.SampleText:
        def show(step: int, text: str) -> None:
            self.bar.print(f"{text}\n", style="dim")

        return callbacks.SampleText(self.tokenizer, self.settings.sample_prompt, show,
                          max_new_tokens=self.settings.sample_tokens,
                          seed=self.settings.seed, log_dir=board)  # fmt: skip

    # Results ------------------------------------------------------------------------------------

    def _save(self, path: Path) -> None:
        model = self.model
        with report_write_errors("The model", path):
            if lora.adapter_names(model):
                lora.save_adapter(model, path / "adapter", base=self.settings.model)
                # Merged into a copy: merging resets the optimizer of the model in training.
                model = type(model).from_pretrained(self.settings.model)
                lora.load_adapter(model, path / "adapter")
                lora.unload_adapters(model, merge=True)
            TextGenerator(model, self.tokenizer).save_pretrained(path)

    def _finish(self, stopped: bool) -> TrainingReport:
        steps = recipes.steps_of(self.model)
        if self.chief and not stopped:
            with recipes.averaged(self.model):
                self._save(self.output / "last" if self.held_out else self.output)
        lines = callbacks.read_log(self.output / "log.jsonl")
        losses = [line["loss"] for line in lines if "loss" in line]
        measured = [(line["val_loss"], line["step"]) for line in lines if "val_loss" in line]
        before = next((loss for loss, step in measured if step == 0), None)
        if not measured and losses and lines[0]["step"] == 1:
            before = losses[0]
        after = [one for one in measured if one[1] > 0]  # the best of them was saved
        best_step = min(after)[1] if after else None
        loss = losses[-1] if losses else None
        report = TrainingReport(
            steps, loss, self.best.best, self.output, stopped, before, best_step
        )  # fmt: skip
        if self.chief and not stopped:
            record = report._asdict() | {"path": str(report.path)}
            text = json.dumps({"report": record, "settings": self.settings.to_dict()}, indent=1)
            path = self.output / "training.json"
            with report_write_errors("The report", path), replace_files([path]) as (temporary,):
                temporary.write_text(text + "\n")
            if self.settings.push:
                callbacks.PushToHub(self.output, self.settings.push).push()
        return report

    def _note(self, text: str) -> None:
        if self.chief:
            self.console.print(text, style="dim", highlight=False)


class SingleRunCallbacks(keras.callbacks.CallbackList):
    """Callbacks of several `fit` calls: their training begins and ends once.

    Args:
        callbacks: Keras callbacks.
        model: The model.
        calls: Number of `fit` calls.
    """

    def __init__(self, callbacks: list[Any], model: keras.Model, calls: int) -> None:
        super().__init__(callbacks, add_history=True, model=model)
        self._begun, self._left = False, calls

    def on_train_begin(self, logs: Any = None) -> None:
        """Forwards the first call."""
        if not self._begun:
            super().on_train_begin(logs)
        self._begun = True

    def on_train_end(self, logs: Any = None) -> None:
        """Forwards the last call."""
        self._left -= 1
        if not self._left:
            super().on_train_end(logs)


@contextlib.contextmanager
def stop_on_signal(saver: callbacks.SaveCheckpoint) -> Iterator[None]:
    """On SIGINT or SIGTERM, saves and stops after the step; a second signal stops at once.

    Args:
        saver: The callback that saves and stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Callable[..., Any] | int | None] = {}

    def stop(number: int, frame: Any) -> None:
        saver.stop = True
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

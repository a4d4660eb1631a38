"""Training from texts to a model that loads: data, recipe, checkpoints and pictures put together.

The `Trainer` adds nothing to `model.fit`: it makes the data, the model, the optimizer and the
callbacks that its settings ask for, and calls it.
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

from tfgpt2.errors import explain
from tfgpt2.text.generator import TextGenerator
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer
from tfgpt2.training import callbacks as parts
from tfgpt2.training import data, lora, recipes, strategies
from tfgpt2.training.build import make_model
from tfgpt2.training.checkpoint import Checkpoints, Found
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.display import LossCurve, ProgressBar
from tfgpt2.training.plan import block_size, checksum, even_batch, make_plan, segments, split
from tfgpt2.training.schedules import schedule
from tfgpt2.training.settings import TrainSettings, write_yaml


class Report(NamedTuple):
    """What a training did.

    Attributes:
        steps: Steps that were trained in all.
        loss: Mean training loss of the last part, nats per token.
        val_loss: Lowest validation loss; None where there was nothing to measure on.
        path: The directory that holds the model.
        stopped: Whether it was asked to stop, and waits to be continued.
    """

    steps: int
    loss: float | None
    val_loss: float | None
    path: Path
    stopped: bool


class Trainer:
    """Trains a language model on texts.

    The output directory holds the best model, or the last one where nothing is measured, so that
    `TextGenerator.from_pretrained` loads it; the last one is in `last/`, and beside them
    `checkpoints/`, `log.jsonl`, `loss.png`, and the settings as `train.yaml`.

    Args:
        settings: What is trained, on what, and how.
        console: Where progress is shown; standard error by default.
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
        self.strategy = strategies.make_strategy(settings.strategy)
        self.chief = strategies.is_chief(self.strategy)

    def run(self, *, resume: bool = False) -> Report:
        """Trains.

        Args:
            resume: Go on from the newest checkpoint in the output directory.

        Raises:
            FileNotFoundError: A file is not there, or no checkpoint to go on from.
            ValueError: There is too little text, a file is empty or no text, settings do not fit
                the model, or the checkpoint is of another training.
            FloatingPointError: The loss became NaN or infinite.
            OSError: A checkpoint could not be written.
            RuntimeError: Another worker is gone.
        """
        self._prepare_output(resume)
        keras.utils.set_random_seed(self.settings.seed)
        self._make(resume)
        found = Found(0, {}, self.output)
        if resume:
            found = self.checkpoints.restore(self.model)
            self._note(f"Going on after step {found.step:,} of {self.plan.steps:,}.")
        strategies.agree(self.strategy, found.step)
        try:
            return self._fit(found)
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
                tf.errors.DeadlineExceededError) as error:  # fmt: skip
            raise RuntimeError(
                explain(
                    "Another worker is gone, or cannot be reached.",
                    fix="Start all of them again with --resume.",
                    error=str(error).split("\n")[0],
                )
            ) from error

    # What a training is made of -----------------------------------------------------------------

    def _prepare_output(self, resume: bool) -> None:
        old = Checkpoints(self.output / "checkpoints", {}).paths()
        if old and not resume:
            raise ValueError(
                explain(
                    "The output directory holds the checkpoints of a training.",
                    fix="Go on with it with --resume, or name another directory.",
                    output=str(self.output),
                    newest=old[-1].name,
                )
            )
        if self.chief:
            self.output.mkdir(parents=True, exist_ok=True)
            write_yaml(self.settings, self.output / "train.yaml")

    def _make(self, resume: bool) -> None:
        """Reads the texts, and makes plan, model, optimizer and checkpoints."""
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
            self._compile()
        strategies.prepare(self.model, self.strategy)
        about = self._about() | {"precision": dtype}
        self.checkpoints = Checkpoints(self.output / "checkpoints", about, keep=s.keep)

    def _chosen_precision(self, resume: bool) -> str:
        """What `auto` is, measured once for a training."""
        paths = Checkpoints(self.output / "checkpoints", {}).paths()
        if resume and paths:
            about = json.loads((paths[-1] / "state.json").read_text())["about"]
            return about.get("precision", "float32")
        if strategies.is_multi_worker(self.strategy):
            raise ValueError(
                explain(
                    "Workers would each measure for themselves which precision is faster.",
                    fix="Name one: float32 or mixed_bfloat16.",
                    dtype="auto",
                )
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
            held_out.blocks(block)  # long enough
            return corpus, held_out
        return split(corpus, s.validation_share, block)

    def _compile(self) -> None:
        s, plan = self.settings, self.plan
        rate = schedule(s.schedule, s.learning_rate, plan.steps, warmup=plan.warmup,
                        floor=plan.floor, accumulate=s.accumulate)  # fmt: skip
        optimizer = recipes.adamw(
            self.model, rate, weight_decay=s.weight_decay, beta_1=s.beta_1, beta_2=s.beta_2,
            clip_norm=s.clip_norm, accumulate=s.accumulate, ema=s.ema,
        )  # fmt: skip
        optimizer.keep_weights = True
        chunked = s.chunked_loss
        if chunked is None:
            chunked = s.batch_size * plan.block * self.model.config.vocab_size * 4 > 2**28
        self.model.compile(
            optimizer, chunked_loss=chunked, label_smoothing=s.label_smoothing, z_loss=s.z_loss
        )

    def _about(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to go on."""
        here = ("output", "texts", "validation", "tokenizer", "cache", "keep", "log_every", "push",
                "sample_prompt", "sample_tokens", "tensorboard", "strategy", "checkpoint_every",
                "epochs", "steps", "warmup", "floor", "eval_every", "model")  # fmt: skip
        recipe = {k: v for k, v in self.settings.to_dict().items() if k not in here}
        schedule = {"steps": self.plan.steps, "warmup": self.plan.warmup, "floor": self.plan.floor}
        tokens = np.asarray(self.corpus.tokens)
        return {
            "config": self.model.config.to_dict(),
            "recipe": recipe | schedule,
            "data": {"tokens": len(tokens), "checksum": checksum(tokens)},
        }

    # Training -----------------------------------------------------------------------------------

    def _fit(self, found: Found) -> Report:
        s, plan = self.settings, self.plan
        every = s.accumulate

        def measured(step: int) -> bool:
            return step % plan.eval_every == 0 or step == plan.steps

        saver = parts.SaveCheckpoint(self.checkpoints, plan.checkpoint_every, self._extra,
                                     write=self.chief, measured=measured)  # fmt: skip
        self.best = parts.SaveBest(self._save_best, found.extra.get("best"))
        self.bar = ProgressBar(plan.steps, s.batch_size * plan.block * every, self.console)
        fits = segments(found.step, plan.steps, plan.eval_every)
        everything = Relay(self._callbacks(saver), self.model, len(fits))
        if not fits:
            self._note("All steps are trained already.")
        stopped = False
        try:
            with asked_to_stop(saver):
                for fit in fits:
                    self.model.fit(
                        self._batches(fit.first * every),
                        initial_epoch=fit.epoch,
                        epochs=fit.epoch + fit.epochs,
                        steps_per_epoch=fit.steps * every,
                        validation_data=self._measured(),
                        callbacks=everything,
                        shuffle=False,
                        verbose=0,
                    )
        except parts.TrainingStopped:
            stopped = True
        finally:
            self.bar.close()
        return self._finish(stopped)

    def _batches(self, skip: int) -> tf.data.Dataset:
        return data.lm_dataset(
            self.corpus,
            None,
            self.plan.block,
            self.settings.batch_size,
            document_mask=self.settings.document_mask,
            epochs=None,
            seed=self.settings.seed,
            skip_batches=skip,
            drop_remainder=True,
        )

    def _measured(self) -> tf.data.Dataset | None:
        if self.held_out is None:
            return None
        # Replicas must get equal parts of each batch; the blocks that are too many for that are
        # not measured.
        replicas = self.strategy.num_replicas_in_sync
        batch = even_batch(
            self.held_out.blocks(self.plan.block), self.settings.batch_size, replicas
        )
        return data.lm_dataset(
            self.held_out, None, self.plan.block, batch, shuffle=False, drop_remainder=replicas > 1,
            document_mask=self.settings.document_mask,
        )  # fmt: skip

    def _callbacks(self, saver: parts.SaveCheckpoint) -> list[keras.callbacks.Callback]:
        s = self.settings
        found: list[keras.callbacks.Callback] = [parts.StopOnNaN(self.checkpoints)]
        if s.ema is not None:
            found.append(parts.AveragedEvaluation())
        found.append(parts.Perplexity())
        if self.chief:
            tokens = s.batch_size * self.plan.block * s.accumulate
            log = self.output / "log.jsonl"
            board = str(self.output / "tensorboard") if s.tensorboard else None
            found += [parts.JsonLog(log, s.log_every, tokens), self.bar,
                      LossCurve(log, self.output / "loss.png"), self.best]  # fmt: skip
            if s.sample_prompt is not None:
                found.append(self._sampler(board))
            if board:
                found.append(
                    keras.callbacks.TensorBoard(board, update_freq=s.log_every, write_graph=False)
                )
        return [*found, *self.callbacks, saver]

    def _sampler(self, board: str | None) -> parts.SampleText:
        def show(step: int, text: str) -> None:
            self.bar.print(f"{text}\n", style="dim")

        return parts.SampleText(self.tokenizer, self.settings.sample_prompt, show,
                                max_new_tokens=self.settings.sample_tokens,
                                seed=self.settings.seed, log_dir=board)  # fmt: skip

    # What is written ----------------------------------------------------------------------------

    def _extra(self) -> dict[str, Any]:
        return {"best": self.best.best}

    def _save_best(self) -> None:
        self._save(self.output)

    def _save(self, path: Path) -> None:
        model = self.model
        if lora.adapter_names(model):
            lora.save_adapter(model, path / "adapter", base=self.settings.model)
            # Into a copy: merging would take the optimizer away from the model that trains on.
            model = type(model).from_pretrained(self.settings.model)
            lora.load_adapter(model, path / "adapter")
            lora.unload_adapters(model, merge=True)
        TextGenerator(model, self.tokenizer).save_pretrained(path)

    def _finish(self, stopped: bool) -> Report:
        steps = recipes.steps_of(self.model)
        if self.chief and not stopped:
            with recipes.averaged(self.model):
                self._save(self.output / "last" if self.held_out else self.output)
        losses = [line["loss"] for line in parts.read_log(self.output / "log.jsonl")
                  if "loss" in line]  # fmt: skip
        report = Report(steps, losses[-1] if losses else None, self.best.best, self.output, stopped)
        if self.chief and not stopped:
            record = report._asdict() | {"path": str(report.path)}
            text = json.dumps({"report": record, "settings": self.settings.to_dict()}, indent=1)
            (self.output / "training.json").write_text(text + "\n")
            if self.settings.push:
                parts.PushToHub(self.output, self.settings.push).push()
        return report

    def _note(self, text: str) -> None:
        if self.chief:
            self.console.print(text, style="dim", highlight=False)


class Relay(keras.callbacks.CallbackList):
    """Callbacks of several `fit` calls that are one training: begun and ended once.

    Args:
        callbacks: Keras callbacks.
        model: The model.
        fits: How many calls there will be.
    """

    def __init__(self, callbacks: list[Any], model: keras.Model, fits: int) -> None:
        super().__init__(callbacks, add_history=True, model=model)
        self._begun, self._left = False, fits

    def on_train_begin(self, logs: Any = None) -> None:
        """Passes the first one on."""
        if not self._begun:
            super().on_train_begin(logs)
        self._begun = True

    def on_train_end(self, logs: Any = None) -> None:
        """Passes the last one on."""
        self._left -= 1
        if not self._left:
            super().on_train_end(logs)


@contextlib.contextmanager
def asked_to_stop(saver: parts.SaveCheckpoint) -> Iterator[None]:
    """Lets Ctrl-C, and a polite kill, end the training after the step and save; twice ends at once.

    Args:
        saver: Saves and raises.
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

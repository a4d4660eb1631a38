"""The log-likelihood of given tokens, in batches of few shapes, one compiled program for each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfgpt2.errors import explain
from tfgpt2.generation.buckets import default_buckets


class Request(NamedTuple):
    """Tokens that are read, and tokens that are scored.

    Attributes:
        inputs: Ids that the model reads, at most its context.
        targets: Ids that should follow the last inputs, one each: the first target follows
            `inputs[-len(targets)]`, the last one follows `inputs[-1]`.
    """

    inputs: Sequence[int]
    targets: Sequence[int]


class Score(NamedTuple):
    """What the model says of a request's targets.

    Attributes:
        logprobs: float64 `[n]`, nats of each target.
        greedy: Each target is the likeliest token at its place.
    """

    logprobs: np.ndarray
    greedy: bool

    @property
    def total(self) -> float:
        """Log-likelihood of all targets."""
        return float(self.logprobs.sum())


def continuation(context: Sequence[int], targets: Sequence[int], limit: int) -> Request:
    """Makes the request for tokens after a context, cut on the left to what fits.

    The last target is predicted and never read, so that `limit + 1` tokens fit.

    Args:
        context: At least one id.
        targets: At least one id, at most `limit`.
        limit: The model's context.

    Raises:
        ValueError: There is nothing to condition on, nothing to score, or too much.

    Example:
        >>> continuation([5, 6, 7], [8, 9], 3)
        Request(inputs=[6, 7, 8], targets=[8, 9])
    """
    if not len(context) or not 0 < len(targets) <= limit:
        raise ValueError(
            explain(
                f"A continuation of 1 to {limit} tokens is scored after at least one token.",
                fix="Give a shorter continuation, and a context or a start token before it.",
                context_tokens=len(context),
                continuation_tokens=len(targets),
            )
        )
    tokens = [*context, *targets][-(limit + 1) :]
    return Request(tokens[:-1], list(targets))


class Scorer:
    """Scores requests with one model.

    Rows are padded on the right, which a causal model cannot see, to sizes that double: few
    shapes, and one compiled program for each. The logits of the scored places alone are computed,
    a row at a time.

    Args:
        model: A `TFGPT2LMHeadModel`.
        batch_size: Rows that are read at once, 1 or more.
        jit_compile: Whether XLA compiles the programs.

    Raises:
        TypeError: The model does not score tokens.
        ValueError: `batch_size` is not positive.

    Example:
        >>> from tfgpt2 import TFGPT2LMHeadModel
        >>> scorer = Scorer(TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny"), batch_size=1)
        >>> scorer.score([Request([1, 2, 3], [3, 4])])[0].logprobs.shape
        (2,)
    """

    def __init__(self, model: Any, *, batch_size: int = 8, jit_compile: bool = True) -> None:
        if not hasattr(model, "score") or not hasattr(model, "encode"):
            raise TypeError(
                explain(
                    "Evaluation needs a model that scores tokens.",
                    fix="Pass a TFGPT2LMHeadModel; of a TextGenerator, its `model`.",
                    model=model,
                )
            )
        check_count("batch_size", batch_size)
        self.model, self.batch_size = model, batch_size
        self.context = model.config.n_positions
        self._sizes = default_buckets(self.context)
        rows = tf.TensorSpec([None, None], tf.int32)
        self._program = tf.function(
            functools.partial(_score, model),
            input_signature=[rows, rows, rows],
            jit_compile=jit_compile,
            autograph=False,
        )

    def score(
        self, requests: Sequence[Request], *, progress: bool | Console = False
    ) -> list[Score]:
        """Scores requests, longest first so that the time that is left is never underestimated.

        Args:
            requests: Of any lengths.
            progress: Show a bar on standard error, or on a console.

        Returns:
            One `Score` for each request, in their order.
        """
        order = sorted(range(len(requests)), key=lambda i: [-len(part) for part in requests[i]])
        found: list[Any] = [None] * len(requests)
        for batch in batches(order, self.batch_size, progress):
            for place, score in zip(batch, self._run([requests[i] for i in batch]), strict=True):
                found[place] = score
        return found

    def _run(self, requests: Sequence[Request]) -> Iterator[Score]:
        """Scores one batch."""
        columns = self._size(max(len(one.inputs) for one in requests))
        width = self._size(max(len(one.targets) for one in requests))
        ids = np.zeros([self.batch_size, columns], np.int32)  # [B, T]
        places, targets = np.zeros([2, self.batch_size, width], np.int32)  # [B, S] each
        for row, (inputs, expected) in enumerate(requests):
            count = len(expected)
            ids[row, : len(inputs)] = inputs
            places[row, :count] = np.arange(len(inputs) - count, len(inputs))
            targets[row, :count] = expected
        logprobs, best = (part.numpy() for part in self._program(ids, places, targets))
        for row, (_, expected) in enumerate(requests):
            count = len(expected)
            yield Score(logprobs[row, :count].astype(np.float64), bool(best[row, :count].all()))

    def _size(self, count: int) -> int:
        """The size to which `count` columns are padded."""
        return next((size for size in self._sizes if size >= count), self.context)


def _score(
    model: Any, ids: tf.Tensor, places: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores what follows some places.

    Args:
        model: The model.
        ids: int32 `[B, T]`.
        places: int32 `[B, S]`, columns of `ids`.
        targets: int32 `[B, S]`, the ids expected after them.

    Returns:
        Nats float32 `[B, S]`, and whether the target is the likeliest token, bool `[B, S]`.
    """
    _, done = model.encode(False, input_ids=ids)
    hidden = tf.gather(done.last, places, batch_dims=1)  # [B, S, D]

    def score_row(row: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        states, expected = row  # [S, D], [S]
        logits = model.score(states[None])[0]  # [S, V]
        chosen = tf.gather(logits, expected, batch_dims=1)  # [S]
        likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)  # [S]
        return chosen - tf.reduce_logsumexp(logits, axis=-1), likeliest == expected

    return tf.map_fn(score_row, (hidden, targets), fn_output_signature=(tf.float32, tf.bool))


def check_count(name: str, value: Any) -> None:
    """Checks that an option is a positive integer.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(
            explain(
                f"`{name}` must be a positive integer.",
                fix="Leave it out for the default.",
                **{name: value},
            )
        )


def batches(items: Sequence[Any], size: int, progress: bool | Console) -> Iterator[Sequence[Any]]:
    """Hands items on in batches, and shows how far they are.

    Args:
        items: What there is to do.
        size: Items in a batch.
        progress: Show a bar on standard error, or on a console.
    """
    parts = (items[start : start + size] for start in range(0, len(items), size))
    if not progress:
        yield from parts
        return
    console = progress if isinstance(progress, Console) else Console(stderr=True)
    columns = (TextColumn("Scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=len(items))
        for part in parts:
            yield part
            bar.advance(task, len(part))

"""Log-likelihood of given tokens, in batches of a few shapes so that few programs are compiled."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.buckets import default_buckets
from tfgpt2.validation import check_count


class ScoringRequest(NamedTuple):
    """Inputs of the model, and the targets to score.

    Attributes:
        inputs: Input ids, at most the model's context.
        targets: Ids that follow the last inputs, one each: the first target follows
            `inputs[-len(targets)]`, the last one follows `inputs[-1]`.
    """

    inputs: Sequence[int]
    targets: Sequence[int]


class Score(NamedTuple):
    """Score of a request's targets.

    Attributes:
        logprobs: float64 `[n]`, nats of each target.
        greedy: Whether every target is the likeliest token in its place.
    """

    logprobs: np.ndarray
    greedy: bool

    @property
    def total(self) -> float:
        """Log-likelihood of all targets."""
        return float(self.logprobs.sum())


def continuation_request(
    context: Sequence[int], targets: Sequence[int], limit: int
) -> ScoringRequest:
    """Makes the request for tokens after a context, truncated on the left.

    The last target is not an input, so `limit + 1` tokens fit.

    Args:
        context: At least one id.
        targets: At least one id, at most `limit`.
        limit: The model's context.

    Raises:
        ValueError: Context or targets are empty, or there are too many targets.

    Example:
        >>> continuation_request([5, 6, 7], [8, 9], 3)
        ScoringRequest(inputs=[6, 7, 8], targets=[8, 9])
    """
    if not len(context) or not 0 < len(targets) <= limit:
        raise value_error(
            f"A continuation must have 1 to {limit} tokens, and follow at least one token.",
            fix="Pass a shorter continuation, and a context or a start token before it.",
            context_tokens=len(context),
            continuation_tokens=len(targets),
        )
    tokens = [*context, *targets][-(limit + 1) :]
    return ScoringRequest(tokens[:-1], list(targets))


class Scorer:
    """Scores requests with a model.

    Rows are padded on the right, which does not affect a causal model, to bucket sizes, so few
    programs are compiled. Logits are computed for the scored positions only, one row at a time.

    Args:
        model: A `TFGPT2LMHeadModel`.
        batch_size: Rows in a batch, 1 or more.
        jit_compile: Whether to compile with XLA.

    Raises:
        TypeError: The model does not score tokens.
        ValueError: `batch_size` is not positive.

    Example:
        >>> from tfgpt2 import TFGPT2LMHeadModel
        >>> scorer = Scorer(TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny"), batch_size=1)
        >>> scorer.score([ScoringRequest([1, 2, 3], [3, 4])])[0].logprobs.shape
        (2,)
    """

    def __init__(self, model: Any, *, batch_size: int = 8, jit_compile: bool = True) -> None:
        check_scorer(model)
        check_count("batch_size", batch_size, least=1, optional=False)
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
        self, requests: Sequence[ScoringRequest], *, progress: bool | Console = False
    ) -> list[Score]:
        """Scores requests, longest first so that the remaining time is not underestimated.

        Args:
            requests: Requests of any lengths.
            progress: Show a progress bar on standard error, or on a console.

        Returns:
            One `Score` for each request, in their order.
        """
        order = sorted(range(len(requests)), key=lambda i: [-len(part) for part in requests[i]])
        scores: list[Any] = [None] * len(requests)
        for batch in batches(order, self.batch_size, progress):
            for i, score in zip(batch, self._run([requests[i] for i in batch]), strict=True):
                scores[i] = score
        return scores

    def _run(self, requests: Sequence[ScoringRequest]) -> Iterator[Score]:
        """Scores one batch."""
        columns = self._size(max(len(one.inputs) for one in requests))
        width = self._size(max(len(one.targets) for one in requests))
        ids = np.zeros([self.batch_size, columns], np.int32)  # [B, T]
        positions, targets = np.zeros([2, self.batch_size, width], np.int32)  # [B, S] each
        for row, (inputs, expected) in enumerate(requests):
            count = len(expected)
            ids[row, : len(inputs)] = inputs
            positions[row, :count] = np.arange(len(inputs) - count, len(inputs))
            targets[row, :count] = expected
        logprobs, best = (part.numpy() for part in self._program(ids, positions, targets))
        for row, (_, expected) in enumerate(requests):
            count = len(expected)
            yield Score(logprobs[row, :count].astype(np.float64), bool(best[row, :count].all()))

    def _size(self, count: int) -> int:
        """The size to which `count` columns are padded."""
        return next((size for size in self._sizes if size >= count), self.context)


def _score(
    model: Any, ids: tf.Tensor, positions: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores the tokens that follow some positions.

    Args:
        model: The model.
        ids: int32 `[B, T]`.
        positions: int32 `[B, S]`, columns of `ids`.
        targets: int32 `[B, S]`, the ids expected after them.

    Returns:
        Nats float32 `[B, S]`, and whether the target is the likeliest token, bool `[B, S]`.
    """
    _, outputs = model.encode(False, input_ids=ids)
    hidden = tf.gather(outputs.last_hidden_state, positions, batch_dims=1)  # [B, S, D]

    def score_row(row: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        states, expected = row  # [S, D], [S]
        logits = model.score(states[None])[0]  # [S, V]
        chosen = tf.gather(logits, expected, batch_dims=1)  # [S]
        likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)  # [S]
        return chosen - tf.reduce_logsumexp(logits, axis=-1), likeliest == expected

    return tf.map_fn(score_row, (hidden, targets), fn_output_signature=(tf.float32, tf.bool))


def check_scorer(model: Any) -> None:
    """Checks that a model scores tokens.

    Raises:
        TypeError: It does not.
    """
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise type_error(
            "The model must score tokens.",
            fix="Pass a TFGPT2LMHeadModel; of a TextGenerator, its `model`.",
            model=type(model).__name__,
        )


def start_token_id(model: Any) -> int:
    """The model's start token.

    Raises:
        ValueError: It has none.
    """
    start = model.config.bos_token_id
    if start is None or not 0 <= start < model.config.vocab_size:
        raise value_error(
            "The model has no start token to put before the text.",
            fix="Leave start_token out; the first token then has no context and no score.",
            bos_token_id=start,
        )
    return start


def batches(items: Sequence[Any], size: int, progress: bool | Console) -> Iterator[Sequence[Any]]:
    """Yields items in batches, and shows the progress.

    Args:
        items: The items.
        size: Items in a batch.
        progress: Show a progress bar on standard error, or on a console.
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

"""The plan of a training run: the numbers that follow from its settings and its texts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.data.schedule import BatchSchedule
from tfgpt2.training.settings import TrainSettings


class TrainingPlan(NamedTuple):
    """The numbers of a training run that follow from settings and data.

    Attributes:
        block: Tokens of an example.
        epoch: Steps per epoch.
        steps: Steps of the whole training.
        eval_every: Steps between evaluations.
        checkpoint_every: Steps between checkpoints.
        warmup: Steps of the warm-up.
        floor: Final learning rate.
    """

    block: int
    epoch: int
    steps: int
    eval_every: int
    checkpoint_every: int
    warmup: int
    floor: float


class FitCall(NamedTuple):
    """One call of `fit`: `epochs` epochs of `steps` steps each, after `first` steps."""

    first: int
    epoch: int
    epochs: int
    steps: int


def fit_calls(done: int, steps: int, every: int) -> list[FitCall]:
    """Divides a training run into calls of `fit` whose epochs end with an evaluation.

    Args:
        done: Steps that were trained.
        steps: Steps of the whole training.
        every: Steps between evaluations.

    Example:
        >>> [tuple(call) for call in fit_calls(7, 34, 10)]
        [(7, 0, 1, 3), (10, 1, 2, 10), (30, 3, 1, 4)]
    """
    calls = []
    while done < steps:
        if done % every or steps - done < every:
            stop = min(done - done % every + every, steps)
            call = FitCall(done, done // every, 1, stop - done)
        else:
            call = FitCall(done, done // every, (steps - done) // every, every)
        calls.append(call)
        done += call.epochs * call.steps
    return calls


def block_size(settings: TrainSettings, context: int) -> int:
    """Tokens of an example.

    Raises:
        ValueError: A block is longer than the model's context.
    """
    block = settings.block_size or context
    if block > context:
        raise value_error(
            "A block is longer than the model's context.",
            fix="Use a smaller `block_size`.",
            block_size=block,
            n_positions=context,
        )
    return block


def even_batch(blocks: int, batch_size: int, replicas: int) -> int:
    """Largest batch that splits evenly among replicas and leaves out fewer blocks than replicas.

    Args:
        blocks: Blocks to evaluate on.
        batch_size: Most blocks of a batch; with one replica, the result.
        replicas: Number of replicas.

    Raises:
        ValueError: There are fewer blocks than replicas.

    Example:
        >>> even_batch(blocks=31, batch_size=8, replicas=2)
        6
    """
    if replicas == 1:
        return batch_size
    rounds = blocks // replicas
    if not rounds:
        raise value_error(
            "There is less than one validation block for each replica.",
            fix="Use more validation text, or `validation_share` 0.",
            blocks=blocks,
            replicas=replicas,
        )
    most = max(batch_size // replicas, 1)
    return replicas * max(n for n in range(1, most + 1) if rounds % n == 0)


def make_plan(
    settings: TrainSettings, context: int, corpus: Corpus, replicas: int = 1
) -> TrainingPlan:
    """Computes the plan of a training run.

    Args:
        settings: The settings.
        context: The model's context in tokens.
        corpus: The texts.
        replicas: Devices that share a batch.

    Raises:
        ValueError: The texts are too short, or a batch does not split evenly.
    """
    s = settings
    block = block_size(s, context)
    if s.batch_size % replicas:
        raise value_error(
            "A batch must split evenly among the replicas.",
            fix="Make it a multiple of their number.",
            batch_size=s.batch_size,
            replicas=replicas,
        )
    schedule = BatchSchedule(batch_size=s.batch_size * s.accumulate, drop_remainder=True)
    epoch = schedule.batches_per_epoch(corpus.blocks(block))
    steps = s.steps or epoch * s.epochs
    warmup = min(math.ceil(steps * 0.03), 2000, steps - 1) if s.warmup is None else s.warmup
    every = min(s.eval_every or epoch, steps)
    floor = s.learning_rate / 10 if s.floor is None else s.floor
    return TrainingPlan(block, epoch, steps, every, s.checkpoint_every or every, warmup, floor)


def hold_out(corpus: Corpus, share: float, block: int) -> tuple[Corpus, Corpus | None]:
    """Holds out the end of the texts, from the beginning of a document if one is near.

    Args:
        corpus: The texts.
        share: In [0, 1); 0 holds nothing out.
        block: Tokens of an example; at least one example is held out.

    Returns:
        The training texts and the validation texts.

    Raises:
        ValueError: There are not enough tokens for both.
    """
    blocks = corpus.blocks(block)
    if not share:
        return corpus, None
    if blocks < 2:
        raise value_error(
            "The texts are too short to hold a part of them out.",
            fix="Use more text, a smaller `block_size`, or `validation_share` 0.",
            tokens=len(corpus),
            block_size=block,
        )
    cut = len(corpus) - min(max(round(blocks * share), 1), blocks - 1) * block
    document = corpus.starts[np.searchsorted(corpus.starts, cut, side="right") - 1]
    if document >= max(block, cut - len(corpus) * share / 2):
        cut = int(document)
    starts = corpus.starts
    head = Corpus(corpus.tokens[:cut], np.append(starts[starts < cut], cut))
    tail = Corpus(corpus.tokens[cut:], np.append(0, starts[starts > cut] - cut))
    return head, tail


def checksum(tokens: np.ndarray) -> int:
    """A checksum of the tokens, or of every n-th of them if there are more than 2^23."""
    step = max(1, len(tokens) // 2**22)
    sample = tokens[::step].astype(np.uint64)
    # A polynomial in an odd number, modulo 2^64, so that the order matters.
    weights = np.cumprod(np.full(len(sample), 6364136223846793005, np.uint64))
    return int((sample * weights).sum() & np.uint64(2**53 - 1))

"""The numbers of a training that follow from its settings and its texts: all pure functions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.training.data import schedule as order
from tfgpt2.training.data.corpus import Corpus
from tfgpt2.training.settings import TrainSettings


class Plan(NamedTuple):
    """The numbers of a training that follow from settings and data.

    Attributes:
        block: Tokens of an example.
        epoch: Steps in which the texts are read once.
        steps: Steps of the whole training.
        eval_every: Steps from one measurement to the next.
        checkpoint_every: Steps from one checkpoint to the next.
        warmup: Steps of the warm-up.
        floor: Where the learning rate ends.
    """

    block: int
    epoch: int
    steps: int
    eval_every: int
    checkpoint_every: int
    warmup: int
    floor: float


class Fit(NamedTuple):
    """One call of `fit`: `epochs` epochs of `steps` steps each, after `first` steps."""

    first: int
    epoch: int
    epochs: int
    steps: int


def segments(done: int, steps: int, every: int) -> list[Fit]:
    """Cuts a training into calls of `fit` that end where something is measured.

    Args:
        done: Steps that were trained.
        steps: Steps of the whole training.
        every: Steps from one measurement to the next.

    Example:
        >>> [tuple(fit) for fit in segments(7, 34, 10)]
        [(7, 0, 1, 3), (10, 1, 2, 10), (30, 3, 1, 4)]
    """
    found = []
    while done < steps:
        if done % every or steps - done < every:
            stop = min(done - done % every + every, steps)
            fit = Fit(done, done // every, 1, stop - done)
        else:
            fit = Fit(done, done // every, (steps - done) // every, every)
        found.append(fit)
        done += fit.epochs * fit.steps
    return found


def block_size(settings: TrainSettings, context: int) -> int:
    """Tokens of an example.

    Raises:
        ValueError: They are more than the model's context.
    """
    block = settings.block_size or context
    if block > context:
        raise ValueError(
            explain(
                "A block is longer than the model's context.",
                fix="Use a smaller `block_size`.",
                block_size=block,
                n_positions=context,
            )
        )
    return block


def even_batch(blocks: int, batch_size: int, replicas: int) -> int:
    """The largest batch that splits evenly among replicas and leaves out fewer blocks than those.

    Args:
        blocks: Blocks to measure on.
        batch_size: Most blocks of a batch; with one replica it is that.
        replicas: How many replicas there are.

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
        raise ValueError(
            explain(
                "There is less to measure on than one block for each replica.",
                fix="Use more text to validate on, or `validation_share` 0.",
                blocks=blocks,
                replicas=replicas,
            )
        )
    most = max(batch_size // replicas, 1)
    return replicas * max(n for n in range(1, most + 1) if rounds % n == 0)


def make_plan(settings: TrainSettings, context: int, corpus: Corpus, replicas: int = 1) -> Plan:
    """Computes what settings leave open.

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
        raise ValueError(
            explain(
                "A batch must split evenly among the replicas.",
                fix="Make it a multiple of their number.",
                batch_size=s.batch_size,
                replicas=replicas,
            )
        )
    deal = order.Order(batch_size=s.batch_size * s.accumulate, drop_remainder=True)
    epoch = deal.batches_per_epoch(corpus.blocks(block))
    steps = s.steps or epoch * s.epochs
    warmup = min(math.ceil(steps * 0.03), 2000, steps - 1) if s.warmup is None else s.warmup
    every = min(s.eval_every or epoch, steps)
    floor = s.learning_rate / 10 if s.floor is None else s.floor
    return Plan(block, epoch, steps, every, s.checkpoint_every or every, warmup, floor)


def split(corpus: Corpus, share: float, block: int) -> tuple[Corpus, Corpus | None]:
    """Holds out the end of the texts, from the beginning of a document where that is possible.

    Args:
        corpus: The texts.
        share: In [0, 1); 0 holds nothing out.
        block: Tokens of an example; at least one is held out.

    Returns:
        What is trained on, and what is measured on.

    Raises:
        ValueError: There are not enough tokens for both.
    """
    blocks = corpus.blocks(block)
    if not share:
        return corpus, None
    if blocks < 2:
        raise ValueError(
            explain(
                "The texts are too short to hold some of them out.",
                fix="Use more text, a smaller `block_size`, or `validation_share` 0.",
                tokens=len(corpus),
                block_size=block,
            )
        )
    cut = len(corpus) - min(max(round(blocks * share), 1), blocks - 1) * block
    begins = corpus.starts[np.searchsorted(corpus.starts, cut, side="right") - 1]
    if begins >= max(block, cut - len(corpus) * share / 2):
        cut = int(begins)
    starts = corpus.starts
    head = Corpus(corpus.tokens[:cut], np.append(starts[starts < cut], cut))
    tail = Corpus(corpus.tokens[cut:], np.append(0, starts[starts > cut] - cut))
    return head, tail


def checksum(tokens: np.ndarray) -> int:
    """A number that tells texts apart: from all tokens where they are few, else from samples."""
    step = max(1, len(tokens) // 2**22)
    some = tokens[::step].astype(np.uint64)
    # A polynomial in an odd number, modulo 2^64: the order counts.
    weights = np.cumprod(np.full(len(some), 6364136223846793005, np.uint64))
    return int((some * weights).sum() & np.uint64(2**53 - 1))

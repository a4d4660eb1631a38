"""Which examples stand in which batch: a pure function of seed, epoch and the batch's number.

Nothing has to be remembered to continue in the middle of an epoch but how many batches were read,
and a batch in the middle is found without reading those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

from tfgpt2.errors import explain

Fetch = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Order:
    """How the examples of a dataset are dealt out.

    All workers together read the batches that one worker would read with a batch size of
    `batch_size * num_shards`: worker `i` gets the `i`-th part of each.

    Attributes:
        batch_size: Examples in a batch of one worker.
        shuffle: Another order in each epoch; else the examples' own order.
        seed: Decides the orders, 0 or more.
        epochs: How often the data is read; None is without end.
        skip_batches: Batches at the beginning that have been read already.
        drop_remainder: Leave out the last, smaller batch of an epoch.
        num_shards: Number of workers that share the data.
        shard_index: Number of this worker, from 0.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is not an integer.

    Example:
        >>> list(Order(batch_size=2, shuffle=False).places(5).as_numpy_iterator())[-1].tolist()
        [4]
    """

    batch_size: int
    shuffle: bool = True
    seed: int = 0
    epochs: int | None = 1
    skip_batches: int = 0
    drop_remainder: bool = False
    num_shards: int = 1
    shard_index: int = 0

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "seed": 0, "epochs": 1, "skip_batches": 0}
        least |= {"num_shards": 1, "shard_index": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is None and name == "epochs":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(
                    explain(f"`{name}` must be an integer.", fix="Pass a number.", **{name: value})
                )
            if value < lowest or value >= 2**31:
                raise ValueError(
                    explain(
                        f"`{name}` must be at least {lowest} and less than 2^31.",
                        fix="Leave it out for the default.",
                        **{name: value},
                    )
                )
        if self.shard_index >= self.num_shards:
            raise ValueError(
                explain(
                    "`shard_index` must be less than `num_shards`; the first worker is 0.",
                    fix="Pass the worker's own number.",
                    shard_index=self.shard_index,
                    num_shards=self.num_shards,
                )
            )

    def batches_per_epoch(self, examples: int) -> int:
        """Number of batches that this worker reads in one epoch.

        Raises:
            ValueError: There is none.
        """
        everyone = self.batch_size * self.num_shards
        whole, rest = divmod(examples, everyone)
        mine = rest - self.shard_index * self.batch_size  # of the last, smaller round
        batches = whole + (mine > 0 and not self.drop_remainder)
        if batches < 1:
            raise ValueError(
                explain(
                    "There are too few examples for a single batch.",
                    fix="Use more text, a smaller batch or a shorter block, or keep the remainder.",
                    examples=examples,
                    batch_size=self.batch_size,
                    num_shards=self.num_shards,
                    drop_remainder=self.drop_remainder,
                )
            )
        return batches

    def places(self, examples: int) -> tf.data.Dataset:
        """Deals out the numbers of the examples.

        Args:
            examples: How many there are.

        Returns:
            Batches of int64 `[B]` in `[0, examples)`; the dataset knows its length.
        """
        batches = self.batches_per_epoch(examples)
        first = self.shard_index * self.batch_size
        everyone = self.batch_size * self.num_shards

        def batch(number: tf.Tensor) -> tf.Tensor:
            epoch, number = number // batches, number % batches
            start = number * everyone + first
            here = tf.range(start, tf.minimum(start + self.batch_size, examples))  # [B]
            if self.shuffle:
                here = _shuffled(here, examples, tf.stack([tf.cast(self.seed, tf.int64), epoch]))
            if self.drop_remainder or examples % everyone == 0:
                here = tf.ensure_shape(here, [self.batch_size])
            return here

        last = tf.int64.max if self.epochs is None else batches * self.epochs
        return tf.data.Dataset.range(self.skip_batches, last).map(batch)


def _shuffled(places: tf.Tensor, examples: int, seed: tf.Tensor) -> tf.Tensor:
    """Sends places through a permutation of all examples that is computed place by place.

    The operation's own three words of seed are drawn here: `tf.random.experimental.index_shuffle`
    fills one of them with a constant, and short permutations are then visibly uneven.

    Args:
        places: int64 `[B]` in `[0, examples)`.
        examples: How many there are.
        seed: int64 `[2]`.
    """
    words = tf.random.stateless_uniform(
        [3], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    return tf.raw_ops.RandomIndexShuffle(
        index=places, seed=words, max_index=tf.constant(examples - 1, tf.int64)
    )


def dataset(examples: int, fetch: Fetch, order: Order) -> tf.data.Dataset:
    """Deals out examples and fetches them.

    Args:
        examples: How many there are.
        fetch: From the numbers of examples, int64 `[B]`, to a batch of model inputs; runs in the
            graph of the pipeline.
        order: Which examples stand in which batch.

    Returns:
        Batches of model inputs, prefetched. With one shard, `tf.distribute` splits the batches
        among workers; with more, the workers read what is theirs and nothing else is split off.
    """
    policy = tf.data.experimental.AutoShardPolicy
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        policy.OFF if order.num_shards > 1 else policy.DATA
    )
    batches = order.places(examples).map(fetch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

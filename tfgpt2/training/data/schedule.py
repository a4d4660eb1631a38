"""The batch schedule: which examples each batch holds, as a function of seed, epoch and number.

Resuming in the middle of an epoch needs only the number of batches that were read; no earlier
batch is read again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.validation import check_names

Fetch = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
_LEAST = {
    "batch_size": 1, "seed": 0, "epochs": 1, "skip_batches": 0, "num_shards": 1, "shard_index": 0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BatchSchedule:
    """The order in which the examples of a dataset are batched.

    All workers together read the batches that one worker would read with a batch size of
    `batch_size * num_shards`: worker `i` gets the `i`-th part of each.

    Attributes:
        batch_size: Examples in a batch of one worker.
        shuffle: Shuffle in each epoch; otherwise the examples keep their order.
        seed: Seed of the shuffling, 0 or more.
        epochs: Passes over the data; None repeats it forever.
        skip_batches: Batches at the beginning that have been read already.
        drop_remainder: Leave out the last, smaller batch of an epoch.
        num_shards: Number of workers that share the data.
        shard_index: Number of this worker, from 0.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is not an integer.

    Example:
        >>> schedule = BatchSchedule(batch_size=2, shuffle=False)
        >>> list(schedule.index_batches(5).as_numpy_iterator())[-1].tolist()
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
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name == "epochs":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise type_error(
                    f"`{name}` must be an integer.", fix="Pass a number.", **{name: value}
                )
            if value < least or value >= 2**31:
                raise value_error(
                    f"`{name}` must be at least {least} and less than 2^31.",
                    fix="Leave it out for the default.",
                    **{name: value},
                )
        if self.shard_index >= self.num_shards:
            raise value_error(
                "`shard_index` must be less than `num_shards`; the first worker is 0.",
                fix="Pass the number of this worker.",
                shard_index=self.shard_index,
                num_shards=self.num_shards,
            )

    @classmethod
    def from_options(
        cls, batch_size: int, options: Mapping[str, Any], others: Iterable[str] = ()
    ) -> BatchSchedule:
        """Makes the schedule from the options of a dataset function.

        Args:
            batch_size: Examples in a batch.
            options: The other fields.
            others: Further options of that function, which an error may suggest.

        Raises:
            ValueError: A number is out of range.
            TypeError: There is no such option, or a number is not an integer.
        """
        check_names(options, (*(field.name for field in dataclasses.fields(cls)), *others))
        return cls(batch_size=batch_size, **options)

    def batches_per_epoch(self, num_examples: int) -> int:
        """Number of batches that this worker reads in one epoch.

        Raises:
            ValueError: There are too few examples for one.
        """
        whole, rest = divmod(num_examples, self._global_batch_size)
        own_rest = rest - self.shard_index * self.batch_size  # of the last, smaller batch
        batches = whole + (own_rest > 0 and not self.drop_remainder)
        if batches < 1:
            raise value_error(
                "There are too few examples for a single batch.",
                fix="Use more text, a smaller batch or a shorter block, or keep the remainder.",
                examples=num_examples,
                batch_size=self.batch_size,
                num_shards=self.num_shards,
                drop_remainder=self.drop_remainder,
            )
        return batches

    def index_batches(self, num_examples: int) -> tf.data.Dataset:
        """Batches of the indices of examples.

        Args:
            num_examples: How many there are.

        Returns:
            Batches of int64 `[B]` in `[0, num_examples)`; the dataset knows its length.
        """
        batches = self.batches_per_epoch(num_examples)
        first = self.shard_index * self.batch_size
        everyone = self._global_batch_size

        def batch(number: tf.Tensor) -> tf.Tensor:
            epoch, number = number // batches, number % batches
            start = number * everyone + first
            indices = tf.range(start, tf.minimum(start + self.batch_size, num_examples))  # [B]
            if self.shuffle:
                seed = tf.stack([tf.cast(self.seed, tf.int64), epoch])
                indices = _shuffled(indices, num_examples, seed)
            if self.drop_remainder or num_examples % everyone == 0:
                indices = tf.ensure_shape(indices, [self.batch_size])
            return indices

        last = tf.int64.max if self.epochs is None else batches * self.epochs
        return tf.data.Dataset.range(self.skip_batches, last).map(batch)

    def dataset(self, num_examples: int, fetch: Fetch) -> tf.data.Dataset:
        """Batches of model inputs.

        Args:
            num_examples: How many examples there are.
            fetch: From the indices of examples, int64 `[B]`, to a batch of model inputs; runs in
                the graph of the pipeline.

        Returns:
            Batches of model inputs, prefetched. With one shard, `tf.distribute` splits the batches
            among workers; with more, each worker reads its own part and nothing is split again.
        """
        policy = tf.data.experimental.AutoShardPolicy
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            policy.OFF if self.num_shards > 1 else policy.DATA
        )
        indices = self.index_batches(num_examples)
        batches = indices.map(fetch, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.prefetch(tf.data.AUTOTUNE).with_options(options)

    @property
    def _global_batch_size(self) -> int:
        return self.batch_size * self.num_shards


def _shuffled(indices: tf.Tensor, num_examples: int, seed: tf.Tensor) -> tf.Tensor:
    """Maps indices by a permutation of all examples that is computed index by index.

    The three seed words of the operation are drawn here: `tf.random.experimental.index_shuffle`
    sets one of them to a constant, and short permutations are then visibly uneven.

    Args:
        indices: int64 `[B]` in `[0, num_examples)`.
        num_examples: How many there are.
        seed: int64 `[2]`.
    """
    words = tf.random.stateless_uniform(
        [3], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    return tf.raw_ops.RandomIndexShuffle(
        index=indices, seed=words, max_index=tf.constant(num_examples - 1, tf.int64)
    )

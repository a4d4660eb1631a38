"""One row of a model's memory for each candidate: made once, then only what differs is moved.

The candidates of a row share its prompt. Each has a copy, which stays where it is; when one
candidate goes on with another's text, just the columns in which the two differ are copied.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.nn.cache import KVCache, write


def expand(cache: Any, copies: int) -> Any:
    """Gives each candidate the memory of its row: `[B, ...]` -> `[B * K, ...]`."""
    return tf.nest.map_structure(
        lambda x: tf.repeat(x, copies, axis=0) if x.shape.rank else x, cache
    )


def hand_over(
    cache: Any, source: tf.Tensor, since: tf.Tensor, count: tf.Tensor, *, in_place: bool
) -> Any:
    """Lets each row go on with the text of another candidate of the same prompt.

    Compiled, a `KVCache` moves the columns that are named and no others. Other caches, and
    programs that cannot write in place, move whole rows, with the same result.

    Args:
        cache: Tensors `[B * K, ...]`; those without an axis are shared by all rows.
        source: int32 `[B * K]`, the row that each row copies.
        since: int32 `[]`, the first column in which candidates of a prompt differ.
        count: int32 `[]`, how many columns there are from it on; known when compiled.
        in_place: Compiled by XLA; see `tfgpt2.nn.cache.write`.
    """
    if not (in_place and isinstance(cache, KVCache)):
        return tf.nest.map_structure(
            lambda x: tf.ensure_shape(tf.gather(x, source), x.shape) if x.shape.rank else x, cache
        )

    def move(memory: tf.Tensor) -> tf.Tensor:
        rows, heads, _, size = tf.unstack(tf.shape(memory))
        part = tf.slice(memory, [0, 0, since, 0], [rows, heads, count, size])  # [B * K, N, T, H]
        moved = write(memory, tf.gather(part, source), since, in_place=True)
        return tf.ensure_shape(moved, memory.shape)

    # What is left of a cache is the same for all candidates of a prompt.
    return cache._replace(keys=tuple(map(move, cache.keys)), values=tuple(map(move, cache.values)))

"""The rows of a cache where a prompt has several sequences: repeated once, then reordered.

The sequences of a prompt share its columns. Each has a copy, which stays where it is; when one
sequence continues another, just the columns in which the two differ are copied.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.nn.kv_cache import KVCache, write


def repeat_cache(cache: Any, copies: int) -> Any:
    """Gives each sequence the rows of its prompt: `[B, ...]` -> `[B * copies, ...]`."""
    if copies == 1:
        return cache

    def repeat(x: tf.Tensor) -> tf.Tensor:
        if not x.shape.rank:
            return x
        # TensorFlow repeats int16 and not uint16, in which bfloat16 is held.
        held = tf.bitcast(x, tf.int16) if x.dtype == tf.uint16 else x
        repeated = tf.repeat(held, copies, axis=0)
        if x.dtype == tf.uint16:
            repeated = tf.bitcast(repeated, tf.uint16)
        return tf.ensure_shape(repeated, [None, *x.shape[1:]])

    return tf.nest.map_structure(repeat, cache)


def reorder_cache(
    cache: Any, source: tf.Tensor, first: tf.Tensor, count: tf.Tensor, *, in_place: bool
) -> Any:
    """Lets each row continue another sequence of the same prompt.

    Compiled, a `KVCache` copies the named columns only. Other caches, and programs that cannot
    write in place, gather whole rows, with the same result.

    Args:
        cache: Tensors `[B * K, ...]`; those without an axis are shared by all rows.
        source: int32 `[B * K]`, the row that each row copies.
        first: int32 `[]`, the first column in which sequences of a prompt differ.
        count: int32 `[]`, the number of columns from it on; known when compiled.
        in_place: Compiled by XLA; see `tfgpt2.nn.kv_cache.write`.
    """
    if not (in_place and isinstance(cache, KVCache)):
        return tf.nest.map_structure(
            lambda x: tf.ensure_shape(tf.gather(x, source), x.shape) if x.shape.rank else x, cache
        )

    def reorder(memory: tf.Tensor) -> tf.Tensor:
        rows, heads, _, size = tf.unstack(tf.shape(memory))
        part = tf.slice(memory, [0, 0, first, 0], [rows, heads, count, size])  # [B * K, N, T, H]
        moved = write(memory, tf.gather(part, source), first, in_place=True)
        return tf.ensure_shape(moved, memory.shape)

    # The rest of a cache is the same for all sequences of a prompt.
    keys, values = tuple(map(reorder, cache.keys)), tuple(map(reorder, cache.values))
    return cache._replace(keys=keys, values=values)

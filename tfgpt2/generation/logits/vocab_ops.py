"""Lists of token ids as masks, counts and sums over the vocabulary."""

from __future__ import annotations

import tensorflow as tf


def mark(ids: tf.Tensor, size: int) -> tf.Tensor:
    """Ids int32 `[B, U]` -> bool `[B, size]`, True at each id; what is no id, like -1, is none.

    Example:
        >>> mark(tf.constant([[2, -1, 2]]), 4).numpy().tolist()
        [[False, False, True, False]]
    """
    return count(ids, size) > 0


def count(ids: tf.Tensor, size: int) -> tf.Tensor:
    """Ids int32 `[B, U]` -> int32 `[B, size]`, how often each occurs; -1 is none.

    Example:
        >>> count(tf.constant([[2, -1, 2]]), 4).numpy().tolist()
        [[0, 0, 2, 0]]
    """
    return spread(ids, tf.ones_like(ids), size)


def spread(ids: tf.Tensor, values: tf.Tensor, size: int) -> tf.Tensor:
    """Adds up values by id: ids int32 `[B, U]`, values `[B, U]` -> `[B, size]`.

    A scatter: comparing each id with the vocabulary costs 16 times as much at 1024 ids.

    Args:
        ids: int32 `[B, U]`; what is not in `[0, size)` is left out.
        values: Any number type, `[B, U]`.
        size: `V`.
    """
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))  # [B, U]
    # What is no id goes into a column of its own that is then cut off.
    column = tf.where((ids >= 0) & (ids < size), ids, size)
    sums = tf.zeros([tf.shape(ids)[0], size + 1], values.dtype)  # [B, V + 1]
    sums = tf.tensor_scatter_nd_add(sums, tf.stack([rows, column], axis=-1), values)
    return sums[:, :size]  # [B, V]

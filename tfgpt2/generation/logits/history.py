"""A row's history: the run of columns of `[B, S]` that holds its prompt and continuation.

Columns outside the run may hold anything, so rows of different lengths share the tensor and padding
is never read.
"""

from __future__ import annotations

import tensorflow as tf

OUTSIDE = -2  # in the place of tokens outside a history; differs from every id and from -1


def history_end(mask: tf.Tensor) -> tf.Tensor:
    """The column after each row's history: bool `[B, S]` -> int32 `[B]`, 0 for an empty one."""
    after = tf.range(tf.shape(mask)[1]) + 1  # [S]
    return tf.reduce_max(tf.where(mask, after, 0), axis=-1)

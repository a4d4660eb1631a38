"""Shapes for `tf.reshape`, static as far as possible."""

from __future__ import annotations

import tensorflow as tf


def leading(x: tf.Tensor, axes: int, *rest: int) -> list[int | tf.Tensor]:
    """The sizes of a tensor's first axes, followed by others, for `tf.reshape`.

    Static sizes are plain numbers, so that the result keeps them: a decode step stays one token
    wide, whatever the number of rows. One unknown size is -1. The shape is then a single constant,
    and such graphs are traced and compiled faster.

    Args:
        x: Any tensor of known rank.
        axes: How many sizes to take.
        *rest: The sizes that follow; the number of elements must stay the same.

    Example:
        >>> @tf.function(input_signature=[tf.TensorSpec([None, 1, 6])])
        ... def heads(x):
        ...     print(leading(x, 2, 3, 2), tf.reshape(x, leading(x, 2, 3, 2)).shape)
        >>> _ = heads.get_concrete_function()
        [-1, 1, 3, 2] (None, 1, 3, 2)
    """
    sizes = list(x.shape[:axes])
    unknown = [axis for axis, size in enumerate(sizes) if size is None]
    # -1 cannot be inferred for a tensor without elements.
    if len(unknown) == 1 and 0 not in (*sizes, *rest):
        sizes[unknown[0]] = -1
    elif unknown:
        dynamic = tf.shape(x)
        for axis in unknown:
            sizes[axis] = dynamic[axis]
    return [*sizes, *rest]

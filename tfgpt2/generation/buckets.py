"""Rounding shapes up to a few sizes: XLA compiles one program per shape."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfgpt2.errors import value_error

_SMALLEST = 16


def default_buckets(limit: int) -> tuple[int, ...]:
    """Returns the sizes 16, 32, 64, ... up to a limit, which is the last of them.

    Example:
        >>> default_buckets(100)
        (16, 32, 64, 100)
    """
    sizes, size = [], _SMALLEST
    while size < limit:
        sizes.append(size)
        size *= 2
    return (*sizes, limit)


def check_buckets(name: str, buckets: Sequence[int], limit: int) -> tuple[int, ...]:
    """Checks bucket sizes a user gave and returns them in order.

    Raises:
        ValueError: They are not distinct integers in [1, limit].
    """
    sizes = tuple(buckets) if isinstance(buckets, (list, tuple)) else ()
    fits = [type(size) is int and 1 <= size <= limit for size in sizes]
    if not sizes or not all(fits) or len(set(sizes)) != len(sizes):
        raise value_error(
            f"`{name}` must be distinct integers in [1, {limit}].",
            fix=f"For example {default_buckets(limit)}.",
            **{name: buckets},
        )
    return tuple(sorted(sizes))


def round_up(size: tf.Tensor, buckets: Sequence[int]) -> tf.Tensor:
    """Returns the smallest bucket that holds a size, or the largest there is.

    Args:
        size: int32 `[]`.
        buckets: Sizes in ascending order.

    Returns:
        int32 `[]`.

    Example:
        >>> int(round_up(tf.constant(17), (16, 32)))
        32
    """
    sizes = tf.constant(buckets, tf.int32)
    return tf.reduce_min(tf.where(sizes >= size, sizes, buckets[-1]))

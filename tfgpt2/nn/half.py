"""Matrix products with a matrix that is stored in 16 bits and multiplied in float32.

The bits are held as integers: XLA joins the widening of integers with the product of one row, and
makes a copy of every matrix where it finds a 16-bit float. The result is that of the float32 model
whose weights were rounded to 16 bits, for any number of rows.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.nn.one_row import is_xla_traced, keep_in_loop, one_or_many, traced_once


def to_bits(matrix: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Rounds to 16 bits.

    Args:
        matrix: float32 `[...]`.
        dtype: bfloat16 or float16.

    Returns:
        The bits of the rounded values, uint16 `[...]`.

    Example:
        >>> to_bits(tf.constant([1.0, -2.0]), tf.bfloat16).numpy().tolist()
        [16256, 49152]
    """
    return tf.bitcast(tf.cast(matrix, dtype), tf.uint16)


def from_bits(bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """uint16 `[...]` -> the float32 values that `to_bits` stored."""
    return tf.cast(tf.bitcast(bits, dtype), tf.float32)


def half_matmul(x: tf.Tensor, bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Multiplies rows with a matrix of 16 bits.

    Args:
        x: Float `[R, in]`.
        bits: uint16 `[out, in]`.
        dtype: What the bits are: bfloat16 or float16.

    Returns:
        float32 `[R, out]`.

    Example:
        >>> bits = to_bits(tf.constant([[0.5, 2.0]]), tf.float16)
        >>> half_matmul(tf.constant([[2.0, 1.0], [0.0, 1.0]]), bits, tf.float16).numpy().tolist()
        [[3.0], [2.0]]
    """
    x = tf.cast(x, tf.float32)
    if is_xla_traced():
        return traced_once(_compiled_matmul, x, bits, dtype)
    return _matmul(x, bits, dtype)


def _matmul(x: tf.Tensor, bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`half_matmul` of float32."""
    return tf.matmul(x, from_bits(bits, dtype), transpose_b=True)


def _compiled_matmul(x: tf.Tensor, bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`half_matmul` of float32, under XLA."""
    return one_or_many(
        x, lambda: _matmul(x, keep_in_loop(bits, x), dtype), lambda: _matmul(x, bits, dtype)
    )

"""Matrices of 16-bit floats, in programs that XLA compiles for a CPU.

A CPU has no fast products of 16-bit floats that XLA would use, so they are widened to float32, and
what decides is when:

    a few rows in a decode loop   inside the product, which reads half the bytes of float32
    more rows in a decode loop    once per call, before the loop
    a prompt                      each matrix when the prompt gets there

Left to itself, XLA widens all matrices once per call and holds them.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.nn.one_row import by_row_count, held_in_step, is_xla_traced, multiply_one_row

_FEW = 3  # rows of which each by itself is faster than all at once


def multiply_16_bits(x: tf.Tensor, stored: tf.Tensor, *, transpose: bool) -> tf.Tensor:
    """Multiplies rows by a matrix of 16-bit floats, a few of them one by one.

    Args:
        x: Float `[R, in]`.
        stored: bfloat16 or float16 `[in, out]`, or `[out, in]`.
        transpose: Whether each row of `stored` is an output.

    Returns:
        `[R, out]`, of the type of `x`.
    """

    @tf.custom_gradient  # the bits of a number have none
    def multiply(x: tf.Tensor, stored: tf.Tensor) -> Any:
        outputs, bits_of = stored, None  # [out, in]
        if not transpose:
            # XLA folds a mere transposition into the product, or repeats it in each step of a loop;
            # if something is done with the result, both are done before the loop.
            outputs, bits_of = tf.bitcast(tf.transpose(stored), tf.uint16), stored.dtype

        def one(row: tf.Tensor) -> tf.Tensor:
            row = tf.cast(row, tf.float32)
            # A factor of 1 that XLA does not know: see "Scale the result".
            scale = tf.where(row[:, :1] < -float("inf"), 2.0, 1.0)  # [1, 1]
            return tf.cast(multiply_one_row(row, outputs, bits_of) * scale, x.dtype)

        def many() -> tf.Tensor:
            return tf.matmul(x, tf.cast(stored, x.dtype), transpose_b=transpose)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_x = tf.matmul(upstream, tf.cast(stored, x.dtype), transpose_b=not transpose)
            left, right = (upstream, x) if transpose else (x, upstream)
            return by_x, tf.cast(tf.matmul(left, right, transpose_a=True), stored.dtype)

        return by_row_count(x, one, many, few=_FEW), backward

    return multiply(x, stored)


def widen_for(x: tf.Tensor, stored: tf.Tensor) -> tf.Tensor:
    """Casts a matrix to the type of the rows it is about to be multiplied with.

    XLA widens all 16-bit matrices of a prompt before it reads the prompt, and so holds all of them
    as float32. Here each one waits for its rows.

    Args:
        x: Float `[R, in]`.
        stored: Float, any shape.
    """
    if reads_16_bits(stored):
        never = tf.reduce_any(x[:1, :1] < -float("inf"))  # XLA cannot know it
        stored = tf.where(never, tf.zeros([], stored.dtype), stored)
    return tf.cast(stored, x.dtype)


def gather_rows(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Looks up rows, without a float32 copy of the table.

    For a CPU, XLA writes a lookup in bfloat16 as one in float32, and moves the widening of the
    whole table out of a decode loop if it can.

    Args:
        table: Float `[count, width]`.
        ids: Int `[...]`.

    Returns:
        `[..., width]`, of the type of the table.
    """
    if reads_16_bits(table):
        table, ids = held_in_step(table, ids)
    return tf.gather(table, ids)


def reads_16_bits(weight: Any) -> bool:
    """Whether the trace should read a matrix as the 16-bit floats that it is stored in.

    It does so where XLA compiles for a CPU, which has no fast 16-bit products.

    Args:
        weight: A variable or tensor.
    """
    is_light = tf.as_dtype(weight.dtype) in (tf.bfloat16, tf.float16)
    return is_light and is_xla_traced() and not tf.config.list_logical_devices("GPU")

"""Products of a few rows with a matrix that is stored in fewer bits than it is multiplied in.

A decode step of one row does little else than read every matrix once, so its time is that of the
bytes. XLA joins the widening of a matrix and its product with one row into one loop over the stored
bytes. From two rows on it calls a matrix product that wants a widened copy, so the number of rows
decides how to multiply, and it is known when XLA compiles.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util

_FEW = 3  # rows of which each by itself is faster than all at once, for 16-bit matrices

_alike: contextvars.ContextVar[bool] = contextvars.ContextVar("rows alike", default=False)


@contextlib.contextmanager
def any_number_alike() -> Iterator[None]:
    """Context in which functions are traced whose rows come and go.

    A row then gets the same numbers alone and among others, so a single row is not treated in any
    special way where that would change its result.
    """
    token = _alike.set(True)
    try:
        yield
    finally:
        _alike.reset(token)


def rows_are_alike() -> bool:
    """Whether a trace is inside `any_number_alike`."""
    return _alike.get()


def is_xla_traced() -> bool:
    """Whether the function that is being traced will be compiled by XLA.

    It chooses between two computations of the same result, so a wrong value only costs time.
    TensorFlow has no public function for this; its random operations use the same one.

    Example:
        >>> is_xla_traced(), tf.function(lambda: is_xla_traced(), jit_compile=True)().numpy()
        (False, np.True_)
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def by_row_count(
    x: tf.Tensor,
    one: Callable[[tf.Tensor], tf.Tensor],
    many: Callable[[], tf.Tensor],
    *,
    few: int = 1,
) -> tf.Tensor:
    """Computes a few rows one after the other, and any other number of rows at once.

    Args:
        x: Float `[R, in]`.
        one: The computation for one row, `[1, in]` -> `[1, out]`.
        many: The computation for all rows of `x` -> `[R, out]`.
        few: The most rows that are computed one after the other.

    Returns:
        `[R, out]`. Where R is open, XLA drops the other branches when it compiles.
    """
    if x.shape[0] is not None:
        return _one_by_one(x, one, x.shape[0]) if 0 < x.shape[0] <= few else many()
    choice = many
    for count in range(few, 0, -1):
        # Not `tf.switch_case`: to learn its index, XLA would run all that `x` is computed from.
        choice = functools.partial(
            tf.cond,
            tf.equal(tf.shape(x)[0], count),
            functools.partial(_one_by_one, x, one, count),
            choice,
        )
    return choice()


def _one_by_one(x: tf.Tensor, one: Callable[[tf.Tensor], tf.Tensor], count: int) -> tf.Tensor:
    """Computes `count` rows; a branch that XLA will drop has to have the right shape, too."""
    missing, open_rows = tf.shape(x)[0] - count, x.shape[0] is None
    padded = tf.pad(x, [[0, tf.maximum(-missing, 0)], [0, 0]]) if open_rows else x
    rows = [one(tf.ensure_shape(padded[i : i + 1], [1, x.shape[1]])) for i in range(count)]
    output = rows[0] if count == 1 else tf.concat(rows, axis=0)  # [count, out]
    if open_rows:
        output = tf.pad(output, [[0, tf.maximum(missing, 0)], [0, 0]])[: tf.shape(x)[0]]
    return output  # [R, out]


def multiply_one_row(x: tf.Tensor, stored: tf.Tensor, bits_of: tf.DType | None = None) -> tf.Tensor:
    """Multiplies one row in a form of which XLA makes a single loop over the stored numbers.

    Two things would keep it from that:

    - What is the same in each step of a decode loop is moved out of it, so the loop would carry a
      float32 copy of every matrix. Behind a barrier the matrix depends on the input of the step.
    - Cheap operations are repeated by whoever reads their result, so the end of a layer norm would
      be computed anew for each output. A division is not cheap, and XLA cannot know that this one
      is by 1, for nothing is below minus infinity.

    Scale the result before a bias is added: XLA joins a sum with the product first, and then the
    conversion is not joined.

    Args:
        x: float32 `[1, in]`.
        stored: `[out, in]`, of a type of at most 16 bits.
        bits_of: The type of which `stored` holds the bits as integers; None if it holds numbers.

    Returns:
        float32 `[1, out]`.
    """
    x /= tf.where(x < -float("inf"), 2.0, 1.0)  # by a vector: one number would become a factor
    stored, x = _barrier(stored, x)
    matrix = stored if bits_of is None else tf.bitcast(stored, bits_of)
    return tf.matmul(x, tf.cast(matrix, tf.float32), transpose_b=True)


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
            # XLA transposes once per call, before the loop, if something is done with the result.
            outputs, bits_of = tf.bitcast(tf.transpose(stored), tf.uint16), stored.dtype

        def one(row: tf.Tensor) -> tf.Tensor:
            return tf.cast(multiply_one_row(tf.cast(row, tf.float32), outputs, bits_of), x.dtype)

        def many() -> tf.Tensor:
            return tf.matmul(x, tf.cast(stored, x.dtype), transpose_b=transpose)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_x = tf.matmul(upstream, tf.cast(stored, x.dtype), transpose_b=not transpose)
            left, right = (upstream, x) if transpose else (x, upstream)
            return by_x, tf.cast(tf.matmul(left, right, transpose_a=True), stored.dtype)

        return by_row_count(x, one, many, few=_FEW), backward

    return multiply(x, stored)


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
    if is_xla_traced() and is_16_bits(table):
        table, ids = _barrier(table, ids)
    return tf.gather(table, ids)


def is_16_bits(weight: Any) -> bool:
    """Whether a variable or tensor is bfloat16 or float16."""
    return tf.as_dtype(weight.dtype) in (tf.bfloat16, tf.float16)


def reads_16_bits(weight: Any) -> bool:
    """Whether the trace should read a matrix as the 16-bit floats that it is stored in.

    It does so where XLA compiles for a CPU, which has no fast 16-bit products.

    Args:
        weight: A variable or tensor.
    """
    if not is_16_bits(weight) or not is_xla_traced() or rows_are_alike():
        return False
    return not tf.config.list_logical_devices("GPU")


@tf.custom_gradient
def _barrier(stored: tf.Tensor, x: tf.Tensor) -> Any:
    """Returns its inputs, which XLA takes to depend on each other; they keep their gradients."""
    held = gen_xla_ops.xla_optimization_barrier(input=[stored, x])
    return held, lambda *gradients: gradients

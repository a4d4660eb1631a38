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

_alike: contextvars.ContextVar[bool] = contextvars.ContextVar("rows alike", default=False)
_branch: contextvars.ContextVar[bool] = contextvars.ContextVar("in a branch", default=False)


def any_number_alike() -> contextlib.AbstractContextManager[None]:
    """Context in which functions are traced whose rows come and go.

    A row then gets the same numbers alone and among others, so a single row is not treated in any
    special way where that would change its result.
    """
    return _inside(_alike)


def rows_are_alike() -> bool:
    """Whether a trace is inside `any_number_alike`."""
    return _alike.get()


def in_branch() -> contextlib.AbstractContextManager[None]:
    """Context in which the branches of a conditional in a loop are traced.

    XLA moves nothing out of a branch, so what pays once per call would be done in each step there.
    """
    return _inside(_branch)


def is_in_branch() -> bool:
    """Whether a trace is inside `in_branch`."""
    return _branch.get()


@contextlib.contextmanager
def _inside(place: contextvars.ContextVar[bool]) -> Iterator[None]:
    """Context in which a variable is True."""
    token = place.set(True)
    try:
        yield
    finally:
        place.reset(token)


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
    widening is not joined.

    Args:
        x: float32 `[1, in]`.
        stored: `[out, in]`, of a type of at most 16 bits.
        bits_of: The type of which `stored` holds the bits as integers; None if it holds numbers.

    Returns:
        float32 `[1, out]`.
    """
    x /= tf.where(x < -float("inf"), 2.0, 1.0)  # by a vector: one number would become a factor
    stored, x = held_in_step(stored, x)
    matrix = stored if bits_of is None else tf.bitcast(stored, bits_of)
    return tf.matmul(x, tf.cast(matrix, tf.float32), transpose_b=True)


@tf.custom_gradient
def held_in_step(stored: tf.Tensor, x: tf.Tensor) -> Any:
    """Returns its inputs, which XLA takes to depend on each other; they keep their gradients.

    So what is done with `stored` stays in the step of a loop that computes `x`.
    """
    held = gen_xla_ops.xla_optimization_barrier(input=[stored, x])
    return held, lambda *gradients: gradients

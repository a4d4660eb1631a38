"""Products of a single row with a matrix that is stored in fewer bits than it is multiplied in.

A decode step of one row does little else than read every matrix once, so its time is that of the
bytes. XLA joins the widening of a matrix and its product with one row into one loop over the stored
bytes. From two rows on it calls a matrix product that wants a widened copy, so the number of rows
decides how to multiply, and it is known when XLA compiles.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

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


def one_or_many(
    x: tf.Tensor, one: Callable[[], tf.Tensor], many: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """Computes in one way for a single row and in another for any other number of rows.

    Args:
        x: Float `[R, in]`.
        one: The computation for R = 1.
        many: The other.

    Returns:
        What the chosen one returns. Where R is open, XLA drops the other branch when it compiles.
    """
    if x.shape[0] is not None:
        return one() if x.shape[0] == 1 else many()
    # Not `tf.switch_case`: to learn its index, XLA would run all that `x` is computed from.
    return tf.cond(tf.equal(tf.shape(x)[0], 1), one, many)


def multiply_one_row(x: tf.Tensor, stored: tf.Tensor) -> tf.Tensor:
    """Multiplies one row in a form of which XLA makes a single loop over the stored integers.

    Two things would keep it from that, and each is prevented by a number that XLA cannot know,
    though nothing is below minus infinity:

    - What is the same in each step of a decode loop is moved out of it, so the loop would carry a
      float32 copy of every matrix. This one depends on the input of the step.
    - Cheap operations are repeated by whoever reads their result, so the end of a layer norm would
      be computed anew for each output. A division is not cheap.

    Scale the result before a bias is added: XLA joins a sum with the product first, and then the
    conversion is not joined.

    Args:
        x: float32 `[1, in]`.
        stored: Integers `[out, in]`; other types are not joined with the product.

    Returns:
        float32 `[1, out]`.
    """
    smallest = -float("inf")
    x /= tf.where(x < smallest, 2.0, 1.0)  # by a vector: one number would become a factor
    never = tf.reduce_any(x[:, :1] < smallest)
    stored = tf.where(never, tf.zeros([], stored.dtype), stored)
    return tf.matmul(x, tf.cast(stored, tf.float32), transpose_b=True)

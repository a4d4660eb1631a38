"""Products of 8-bit whole numbers: how a matrix and its input become such, and are multiplied.

A matrix keeps one step per output, and the input gets one step per row while the model runs; both
are symmetric, so zero stays zero. The sums are exact: only the two roundings differ from float32.

The matrix is held as `[out, in]`, against the rule that kernels are `[in, out]`: XLA's product on a
CPU reads the rows of both sides, and took 1.4 (eight rows) to 1.8 times (two rows) as long with a
kernel `[in, out]`; at one row, 7 times. `benchmarks/int8.py` measures the step that results.

Source: Dettmers et al. 2022, "LLM.int8()", section 2.1 (row-wise quantisation), without the
decomposition of outliers, which models of GPT-2's sizes do not need.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util

LARGEST = 127  # -128 is left out, so that the numbers are symmetric
MOST_INPUTS = (2**31 - 1) // LARGEST**2  # whose products fit int32 together
_SMALLEST = 1e-30  # a row below is zero; smaller steps would be flushed to zero and divide by it
_NO_GRADIENT = (
    "Rounding to int8 has no gradient, so a quantised model cannot train. Train the float model,"
    " or adapters on it, and quantise the result."
)


def to_whole(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Expresses each row as whole numbers of steps.

    Args:
        x: float32 `[R, C]`, finite.

    Returns:
        Whole numbers in [-127, 127], float32 `[R, C]`; the steps, float32 `[R, 1]`, above 0. An
        entry is off by half a step at most.

    Example:
        >>> numbers, steps = to_whole(tf.constant([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]))
        >>> numbers.numpy().tolist()
        [[127.0, -64.0, 0.0], [0.0, 0.0, 0.0]]
    """
    largest = tf.reduce_max(tf.abs(x), axis=1, keepdims=True)  # [R, 1]
    steps = tf.maximum(largest, _SMALLEST) / LARGEST
    return tf.round(x / steps), steps


def product(x: tf.Tensor, matrix: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """Multiplies rows with a quantised matrix.

    Args:
        x: Float `[R, in]`.
        matrix: Whole numbers `[out, in]`: int8, or float32 (see `Int8Matrix.widen`).
        steps: float32 `[out]`.

    Returns:
        float32 `[R, out]`.

    Raises:
        LookupError: A gradient through it is asked for.

    Example:
        >>> x, matrix = tf.constant([[1.0, 0.5]]), tf.constant([[2, 2], [0, -127]], tf.int8)
        >>> product(x, matrix, tf.constant([0.5, 1.0])).numpy().round(2).tolist()
        [[1.5, -64.0]]
    """
    x = tf.raw_ops.PreventGradient(input=tf.cast(x, tf.float32), message=_NO_GRADIENT)
    numbers, row_steps = to_whole(x)
    return _sums(numbers, matrix) * row_steps * steps  # [R, out]


def _sums(numbers: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Whole numbers `[R, in]` times `[out, in]` -> float32 `[R, out]`."""
    if not (compiled() and matrix.dtype == tf.int8):
        # TensorFlow's own kernel for int8 takes twice as long as this. float32 holds whole numbers
        # exactly up to 2^24, so sums over 1040 inputs never round and longer ones hardly.
        return tf.matmul(numbers, tf.cast(matrix, tf.float32), transpose_b=True)
    rows = tf.shape(numbers)[0]
    # XLA has a slower program for one row than for two.
    padded = tf.pad(tf.cast(numbers, tf.int8), [[0, tf.maximum(2 - rows, 0)], [0, 0]])
    sums = tf.matmul(padded, matrix, transpose_b=True, output_type=tf.int32)  # [max(R, 2), out]
    return tf.cast(sums[:rows], tf.float32)


def compiled() -> bool:
    """Whether the code that is being traced will be compiled by XLA.

    The answer chooses between two ways to the same numbers, so a wrong one costs time only.
    TensorFlow has no public name for this question; its random operations ask it like this.

    Example:
        >>> compiled(), tf.function(lambda: tf.constant(compiled()), jit_compile=True)().numpy()
        (False, np.True_)
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


class Int8Matrix:
    """Mixed into a layer with a float `weight` that can be held as int8 instead.

    The layer says how wide its matrix is (`matrix_shape`) and where it is in a float weight
    (`float_matrix`); it asks `is_int8` where it creates and where it uses the weight.
    """

    is_int8 = False
    weight: keras.Variable | None
    weight_int8: keras.Variable | tf.Variable  # whole numbers [out, in]
    weight_scale: keras.Variable  # float32 [out]
    add_parameter: Callable[..., keras.Variable]

    def matrix_shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        raise NotImplementedError

    def float_matrix(self) -> tf.Tensor:
        """The float weight as float32 `[out, in]`."""
        raise NotImplementedError

    def add_int8(self) -> None:
        """Creates the int8 matrix, of zeros unless a checkpoint is being loaded."""
        outputs, inputs = self.matrix_shape()
        options = {"autocast": False, "trainable": False}
        self.weight = None
        self.weight_int8 = self.add_parameter(
            "weight_int8", (outputs, inputs), "zeros", dtype="int8", **options
        )
        self.weight_scale = self.add_parameter(
            "weight_scale", (outputs,), "ones", dtype="float32", **options
        )

    def fill_int8(self, matrix: tf.Tensor) -> None:
        """Gives the int8 matrix the values nearest to float32 `[out, in]`."""
        numbers, steps = to_whole(matrix)
        self.weight_int8.assign(tf.cast(numbers, tf.int8))
        self.weight_scale.assign(steps[:, 0])

    def to_int8(self) -> None:
        """Turns the float weight of a layer that is built into an int8 matrix."""
        old, matrix = self.weight, self.float_matrix()
        self._untrack_variable(old)
        self._tracker.unlock()
        self.is_int8 = True
        self.add_int8()
        self._tracker.lock()
        self.fill_int8(matrix)

    def widen(self) -> tf.Variable:
        """Holds the whole numbers in a float32 variable from now on, and returns it.

        The results stay the same. Programs without XLA need not cast the matrix in every step.
        """
        live = tf.Variable(tf.cast(self.weight_int8.value, tf.float32), trainable=False)
        self._untrack_variable(self.weight_int8)
        self.weight_int8 = live
        return live

    def multiply(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[R, in]` -> float32 `[R, out]`, without a bias."""
        return product(x, tf.convert_to_tensor(self.weight_int8), self.weight_scale)

    def look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """Int `[...]` -> float32 rows `[..., in]`."""
        rows = tf.cast(tf.gather(tf.convert_to_tensor(self.weight_int8), ids), tf.float32)
        return rows * tf.gather(self.weight_scale, ids)[..., None]  # [..., in]

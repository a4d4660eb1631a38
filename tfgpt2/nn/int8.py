"""int8 matrix products: quantisation of a matrix and of its input.

A matrix has one scale per output; it is symmetric, so zero stays zero. Two rows and more are
rounded to int8 as well, with one scale per row at run time: integer products are the fastest there.
The integer sums are exact, so only the two roundings differ from float32. A single row is
multiplied as it is, which is faster (see `tfgpt2.nn.one_row`) and more exact.

The matrix is stored as `[out, in]`, unlike other kernels: XLA's product on a CPU reads the rows of
both sides, and took 1.4 (eight rows) to 1.8 times (two rows) as long with a kernel `[in, out]`.
`benchmarks/int8.py` measures the decode step that results.

Source: Dettmers et al. 2022, "LLM.int8()", section 2.1 (row-wise quantisation), without the
decomposition of outliers, which models of GPT-2's sizes do not need.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tfgpt2.nn.one_row import (
    by_row_count,
    is_xla_traced,
    multiply_one_row,
    rows_are_alike,
)

MAX_INT8 = 127  # without -128, so that the range is symmetric
MAX_INPUTS = (2**31 - 1) // MAX_INT8**2  # whose sum of products fits int32
_ROWS = 4096  # of a matrix, quantised at a time
_SMALLEST = 1e-30  # smaller rows become zero; their scales would underflow
_NO_GRADIENT = (
    "Rounding to int8 has no gradient, so a quantised model cannot train. Train the float model,"
    " or adapters on it, and quantise the result."
)


def quantize_rows(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Quantises each row symmetrically.

    Args:
        x: float32 `[R, C]`, finite.

    Returns:
        Integers in [-127, 127], as float32 `[R, C]`; the scales, float32 `[R, 1]`, above 0. The
        error of an entry is at most half a scale.

    Example:
        >>> integers, scales = quantize_rows(tf.constant([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]))
        >>> integers.numpy().tolist()
        [[127.0, -64.0, 0.0], [0.0, 0.0, 0.0]]
    """
    largest = tf.reduce_max(tf.abs(x), axis=1, keepdims=True)  # [R, 1]
    scales = tf.maximum(largest, _SMALLEST) / MAX_INT8
    return tf.round(x / scales), scales


def int8_matmul(x: tf.Tensor, matrix: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """Multiplies rows with a quantised matrix.

    A single row is multiplied as it is. Two rows and more are quantised first, unless the function
    is traced in `one_row.any_number_alike`, where a single row is quantised, too.

    Args:
        x: Float `[R, in]`.
        matrix: Integers `[out, in]`: int8, or float32 (see `Int8Matrix.store_as_float32`).
        scales: float32 `[out]`.

    Returns:
        float32 `[R, out]`.

    Raises:
        LookupError: A gradient through it is requested.

    Example:
        >>> x, matrix = tf.constant([[1.0, 0.5]]), tf.constant([[2, 2], [0, -127]], tf.int8)
        >>> int8_matmul(x, matrix, tf.constant([0.5, 1.0])).numpy().round(2).tolist()
        [[1.5, -63.5]]
    """
    x = tf.raw_ops.PreventGradient(input=tf.cast(x, tf.float32), message=_NO_GRADIENT)
    alike = rows_are_alike()
    if is_xla_traced() and matrix.dtype == tf.int8:
        return _compiled_matmul(x, matrix, alike) * scales  # [R, out]
    # TensorFlow's own int8 kernel takes twice as long. float32 is exact for integers up to 2^24,
    # so sums over 1040 inputs are never rounded and longer ones hardly ever.
    wide = tf.cast(matrix, tf.float32)

    def quantised() -> tf.Tensor:
        integers, row_scales = quantize_rows(x)
        return tf.matmul(integers, wide, transpose_b=True) * row_scales

    def as_it_is(row: tf.Tensor) -> tf.Tensor:
        return tf.matmul(row, wide, transpose_b=True)

    return (quantised() if alike else by_row_count(x, as_it_is, quantised)) * scales


def _compiled_matmul(x: tf.Tensor, matrix: tf.Tensor, alike: bool) -> tf.Tensor:
    """float32 `[R, in]` times int8 `[out, in]` -> float32 `[R, out]`, under XLA, unscaled."""

    def quantised() -> tf.Tensor:
        integers, row_scales = quantize_rows(x)
        rows = tf.shape(x)[0]
        # XLA's program for one row is slower than that for two.
        padded = tf.pad(tf.cast(integers, tf.int8), [[0, tf.maximum(2 - rows, 0)], [0, 0]])
        sums = tf.matmul(padded, matrix, transpose_b=True, output_type=tf.int32)
        return tf.cast(sums[:rows], tf.float32) * row_scales

    def as_it_is(row: tf.Tensor) -> tf.Tensor:
        return multiply_one_row(row, matrix)

    return quantised() if alike else by_row_count(x, as_it_is, quantised)


class Int8Matrix:
    """Mixin of layers whose float `weight` can be stored as int8 instead.

    The layer implements `matrix_shape` and `float_matrix`, and checks `is_int8` where it creates
    and where it uses the weight.
    """

    is_int8 = False
    weight: keras.Variable | None
    weight_int8: keras.Variable | tf.Variable  # integers [out, in]
    weight_scale: keras.Variable  # float32 [out]
    add_parameter: Callable[..., keras.Variable]
    remove_parameter: Callable[[str], None]

    def matrix_shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs."""
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
        """Assigns the quantised values of float32 `[out, in]`."""
        # A few rows at a time: TensorFlow keeps the memory of the largest tensors it ever made.
        parts = [
            quantize_rows(matrix[first : first + _ROWS])
            for first in range(0, matrix.shape[0], _ROWS)
        ]
        integers, scales = zip(*parts, strict=True)
        self.weight_int8.assign(tf.concat([tf.cast(part, tf.int8) for part in integers], axis=0))
        self.weight_scale.assign(tf.concat(scales, axis=0)[:, 0])

    def to_int8(self) -> None:
        """Replaces the float weight of a built layer by an int8 matrix."""
        matrix = self.float_matrix()
        self.remove_parameter("weight")
        self._tracker.unlock()
        self.is_int8 = True
        self.add_int8()
        self._tracker.lock()
        self.fill_int8(matrix)

    def store_as_float32(self) -> tf.Variable:
        """Moves the integers into a float32 variable, and returns it.

        The results stay the same, and programs without XLA need not cast the matrix in each step.
        """
        variable = tf.Variable(tf.cast(self.weight_int8.value, tf.float32), trainable=False)
        self.remove_parameter("weight_int8")
        self.weight_int8 = variable
        return variable

    def multiply(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[R, in]` -> float32 `[R, out]`, without a bias."""
        return int8_matmul(x, tf.convert_to_tensor(self.weight_int8), self.weight_scale)

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Int `[...]` -> float32 rows `[..., in]`."""
        rows = tf.cast(tf.gather(tf.convert_to_tensor(self.weight_int8), ids), tf.float32)
        return rows * tf.gather(self.weight_scale, ids)[..., None]  # [..., in]

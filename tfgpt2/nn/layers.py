"""Basic Keras layers, whose weights have the checkpoint's names and shapes; dropout."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tfgpt2.nn.int8 import Int8Matrix
from tfgpt2.nn.one_row import is_in_branch, is_xla_traced
from tfgpt2.nn.shapes import leading
from tfgpt2.nn.sixteen_bits import gather_rows, multiply_16_bits, reads_16_bits, widen_for

_PARTS = (8, 4, 2)  # numbers of parts of a kernel; see `Conv1D._multiply_in_parts`

_reader: contextvars.ContextVar[Callable[..., tf.Tensor | None] | None] = contextvars.ContextVar(
    "initial weights", default=None
)


@contextlib.contextmanager
def initial_weights(
    read: Callable[[str, tuple[int, ...], str], tf.Tensor | None],
) -> Iterator[None]:
    """Context in which new weights are initialised with the values that `read` returns.

    Loading a checkpoint then neither initialises weights that are about to be overwritten nor
    holds two copies of them.

    Args:
        read: From a weight's path (`".../transformer/h_0/attn/c_attn/weight"`), its shape and
            dtype to its value; None for a fresh initialisation. The weight takes the shape of
            the value, so `read` may return an empty one where the checkpoint does not fit.
    """
    token = _reader.set(read)
    try:
        yield
    finally:
        _reader.reset(token)


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """Derives an independent seed: int32 `[2]` and a number -> int32 `[2]`."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None, place: int) -> tf.Tensor:
    """Applies inverted dropout.

    It is a function of the seed, so a block that gradient checkpointing recomputes drops the same
    elements.

    Args:
        x: Float, any shape.
        rate: Share to drop, in [0, 1).
        seed: int32 `[2]`; None drops nothing.
        place: Number of the dropout in its block; different numbers drop independently.

    Source: Srivastava et al. 2014, with the scaling in training.
    """
    if seed is None or not rate:
        return x
    kept, scale = dropout_mask(tf.shape(x), rate, fold_in(seed, place))
    return tf.where(kept, x * tf.cast(scale, x.dtype), tf.zeros([], x.dtype))


def dropout_mask(shape: tf.Tensor, rate: float, seed: tf.Tensor) -> tuple[tf.Tensor, float]:
    """Draws which elements dropout keeps.

    An element takes 16 random bits, since drawing them is most of the cost of dropout. So the
    rate is rounded to a multiple of 1/65,536, and the scale is exact for the rounded rate.

    Args:
        shape: int32 `[n]`.
        rate: Share to drop, in [0, 1).
        seed: int32 `[2]`.

    Returns:
        The mask of kept elements, bool of that shape, and the scale of these elements.
    """
    dropped = min(round(rate * 65_536), 65_535)  # of the values that 16 bits can have
    size = tf.reduce_prod(tf.cast(shape, tf.int64))  # int32 would overflow on a large device
    bits = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.uint32)
    bits = tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:size]
    kept = tf.reshape(bits >= tf.constant(dropped, tf.uint16), shape)
    return kept, 65_536 / (65_536 - dropped)


def nan_outside(x: tf.Tensor, ids: tf.Tensor, limit: int | tf.Tensor) -> tf.Tensor:
    """Replaces vectors that were looked up by an index that is out of range by NaN.

    XLA reads such an index as the nearest one, and a GPU as a row of zeros, so the result would
    look right. TensorFlow's own kernels on a CPU raise an error.

    Args:
        x: Float `[..., W]`.
        ids: int `[...]`, or broadcastable to it.
        limit: Number of indices.

    Returns:
        Float `[..., W]`; unchanged in eager mode, where ids are checked before.
    """
    if tf.executing_eagerly():
        return x
    known = (ids >= 0) & (ids < tf.cast(limit, ids.dtype))
    return tf.where(known[..., None], x, tf.constant(float("nan"), x.dtype))


def nan_where(x: tf.Tensor, wrong: tf.Tensor) -> tf.Tensor:
    """Replaces rows by NaN.

    Args:
        x: Float `[B, ...]`, or a scalar, which is NaN if any row is wrong.
        wrong: bool `[B]`, with any number of leading axes.
    """
    more = x.shape.rank - wrong.shape.rank
    if more < 0:
        wrong = tf.reduce_any(wrong)
    for _ in range(more):
        wrong = wrong[..., None]
    return tf.where(wrong, tf.constant(float("nan"), x.dtype), x)


class GPT2Layer(keras.layers.Layer):
    """A layer whose weights can be initialised from a checkpoint."""

    def add_parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | keras.Initializer,
        *,
        autocast: bool = True,
        trainable: bool = True,
        dtype: str | None = None,
    ) -> keras.Variable:
        """Creates a weight, by default of the policy's dtype; see `initial_weights`."""
        read, dtype = _reader.get(), dtype or self.variable_dtype
        value = read(f"{self.path}/{name}", shape, dtype) if read else None
        if value is not None:
            shape = value.shape.as_list()

            def initializer(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
                return value

        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            autocast=autocast,
            trainable=trainable,
        )

    def remove_parameter(self, name: str) -> None:
        """Removes a weight, which frees its memory; the attribute becomes None.

        TensorFlow's list of what a checkpoint holds keeps a weight until its attribute is deleted.
        """
        self._untrack_variable(getattr(self, name))
        # Not `delattr`, which in Keras ends with a full garbage collection for each weight.
        super(keras.Layer, self).__delattr__(name)
        setattr(self, name, None)


class Conv1D(Int8Matrix, GPT2Layer):
    """An affine map of the last axis, with the kernel stored `[in, out]` as in OpenAI's code.

    The kernel is float, with or without a low-rank adapter (`tfgpt2.nn.lora`), or int8
    (`tfgpt2.nn.int8`).

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        stddev: Standard deviation of the fresh kernel.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, inputs: int, outputs: int, *, stddev: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.stddev = inputs, outputs, stddev
        self.lora_kernel_a = self.lora_kernel_b = self.lora_scale = None
        self.lora_dropout, self.lora_place = 0.0, 0

    def build(self, input_shape: object = None) -> None:
        """Creates `weight` `[in, out]` and `bias` `[out]`."""
        if self.is_int8:
            self.add_int8()
        else:
            normal = keras.initializers.RandomNormal(stddev=self.stddev)
            # Not cast by Keras, so that one row can be multiplied with what is stored.
            self.weight = self.add_parameter(
                "weight", (self.inputs, self.outputs), normal, autocast=False
            )
        self.bias = self.add_parameter("bias", (self.outputs,), "zeros")

    def call(self, x: tf.Tensor, *, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Float `[..., in]` -> `[..., out]`; `seed` is for an adapter's dropout, None without."""
        # One product of rank 2, which has the fastest kernels on every device.
        flat = tf.reshape(x, [-1, self.inputs])  # [B * T, in]
        tokens = x.shape[-2]
        if tokens == 1 and is_xla_traced():
            output = self.project_single(flat)  # [B * T, out]
        elif tokens is None and not self.is_int8:  # a prompt: in loops it is a known number
            output = self.project_prompt(flat)  # [B * T, out]
        else:
            output = self.project(flat)  # [B * T, out]
        if self.lora_kernel_a is not None:
            output += self._adapt(flat, seed)
        return tf.reshape(output, leading(x, len(x.shape) - 1, self.outputs))  # [..., out]

    def project(self, flat: tf.Tensor) -> tf.Tensor:
        """Float `[R, in]` -> `[R, out]`, without an adapter."""
        if self.is_int8:
            output = self.multiply(flat) + tf.cast(self.bias, tf.float32)  # [R, out]
            return tf.cast(output, flat.dtype)
        kernel = tf.cast(self.weight, flat.dtype)
        return tf.nn.bias_add(tf.matmul(flat, kernel), self.bias)

    def project_prompt(self, flat: tf.Tensor) -> tf.Tensor:
        """`project` of a float kernel outside of loops."""
        kernel = widen_for(flat, tf.convert_to_tensor(self.weight))
        return tf.nn.bias_add(tf.matmul(flat, kernel), self.bias)

    def project_single(self, flat: tf.Tensor) -> tf.Tensor:
        """`project` for a decode step with one token per row."""
        if self.is_int8:
            return self.project(flat)
        if reads_16_bits(self.weight) and not is_in_branch():
            stored = tf.convert_to_tensor(self.weight)  # [in, out]
            output = multiply_16_bits(flat, stored, transpose=False)
        else:
            output = self._multiply_in_parts(flat)
        output = tf.ensure_shape(output, [flat.shape[0], self.outputs])
        return tf.nn.bias_add(output, self.bias)

    def _multiply_in_parts(self, flat: tf.Tensor) -> tf.Tensor:
        """Float `[R, in]` -> `[R, out]`; one row as a sum of products over parts of the inputs.

        XLA runs the product of one row and a matrix on a single core. In parts it is a batch, which
        all cores share, and the kernel's memory layout already has that shape.
        """
        kernel = tf.cast(self.weight, flat.dtype)
        most = next((n for n in _PARTS if self.inputs % n == 0), 1)
        if most == 1:
            return tf.matmul(flat, kernel)
        # Known when XLA compiles; several rows are fast in one part.
        width = tf.where(tf.shape(flat)[0] == 1, self.inputs // most, self.inputs)
        # With one row or one part, the reshape keeps the order in memory.
        x = tf.reshape(flat, [self.inputs // width, -1, width])  # [parts, R, in / parts]
        kernel = tf.reshape(kernel, tf.stack([-1, width, self.outputs]))
        return tf.reduce_sum(tf.matmul(x, kernel), axis=0)  # [R, out]

    def matrix_shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs."""
        return self.outputs, self.inputs

    def float_matrix(self) -> tf.Tensor:
        """The kernel as float32 `[out, in]`."""
        return tf.transpose(tf.cast(self.weight.value, tf.float32))  # [out, in]

    def _adapt(self, flat: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """The adapter's low-rank product: float `[R, in]` -> `[R, out]`.

        Source: Hu et al. 2021, equation 3.
        """
        flat = dropout(flat, self.lora_dropout, seed, self.lora_place)
        # The factors are float32 under every policy, and Keras casts them under mixed ones only.
        a, b = (tf.cast(factor, flat.dtype) for factor in (self.lora_kernel_a, self.lora_kernel_b))
        return tf.matmul(tf.matmul(flat, a) * tf.cast(self.lora_scale, flat.dtype), b)


class Linear(GPT2Layer):
    """An affine map of the last axis, with the kernel stored `[out, in]` as in PyTorch.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        stddev: Standard deviation of the fresh kernel.
        use_bias: Whether a bias is added.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stddev: float, use_bias: bool = True, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.inputs, self.outputs, self.stddev, self.use_bias = inputs, outputs, stddev, use_bias

    def build(self, input_shape: object = None) -> None:
        """Creates `weight` `[out, in]` and `bias` `[out]`."""
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.weight = self.add_parameter("weight", (self.outputs, self.inputs), normal)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_parameter("bias", (self.outputs,), "zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[..., in]` -> `[..., out]`."""
        flat = tf.reshape(x, [-1, self.inputs])
        flat = tf.matmul(flat, self.weight, transpose_b=True)
        if self.bias is not None:
            flat = tf.nn.bias_add(flat, self.bias)
        return tf.reshape(flat, leading(x, len(x.shape) - 1, self.outputs))  # [..., out]


class LayerNorm(GPT2Layer):
    """Layer normalisation of the last axis, computed in float32.

    Args:
        width: Size of the last axis.
        epsilon: Added to the variance.
        **kwargs: Passed to `keras.layers.Layer`.

    Source: Ba et al. 2016, equation 4.
    """

    def __init__(self, width: int, *, epsilon: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.width, self.epsilon = width, epsilon

    def build(self, input_shape: object = None) -> None:
        """Creates `weight` and `bias`, both `[width]`."""
        self.weight = self.add_parameter("weight", (self.width,), "ones")
        self.bias = self.add_parameter("bias", (self.width,), "zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[..., width]` -> the same shape and dtype."""
        wide = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(wide, axis=-1, keepdims=True)
        centred = wide - mean
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normal = centred * tf.math.rsqrt(variance + self.epsilon)
        weight, bias = tf.cast(self.weight, tf.float32), tf.cast(self.bias, tf.float32)
        return tf.cast(normal * weight + bias, x.dtype)


class Embedding(Int8Matrix, GPT2Layer):
    """A table of vectors, which can also serve as a tied output matrix.

    Args:
        count: Number of rows.
        width: Width of a row.
        stddev: Standard deviation of fresh rows.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, count: int, width: int, *, stddev: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.count, self.width, self.stddev = count, width, stddev

    def build(self, input_shape: object = None) -> None:
        """Creates `weight` `[count, width]`."""
        if self.is_int8:
            self.add_int8()
            return
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        # Not cast by Keras, which would cast the whole table to look up a few rows.
        self.weight = self.add_parameter("weight", (self.count, self.width), normal, autocast=False)

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Int `[...]` in `[0, count)` -> float `[..., width]`."""
        if self.is_int8:
            rows = self.lookup(ids)
        else:
            rows = gather_rows(tf.convert_to_tensor(self.weight), ids)
        return tf.cast(rows, self.compute_dtype)  # [..., width]

    def score(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[B, T, width]` -> float32 `[B, T, count]`, the dot products with all rows."""
        flat = tf.reshape(x, [-1, self.width])  # [B * T, width]
        if self.is_int8:
            scores = self.multiply(flat)  # [B * T, count]
        else:
            scores = tf.cast(self._products(flat, x.shape[-2] == 1), tf.float32)
        return tf.reshape(scores, leading(x, len(x.shape) - 1, self.count))

    def _products(self, flat: tf.Tensor, single: bool) -> tf.Tensor:
        """Float `[R, width]` -> `[R, count]`; `single` is for one token per row."""
        stored = tf.convert_to_tensor(self.weight)  # [count, width]
        if single and reads_16_bits(stored):
            return multiply_16_bits(flat, stored, transpose=True)
        return tf.matmul(flat, tf.cast(stored, flat.dtype), transpose_b=True)

    def matrix_shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.count, self.width

    def float_matrix(self) -> tf.Tensor:
        """The table as float32 `[count, width]`."""
        return tf.cast(self.weight.value, tf.float32)

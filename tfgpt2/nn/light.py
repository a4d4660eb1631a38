"""Layers whose matrix is stored in 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from tfgpt2.nn.half import from_bits, half_matmul, to_bits
from tfgpt2.nn.int8 import int8_lookup, int8_matmul, quantize_rows

Tensors = tuple[tf.Tensor, ...]


class Storage(NamedTuple):
    """A way to store a matrix.

    Attributes:
        variables: Name, dtype and initializer of the matrix `[out, in]`, and of vectors `[out]`.
        store: From float32 `[out, in]` to the values of the variables.
        multiply: From float `[R, in]` and the variables to float32 `[R, out]`.
        lookup: From int `[...]` and the variables to float32 rows `[..., in]`.
    """

    variables: tuple[tuple[str, str, str], ...]
    store: Callable[[tf.Tensor], Tensors]
    multiply: Callable[..., tf.Tensor]
    lookup: Callable[..., tf.Tensor]


def _store_int8(matrix: tf.Tensor) -> Tensors:
    """float32 `[out, in]` -> int8 `[out, in]`, float32 `[out]`."""
    integers, scales = quantize_rows(matrix)
    return tf.cast(integers, tf.int8), scales[:, 0]


def _half(dtype: tf.DType) -> Storage:
    """The storage in a float of 16 bits."""
    return Storage(
        (("weight_bits", "uint16", "zeros"),),
        lambda matrix: (to_bits(matrix, dtype),),
        lambda x, bits: half_matmul(x, bits, dtype),
        lambda ids, bits: from_bits(tf.gather(bits, ids), dtype),
    )


STORAGES = {
    "int8": Storage(
        (("weight_int8", "int8", "zeros"), ("weight_scale", "float32", "ones")),
        _store_int8,
        int8_matmul,
        int8_lookup,
    ),
    "bfloat16": _half(tf.bfloat16),
    "float16": _half(tf.float16),
}


class LightMatrix:
    """Mixin of layers whose float32 `weight` can be stored in fewer bits instead.

    The layer implements `matrix_shape` and `float_matrix`, and checks `storage` where it creates
    and where it uses the weight.
    """

    storage: str | None = None  # a key of `STORAGES`
    weight: keras.Variable | None
    weight_int8: keras.Variable | tf.Variable  # integers [out, in]
    weight_scale: keras.Variable  # float32 [out]
    weight_bits: keras.Variable  # uint16 [out, in]
    add_parameter: Callable[..., keras.Variable]

    def matrix_shape(self) -> tuple[int, int]:
        """Number of outputs and of inputs."""
        raise NotImplementedError

    def float_matrix(self) -> tf.Tensor:
        """The float weight as float32 `[out, in]`."""
        raise NotImplementedError

    def add_light(self) -> None:
        """Creates the variables, of zeros unless a checkpoint is being loaded."""
        self.weight, shape = None, self.matrix_shape()
        for number, (name, dtype, initializer) in enumerate(STORAGES[self.storage].variables):
            options = {"dtype": dtype, "autocast": False, "trainable": False}
            size = shape if number == 0 else shape[:1]
            setattr(self, name, self.add_parameter(name, size, initializer, **options))

    def fill_light(self, matrix: tf.Tensor) -> None:
        """Assigns float32 `[out, in]`, rounded."""
        storage = STORAGES[self.storage]
        for (name, _, _), value in zip(storage.variables, storage.store(matrix), strict=True):
            getattr(self, name).assign(value)

    def to_light(self, storage: str) -> None:
        """Replaces the float weight of a built layer by a lighter one."""
        old, matrix = self.weight, self.float_matrix()
        self._untrack_variable(old)
        self._tracker.unlock()
        self.storage = storage
        self.add_light()
        self._tracker.lock()
        self.fill_light(matrix)

    def store_as_float32(self) -> tf.Variable:
        """Moves the integers of int8 into a float32 variable, and returns it.

        The results stay the same, and programs without XLA need not cast the matrix in each step.
        """
        variable = tf.Variable(tf.cast(self.weight_int8.value, tf.float32), trainable=False)
        self._untrack_variable(self.weight_int8)
        self.weight_int8 = variable
        return variable

    def multiply(self, x: tf.Tensor) -> tf.Tensor:
        """Float `[R, in]` -> float32 `[R, out]`, without a bias."""
        return STORAGES[self.storage].multiply(x, *self._stored())

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Int `[...]` -> float32 rows `[..., in]`."""
        return STORAGES[self.storage].lookup(ids, *self._stored())

    def _stored(self) -> Tensors:
        """The variables' values."""
        names = (name for name, _, _ in STORAGES[self.storage].variables)
        return tuple(tf.convert_to_tensor(getattr(self, name)) for name in names)

"""Where a block's new keys and values go: behind those of a past, or into the cache.

Both are arguments that `tf.function` takes apart and Keras does not: Keras would cast their tensors
to the dtype that the layer computes in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfgpt2.nn.kv_cache import write, write_rows

# Appends new keys and values [B, N, T, H] to those of the past; returns all of them [B, N, S, H].
AppendKV = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class ConcatenateKV:
    """Appends one block's new keys and values to those of a past, which has any length.

    Attributes:
        keys: Float `[B, N, P, H]`.
        values: Float `[B, N, P, H]`.
    """

    keys: tf.Tensor
    values: tf.Tensor

    def __call__(self, key: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """New keys and values `[B, N, T, H]` -> all of them `[B, N, P + T, H]`."""
        return (
            tf.concat([tf.cast(self.keys, key.dtype), key], axis=2),
            tf.concat([tf.cast(self.values, value.dtype), value], axis=2),
        )

    def __tf_flatten__(self) -> tuple[tuple[()], tuple[tf.Tensor, ...]]:
        return (), (self.keys, self.values)

    @classmethod
    def __tf_unflatten__(cls, fixed: tuple[()], tensors: tuple[tf.Tensor, ...]) -> ConcatenateKV:
        return cls(*tensors, *fixed)


@dataclasses.dataclass(frozen=True)
class WriteKV:
    """Writes one block's new keys and values into the cache's next columns.

    Attributes:
        keys: Packed, `[B, N, S, H]`.
        values: Packed, `[B, N, S, H]`.
        column: As in `kv_cache.KVCache`.
        in_place: See `kv_cache.write`.
    """

    keys: tf.Tensor
    values: tf.Tensor
    column: tf.Tensor
    in_place: bool

    def __call__(self, key: tf.Tensor, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """New keys and values `[B, N, T, H]` -> the buffers `[B, N, S, H]`."""
        if self.column.shape.rank == 1:
            buffers = self.keys, self.values
            return write_rows(buffers, (key, value), self.column, in_place=self.in_place)
        return (
            write(self.keys, key, self.column, in_place=self.in_place),
            write(self.values, value, self.column, in_place=self.in_place),
        )

    def __tf_flatten__(self) -> tuple[tuple[bool], tuple[tf.Tensor, ...]]:
        return (self.in_place,), (self.keys, self.values, self.column)

    @classmethod
    def __tf_unflatten__(cls, fixed: tuple[bool], tensors: tuple[tf.Tensor, ...]) -> WriteKV:
        return cls(*tensors, *fixed)

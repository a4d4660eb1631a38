"""GPT-2 as operations that LiteRT has: static shapes, a cache that comes in and goes out.

    kv_cache_*  ->  write the new columns  ->  attend to all, masked by addition  ->  kv_cache_*

The functions of `tfgpt2.nn` compute the same numbers; they use operations for XLA that do not
convert, and shapes that are known when a program runs. Matrices are float32 `[out, in]`, which is
what LiteRT's fully connected layers read; the converter makes them smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from tfgpt2.nn import activations

Cache = Mapping[str, tf.Tensor]
# Runtimes mask with numbers of their own: LiteRT-LM with -2.4e38, and with -45824 in float16.
_SEEN = -1.0


class LiteRTGraph(tf.Module):
    """The weights of a model, and its graphs for LiteRT.

    A `tf.Module` that owns variables: the converter finds no others.

    Args:
        model: A language model, or a model with a task head, which is not part of this graph.
        context: `S`, columns of the largest cache, at most `n_positions`.
        int8: Whether the token table is looked up in int8. (The converter would keep one scale for
            the whole table, and widen it when the file is loaded.)
    """

    def __init__(self, model: Any, context: int, *, int8: bool = False) -> None:
        super().__init__()
        body, self.config = model.transformer, model.config
        self.context = context
        self.table = variable(body.wte.float_matrix())  # [V, D]
        self.positions = variable(body.wpe.float_matrix()[:context])  # [S, D]
        head = model.get_output_embeddings()
        tied = head is None or head is body.wte
        self.head = self.table if tied else variable(head.float_matrix())  # [V, D]
        self.int8 = int8
        if int8:
            table = self.table.numpy()
            scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-30)  # [V, 1]
            self.table_scale = variable(scale)
            self.table_int8 = tf.Variable(np.rint(table / scale).astype(np.int8), trainable=False)
        self.blocks = [_Block(block, self.config) for block in body.h]
        self.ln_f = _LayerNorm(body.ln_f)

    def run(
        self, tokens: tf.Tensor, input_pos: tf.Tensor, mask: tf.Tensor, cache: Cache
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Reads tokens into the cache.

        Args:
            tokens: int32 `[B, T]`.
            input_pos: int32 `[T]`, the columns they are written to, one after the other.
            mask: float32 `[B, 1, T, S]`, 0 at the columns that a token sees, its own included, and
                `MASKED`, or another large negative number, at the others. A token's position is the
                number of columns it sees before its own.
            cache: float32 `[B, N, S, H]` each, see `Contract.cache_shapes`.

        Returns:
            The last hidden states `[B * T, D]`, and the new cache.
        """
        rows, length = tokens.shape
        seen = tf.reduce_sum(tf.cast(mask > _SEEN, tf.float32), axis=-1)  # [B, 1, T]
        position = tf.clip_by_value(tf.cast(seen, tf.int32) - 1, 0, self.context - 1)
        position = tf.reshape(position, [rows * length])
        x = self.embed(tf.reshape(tokens, [rows * length]))  # [B * T, D]
        x += tf.gather(self.positions, position)
        after = {}
        for i, block in enumerate(self.blocks):
            names = f"kv_cache_k_{i}", f"kv_cache_v_{i}"
            past = tuple(cache[name] for name in names)
            x, present = block.run(x, past, input_pos[:1], mask)
            after |= dict(zip(names, present, strict=True))
        return self.ln_f.run(x), after

    def embed(self, tokens: tf.Tensor) -> tf.Tensor:
        """int32 `[R]` -> float32 `[R, D]`."""
        if not self.int8:
            return tf.gather(self.table, tokens)
        rows = tf.cast(tf.gather(self.table_int8, tokens), tf.float32)
        return rows * tf.gather(self.table_scale, tokens)

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Hidden states `[R, D]` -> logits `[R, V]`."""
        return tf.matmul(hidden, self.head, transpose_b=True)


class _Block(tf.Module):
    """The weights of one block."""

    def __init__(self, block: Any, config: Any) -> None:
        super().__init__()
        attention = block.attn
        self.heads, self.size, self.scale = attention.heads, config.head_size, attention.scale
        self.ln_1, self.ln_2 = _LayerNorm(block.ln_1), _LayerNorm(block.ln_2)
        self.c_attn, self.c_proj = _Linear(attention.c_attn), _Linear(attention.c_proj)
        self.c_fc, self.mlp_proj = _Linear(block.mlp.c_fc), _Linear(block.mlp.c_proj)
        self.act = activations.get(config.activation_function)

    def run(
        self, x: tf.Tensor, past: tuple[tf.Tensor, tf.Tensor], column: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        """Hidden states `[B * T, D]`, keys and values, first column `[1]` -> after the block."""
        rows, length = mask.shape[0], mask.shape[2]
        parts = tf.split(self.c_attn.run(self.ln_1.run(x)), 3, axis=-1)  # 3 x [B * T, N * H]
        query, *new = (self._split(part, rows, length) for part in parts)  # [B, N, T, H]
        # LiteRT's GPU delegates take no slice that drops an axis, hence no scalar here.
        place = tf.concat([[0, 0], column, [0]], axis=0)
        keys, values = (
            xla.dynamic_update_slice(old, one, place) for old, one in zip(past, new, strict=True)
        )  # [B, N, S, H]
        scores = tf.matmul(query * self.scale, keys, transpose_b=True) + mask  # [B, N, T, S]
        context = tf.matmul(tf.nn.softmax(scores), values)  # [B, N, T, H]
        x += self.c_proj.run(self._merge(context, rows, length))
        x += self.mlp_proj.run(self.act(self.c_fc.run(self.ln_2.run(x))))
        return x, (keys, values)

    def _split(self, x: tf.Tensor, rows: int, length: int) -> tf.Tensor:
        """`[B * T, N * H]` -> `[B, N, T, H]`; one token per row needs no transpose."""
        if length == 1:
            return tf.reshape(x, [rows, self.heads, 1, self.size])
        return tf.transpose(tf.reshape(x, [rows, length, self.heads, self.size]), [0, 2, 1, 3])

    def _merge(self, x: tf.Tensor, rows: int, length: int) -> tf.Tensor:
        """`[B, N, T, H]` -> `[B * T, N * H]`."""
        x = x if length == 1 else tf.transpose(x, [0, 2, 1, 3])  # [B, T, N, H]
        return tf.reshape(x, [rows * length, self.heads * self.size])


class _Linear(tf.Module):
    """An affine map with its matrix `[out, in]`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = variable(layer.float_matrix()), variable(layer.bias)

    def run(self, x: tf.Tensor) -> tf.Tensor:
        """`[R, in]` -> `[R, out]`."""
        return tf.nn.bias_add(tf.matmul(x, self.weight, transpose_b=True), self.bias)


class _LayerNorm(tf.Module):
    """A layer normalisation of the last axis."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias = variable(layer.weight), variable(layer.bias)
        self.epsilon = layer.epsilon

    def run(self, x: tf.Tensor) -> tf.Tensor:
        """`[R, D]` -> `[R, D]`."""
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.math.rsqrt(variance + self.epsilon) * self.weight + self.bias


def variable(value: Any) -> tf.Variable:
    """A float32 copy of a weight."""
    return tf.Variable(tf.cast(tf.convert_to_tensor(value), tf.float32), trainable=False)

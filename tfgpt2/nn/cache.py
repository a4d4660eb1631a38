"""The key/value memory of decoding: fixed columns, written left to right.

A cache column is not a position. All rows write into the same column at the same time, so one
slice update serves the batch; which columns a row really has, and which position its next token
takes, are per-row data (`valid`, `positions`). Prompts are pushed against the right edge of
their columns, so the last prompt token of every row stands in the same place:

    prompt of row 0   .  .  a  b  c | d  e          columns 0-4 prompt, 5-6 generated
    prompt of row 1   .  a  b  c  d | e  f          "." is a column that `valid` hides
    positions         row 0: a=0 ... e=4            row 1: a=0 ... f=5
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla


class Encoder(NamedTuple):
    """An encoder's output, for models with cross-attention.

    Attributes:
        states: Float `[B, E, D]`.
        visible: bool `[B, E]`, where it may be seen.
    """

    states: tf.Tensor
    visible: tf.Tensor


class EncoderMemory(NamedTuple):
    """What cross-attention remembers of an encoder's output.

    Attributes:
        keys: `L` float tensors `[B, N, E, H]`.
        values: `L` float tensors `[B, N, E, H]`.
        visible: bool `[B, E]`, where it may be seen.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    visible: tf.Tensor


class KVCache(NamedTuple):
    """What decoding remembers.

    Attributes:
        keys: `L` float tensors `[B, N, S, H]`.
        values: `L` float tensors `[B, N, S, H]`.
        valid: bool `[B, S]`, the columns that hold a token of that row.
        column: int32 `[]`, where the next token is written.
        positions: int32 `[B]`, the position of each row's next token.
        encoder: What cross-attention looks at; an empty tuple for nothing.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    valid: tf.Tensor
    column: tf.Tensor
    positions: tf.Tensor
    encoder: EncoderMemory | tuple[()] = ()


class Prefix(NamedTuple):
    """A text that was read once and that other texts continue; tensors have 1 or `B` rows.

    Attributes:
        keys: `L` float tensors `[B, N, S, H]`.
        values: `L` float tensors `[B, N, S, H]`.
        valid: bool `[B, S]`, the columns that hold a token of that row.
        ids: int32 `[B, S]`, the tokens, for what looks back at them; 0 where there is none.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    valid: tf.Tensor
    ids: tf.Tensor


def positions_from_mask(mask: tf.Tensor) -> tf.Tensor:
    """Numbers the real tokens of each row from 0; padding gets 0.

    Args:
        mask: int or bool `[B, T]`, 1 where there is a token.

    Returns:
        int32 `[B, T]`.

    Example:
        >>> positions_from_mask(tf.constant([[0, 1, 1], [1, 1, 0]])).numpy().tolist()
        [[0, 0, 1], [0, 1, 0]]
    """
    mask = tf.cast(mask, tf.int32)
    return tf.maximum(tf.cumsum(mask, axis=1) - 1, 0) * mask


def align_right(ids: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves each row's real tokens against the right edge, in their order.

    Afterwards the last real token of every row is in the last column, whatever side the input
    was padded on and wherever its mask had holes.

    Args:
        ids: int32 `[B, P]`.
        mask: int32 `[B, P]`, 1 where there is a token.

    Returns:
        Ids `[B, P]` (0 in the padding) and mask `[B, P]`.

    Example:
        >>> ids, mask = align_right(tf.constant([[5, 6, 0]]), tf.constant([[1, 1, 0]]))
        >>> ids.numpy().tolist(), mask.numpy().tolist()
        ([[0, 5, 6]], [[0, 1, 1]])
    """
    order = tf.argsort(mask, axis=1, stable=True)  # [B, P], the padding first
    mask = tf.gather(mask, order, batch_dims=1)  # [B, P]
    return tf.gather(ids, order, batch_dims=1) * mask, mask


def spread(prefix: Prefix, rows: tf.Tensor, dtype: str) -> Prefix:
    """Gives each of `rows` rows (int32 `[]`) the prefix, with keys and values of a type."""

    def each(x: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(x, tf.concat([[rows], tf.shape(x)[1:]], axis=0))

    return Prefix(
        keys=tuple(each(tf.cast(x, dtype)) for x in prefix.keys),
        values=tuple(each(tf.cast(x, dtype)) for x in prefix.values),
        valid=each(prefix.valid),
        ids=each(prefix.ids),
    )


def with_room(cache: KVCache, more: tf.Tensor) -> KVCache:
    """Adds empty columns, int32 `[]` of them, behind those that there are."""
    room = tf.convert_to_tensor([[0, 0], [0, 0], [0, more], [0, 0]])

    def longer(memory: tf.Tensor) -> tf.Tensor:
        return tf.pad(memory, room)  # [B, N, S, H]

    return cache._replace(
        keys=tuple(map(longer, cache.keys)),
        values=tuple(map(longer, cache.values)),
        valid=tf.pad(cache.valid, [[0, 0], [0, more]]),  # [B, S]
    )


def rollback(cache: KVCache, before: KVCache, kept: tf.Tensor) -> KVCache:
    """Keeps just the first tokens that were read after an earlier state.

    Rows keep different numbers of them, so some columns stay behind as holes that nobody sees;
    those that no row keeps are written again.

    Args:
        cache: The cache now.
        before: The cache then.
        kept: int32 `[B]`, how many tokens of each row stay.
    """
    offset = tf.range(tf.shape(cache.valid)[1]) - before.column  # [S]
    dropped = (offset >= 0)[None] & (offset[None] >= kept[:, None])  # [B, S]
    return cache._replace(
        valid=cache.valid & ~dropped,
        column=before.column + tf.reduce_max(kept),
        positions=before.positions + kept,
    )


def compact(cache: KVCache) -> KVCache:
    """Closes the holes: each row's tokens move to its first columns, in their order."""
    hole = tf.cast(~cache.valid, tf.int32)
    order = tf.argsort(hole, axis=1, stable=True)  # [B, S]
    count = tf.reduce_sum(1 - hole, axis=1)  # [B]

    def move(memory: tf.Tensor) -> tf.Tensor:
        moved = tf.gather(memory, order, axis=2, batch_dims=1)  # [B, N, S, H]
        return tf.ensure_shape(moved, memory.shape)

    return cache._replace(
        keys=tuple(map(move, cache.keys)),
        values=tuple(map(move, cache.values)),
        valid=tf.range(tf.shape(cache.valid)[1])[None] < count[:, None],  # [B, S]
        column=tf.reduce_max(count),
    )


def write(memory: tf.Tensor, new: tf.Tensor, column: tf.Tensor, *, in_place: bool) -> tf.Tensor:
    """Overwrites `T` columns of one layer's keys or values.

    Args:
        memory: Float `[B, N, S, H]`.
        new: Float `[B, N, T, H]`.
        column: int32 `[]`, the first column to overwrite; `column + T <= S`.
        in_place: Use XLA's slice update, which the compiler turns into a write of just those
            columns. It exists only in compiled programs; False builds the result from TF core
            ops, which any server can run.

    Returns:
        Float `[B, N, S, H]`.
    """
    new = tf.cast(new, memory.dtype)
    if in_place:
        return xla.dynamic_update_slice(memory, new, tf.stack([0, 0, column, 0]))
    columns, count = tf.shape(memory)[2], tf.shape(new)[2]
    return tf.ensure_shape(
        tf.concat(
            [memory[:, :, :column], new, memory[:, :, column + count : columns]], axis=2
        ),  # [B, N, S, H]
        memory.shape,
    )

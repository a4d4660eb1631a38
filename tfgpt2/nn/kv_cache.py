"""The KV cache: keys and values in a fixed number of columns, written left to right.

A cache column is not a position. All rows write into the same column at the same time, so one
slice update serves the batch; which columns hold a token of a row, and the position of its next
token, are per-row data (`valid`, `positions`). Prompts are right-aligned, so the last prompt token
of every row is in the same column:

    prompt of row 0   .  .  a  b  c | d  e          columns 0-4 prompt, 5-6 generated
    prompt of row 1   .  a  b  c  d | e  f          "." is a column that `valid` masks
    positions         row 0: a=0 ... e=4            row 1: a=0 ... f=5

Rows of different age, as a serving engine has them, write into columns of their own (`row_cache`).

Keys and values have the model's compute dtype or another (`cast_cache`). bfloat16 is held as its
bits, uint16: on a CPU, XLA updates a bfloat16 tensor in float32, and would convert the whole buffer
there and back to write one column (`findings/xla_bfloat16_update.sh`). `pack` and `unpack` convert.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla


class Encoder(NamedTuple):
    """An encoder's output, for models with cross-attention.

    Attributes:
        states: Float `[B, E, D]`.
        visible: bool `[B, E]`, where it may be attended.
    """

    states: tf.Tensor
    visible: tf.Tensor


class EncoderKV(NamedTuple):
    """Keys and values of cross-attention, computed once from an encoder's output.

    Attributes:
        keys: `L` float tensors `[B, N, E, H]`.
        values: `L` float tensors `[B, N, E, H]`.
        visible: bool `[B, E]`, where it may be attended.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    visible: tf.Tensor


class KVCache(NamedTuple):
    """Keys and values of the tokens so far.

    Attributes:
        keys: `L` tensors `[B, N, S, H]`: float32, float16, or uint16, the bits of bfloat16.
        values: `L` tensors `[B, N, S, H]`, likewise.
        valid: bool `[B, S]`, the columns that hold a token of the row.
        column: int32 `[]`, the column that is written next; `[B]`, that of each row.
        positions: int32 `[B]`, the position of each row's next token.
        encoder: For cross-attention; an empty tuple without an encoder.
        token_type: int32 `[B]`, the type of all further tokens; an empty tuple without types.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    valid: tf.Tensor
    column: tf.Tensor
    positions: tf.Tensor
    encoder: EncoderKV | tuple[()] = ()
    token_type: tf.Tensor | tuple[()] = ()


class Prefix(NamedTuple):
    """Keys and values of a common prefix of prompts; tensors have 1 or `B` rows.

    Attributes:
        keys: `L` float tensors `[B, N, S, H]`.
        values: `L` float tensors `[B, N, S, H]`.
        valid: bool `[B, S]`, the columns that hold a token of the row.
        ids: int32 `[B, S]`, the tokens, for logits processors; 0 where there is none.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    valid: tf.Tensor
    ids: tf.Tensor


CACHE_DTYPES = ("float32", "bfloat16", "float16")


def stored_dtype(dtype: str | tf.DType) -> tf.DType:
    """The dtype of tensors that hold keys and values of a dtype.

    Example:
        >>> stored_dtype("bfloat16"), stored_dtype("float16")
        (tf.uint16, tf.float16)
    """
    dtype = tf.as_dtype(dtype)
    return tf.uint16 if dtype == tf.bfloat16 else dtype


def pack(x: tf.Tensor, dtype: str | tf.DType) -> tf.Tensor:
    """Converts keys or values to a dtype that a cache can hold.

    Args:
        x: Float, or packed already; any shape.
        dtype: Float, or uint16 for the bits of bfloat16.

    Example:
        >>> unpack(pack(tf.constant([1.0, 257.0]), tf.uint16), tf.float32).numpy().tolist()
        [1.0, 256.0]
    """
    dtype = stored_dtype(dtype)
    if x.dtype == dtype:
        return x
    if x.dtype == tf.uint16:
        x = unpack(x, tf.float32)
    if dtype == tf.uint16:
        return tf.bitcast(tf.cast(x, tf.bfloat16), tf.uint16)
    return tf.cast(x, dtype)


def unpack(x: tf.Tensor, dtype: str | tf.DType) -> tf.Tensor:
    """Converts what `pack` returned to floats of a dtype."""
    if x.dtype != tf.uint16:
        return tf.cast(x, dtype)
    if dtype == tf.bfloat16:
        return tf.bitcast(x, tf.bfloat16)
    # The bits are the upper half of a float32. As integers they are never rounded on the way.
    bits = tf.bitwise.left_shift(tf.cast(x, tf.uint32), tf.constant(16, tf.uint32))
    return tf.cast(tf.bitcast(bits, tf.float32), dtype)


def positions_from_mask(mask: tf.Tensor) -> tf.Tensor:
    """Numbers the tokens of each row from 0; padding gets 0.

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
    """Right-aligns each row's tokens, in their order.

    Afterwards the last token of every row is in the last column, wherever the padding was.

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


def broadcast_prefix(prefix: Prefix, rows: tf.Tensor, dtype: str) -> Prefix:
    """Broadcasts a prefix to `rows` rows (int32 `[]`), and casts its keys and values."""

    def broadcast(x: tf.Tensor) -> tf.Tensor:
        return tf.broadcast_to(x, tf.concat([[rows], tf.shape(x)[1:]], axis=0))

    return Prefix(
        keys=tuple(broadcast(unpack(x, dtype)) for x in prefix.keys),
        values=tuple(broadcast(unpack(x, dtype)) for x in prefix.values),
        valid=broadcast(prefix.valid),
        ids=broadcast(prefix.ids),
    )


def pad_cache(cache: KVCache, columns: tf.Tensor) -> KVCache:
    """Appends empty columns (int32 `[]`)."""
    paddings = tf.convert_to_tensor([[0, 0], [0, 0], [0, columns], [0, 0]])

    def pad(x: tf.Tensor) -> tf.Tensor:
        return tf.pad(x, paddings)  # [B, N, S, H]

    return cache._replace(
        keys=tuple(map(pad, cache.keys)),
        values=tuple(map(pad, cache.values)),
        valid=tf.pad(cache.valid, [[0, 0], [0, columns]]),  # [B, S]
    )


def cast_cache(cache: KVCache, dtype: str | tf.DType) -> KVCache:
    """Casts keys and values; those of cross-attention stay, since they are computed once."""
    return cache._replace(
        keys=tuple(pack(x, dtype) for x in cache.keys),
        values=tuple(pack(x, dtype) for x in cache.values),
    )


def rollback(cache: KVCache, before: KVCache, kept: tf.Tensor) -> KVCache:
    """Keeps the first of the tokens that were added since an earlier state.

    Rows keep different numbers of tokens, so some columns remain as masked holes; those that no
    row keeps are written again.

    Args:
        cache: The cache now.
        before: The earlier cache.
        kept: int32 `[B]`, how many of the new tokens each row keeps.
    """
    offset = tf.range(tf.shape(cache.valid)[1]) - before.column  # [S]
    dropped = (offset >= 0)[None] & (offset[None] >= kept[:, None])  # [B, S]
    return cache._replace(
        valid=cache.valid & ~dropped,
        column=before.column + tf.reduce_max(kept),
        positions=before.positions + kept,
    )


def compact(cache: KVCache) -> KVCache:
    """Removes the holes: each row's tokens move to its first columns, in their order."""
    hole = tf.cast(~cache.valid, tf.int32)
    order = tf.argsort(hole, axis=1, stable=True)  # [B, S]
    count = tf.reduce_sum(1 - hole, axis=1)  # [B]

    def move(x: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.gather(x, order, axis=2, batch_dims=1), x.shape)  # [B, N, S, H]

    return cache._replace(
        keys=tuple(map(move, cache.keys)),
        values=tuple(map(move, cache.values)),
        valid=tf.range(tf.shape(cache.valid)[1])[None] < count[:, None],  # [B, S]
        column=tf.reduce_max(count),
    )


def row_cache(
    keys: tuple[tf.Tensor, ...], values: tuple[tf.Tensor, ...], count: tf.Tensor
) -> KVCache:
    """A cache whose rows have a column each to write next: that after their tokens.

    Args:
        keys: `L` tensors `[B, N, S, H]`, without holes.
        values: `L` tensors `[B, N, S, H]`.
        count: int32 `[B]`, the tokens of each row, in its first columns.
    """
    valid = tf.range(tf.shape(keys[0])[2])[None] < count[:, None]  # [B, S]
    return KVCache(keys, values, valid, count, count)


def resize_axis(
    x: tf.Tensor, axis: int, size: tf.Tensor, *, filler: float = 0, at_end: bool = True
) -> tf.Tensor:
    """Makes an axis shorter or longer.

    Args:
        x: The tensor.
        axis: Its axis.
        size: int32 `[]`.
        filler: Value of what is added.
        at_end: Whether its end changes; False changes its beginning.

    Example:
        >>> resize_axis(tf.constant([1, 2, 3]), 0, tf.constant(2), at_end=False).numpy().tolist()
        [2, 3]
    """
    shape = tf.shape(x)
    surplus = tf.maximum(shape[axis] - size, 0)
    index = [slice(None)] * axis + [slice(None, size) if at_end else slice(surplus, None)]
    missing = tf.tensor_scatter_nd_update(shape, [[axis]], [tf.maximum(size - shape[axis], 0)])
    filling = tf.fill(missing, tf.cast(filler, x.dtype))
    parts = [x[tuple(index)], filling]
    resized = tf.concat(parts if at_end else parts[::-1], axis=axis)
    open_shape = [None if i == axis else n for i, n in enumerate(x.shape)]
    return tf.ensure_shape(resized, open_shape)


def write_rows(
    buffers: tuple[tf.Tensor, tf.Tensor],
    new: tuple[tf.Tensor, tf.Tensor],
    columns: tf.Tensor,
    *,
    in_place: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Overwrites one column of each row of one layer's keys and values.

    Args:
        buffers: Packed, `[B, N, S, H]`.
        new: Floats `[B, N, 1, H]`.
        columns: int32 `[B]`. Of a row that has ended it may be `S`: then the last one, or none, is
            overwritten.
        in_place: See `write`.

    Returns:
        The buffers `[B, N, S, H]`.
    """
    new = tuple(pack(x, buffer.dtype) for x, buffer in zip(new, buffers, strict=True))
    if not in_place:
        here = tf.range(tf.shape(buffers[0])[2])[None] == columns[:, None]  # [B, S]
        return tuple(
            tf.where(here[:, None, :, None], x, buffer)
            for x, buffer in zip(new, buffers, strict=True)
        )
    rows, heads, size = tf.shape(columns)[0], buffers[0].shape[1], buffers[0].shape[3]

    def body(row: tf.Tensor, *buffers: tf.Tensor) -> tuple[tf.Tensor, ...]:
        start = tf.stack([row, 0, columns[row], 0])
        parts = (tf.slice(x, tf.stack([row, 0, 0, 0]), [1, heads, 1, size]) for x in new)
        written = map(xla.dynamic_update_slice, buffers, parts, [start] * 2)
        return row + 1, *map(tf.ensure_shape, written, shapes)

    shapes = [buffer.shape for buffer in buffers]
    return tf.while_loop(lambda row, *_: row < rows, body, (tf.constant(0), *buffers))[1:]


def write(buffer: tf.Tensor, new: tf.Tensor, column: tf.Tensor, *, in_place: bool) -> tf.Tensor:
    """Overwrites `T` columns of one layer's keys or values.

    Args:
        buffer: Packed, `[B, N, S, H]`.
        new: Float, or packed, `[B, N, T, H]`.
        column: int32 `[]`, the first column to overwrite; `column + T <= S`.
        in_place: Use XLA's slice update, which the compiler turns into a write of these columns
            only. It exists only in compiled programs; False builds the result from TF core ops,
            which any server can run.

    Returns:
        The buffer `[B, N, S, H]`.
    """
    new = pack(new, buffer.dtype)
    if in_place:
        return xla.dynamic_update_slice(buffer, new, tf.stack([0, 0, column, 0]))
    columns, count = tf.shape(buffer)[2], tf.shape(new)[2]
    parts = [buffer[:, :, :column], new, buffer[:, :, column + count : columns]]
    return tf.ensure_shape(tf.concat(parts, axis=2), buffer.shape)  # [B, N, S, H]

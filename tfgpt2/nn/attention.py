"""Multi-head attention as pure functions on tensors."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.nn.shapes import leading

# Replaces masked scores, which are float32. Finite, so that fully masked rows give uniform weights
# and not NaN, and far below any real score.
MASK_VALUE = -1e30


def split_heads(x: tf.Tensor, heads: int) -> tf.Tensor:
    """`[B, T, N * H]` -> `[B, N, T, H]`."""
    x = tf.reshape(x, leading(x, 2, heads, x.shape[-1] // heads))  # [B, T, N, H]
    return tf.transpose(x, [0, 2, 1, 3])  # [B, N, T, H]


def merge_heads(x: tf.Tensor) -> tf.Tensor:
    """`[B, N, T, H]` -> `[B, T, N * H]`."""
    x = tf.transpose(x, [0, 2, 1, 3])  # [B, T, N, H]
    return tf.reshape(x, leading(x, 2, x.shape[2] * x.shape[3]))  # [B, T, N * H]


def causal_mask(queries: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Lets each query attend to its own column and those before it.

    Args:
        queries: int32 `[T]`, the column of each query.
        columns: int32 `[S]`, the columns of the keys.

    Returns:
        bool `[1, 1, T, S]`.

    Example:
        >>> causal_mask(tf.range(1, 3), tf.range(3))[0, 0].numpy().astype(int).tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    return (columns[None, :] <= queries[:, None])[None, None]  # [1, 1, T, S]


def attention_scores(query: tf.Tensor, key: tf.Tensor, *, scale: float, upcast: bool) -> tf.Tensor:
    """Scaled dot products: `[B, N, T, H]` and `[B, N, S, H]` -> float32 `[B, N, T, S]`."""
    if upcast:
        query, key = tf.cast(query, tf.float32), tf.cast(key, tf.float32)
    # Scaling the query takes T x H products, scaling the scores would take T x S.
    scores = tf.matmul(query * tf.cast(scale, query.dtype), key, transpose_b=True)
    return tf.cast(scores, tf.float32)


def attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor | None,
    *,
    scale: float,
    dropout: Callable[[tf.Tensor], tf.Tensor],
    head_mask: tf.Tensor | None = None,
    upcast: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scaled dot-product attention; the softmax runs in float32 whatever the inputs are.

    Args:
        query: Float `[B, N, T, H]`.
        key: Float `[B, N, S, H]`.
        value: Float `[B, N, S, H]`.
        mask: bool, broadcastable to `[B, N, T, S]`, True where queries may attend, or None.
        scale: Factor on the scores.
        dropout: Applied to the attention weights.
        head_mask: Float, broadcastable to `[B, N, 1, 1]`; 0 masks a head.
        upcast: Compute the scores in float32 too (`reorder_and_upcast_attn`).

    Returns:
        The context `[B, N, T, H]` in the dtype of `value`, and the weights `[B, N, T, S]`.

    Source: Vaswani et al. 2017, equation 1; transformers `GPT2Attention` for the order of
        dropout and head mask.
    """
    scores = attention_scores(query, key, scale=scale, upcast=upcast)  # [B, N, T, S]
    if mask is not None:
        scores = tf.where(mask, scores, MASK_VALUE)
    weights = tf.cast(tf.nn.softmax(scores), value.dtype)
    weights = dropout(weights)
    if head_mask is not None:
        weights = weights * tf.cast(head_mask, weights.dtype)
    return tf.matmul(weights, value), weights  # [B, N, T, H]


BLOCK = 128  # columns per block of `decode_attend`


def decode_attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor,
    used_columns: tf.Tensor,
    *,
    scale: float,
    upcast: bool = False,
) -> tf.Tensor:
    """Scaled dot-product attention of a decode step, over the used columns of a KV cache.

    Its time depends on the number of used columns and not on the size of the cache. The columns
    are processed in blocks, and the running sums are rescaled to each new maximum.

    Args:
        query: Float `[B, N, T, H]`.
        key: Float `[B, N, S, H]`.
        value: Float `[B, N, S, H]`.
        mask: bool `[B, 1, T, S]`, True where a query may attend, for each query at least at one
            of the used columns.
        used_columns: int32 `[]` in `[1, S]`; the columns after these are not read.
        scale: Factor on the scores.
        upcast: Compute the scores in float32 too.

    Returns:
        The context `[B, N, T, H]` in the dtype of `value`.

    Source: Dao et al. 2022, "FlashAttention", algorithm 1, over columns only.
    """
    batch, heads, length, size = tf.unstack(tf.shape(query))
    columns = tf.shape(key)[2]
    # Never the whole buffer: XLA would then fuse the write of the new columns into their readers,
    # and copy the buffer in each step. All columns but one where they are few, since most steps
    # then take one block.
    block = tf.clip_by_value(columns - 1, 1, BLOCK)
    query = query * tf.cast(scale, query.dtype)

    def body(i: tf.Tensor, maximum: tf.Tensor, total: tf.Tensor, context: tf.Tensor) -> tuple:
        # The last block ends with the buffer, and masks the columns it shares with the one before.
        first = tf.minimum(i * block, columns - block)
        # Not -1 for a whole axis: XLA would take all columns.
        begin, shape = tf.stack([0, 0, first, 0]), tf.stack([batch, heads, block, size])
        keys, values = (tf.slice(x, begin, shape) for x in (key, value))  # [B, N, C, H]
        visible = tf.slice(mask, tf.stack([0, 0, 0, first]), tf.stack([batch, 1, length, block]))
        visible &= (first + tf.range(block) >= i * block)[None, None, None]  # [B, 1, T, C]
        queries = query
        if upcast:
            queries, keys = tf.cast(queries, tf.float32), tf.cast(keys, tf.float32)
        scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)  # [B, N, T, C]
        scores = tf.where(visible, scores, MASK_VALUE)
        new = tf.maximum(maximum, tf.reduce_max(scores, axis=-1, keepdims=True))  # [B, N, T, 1]
        weights, rescale = tf.exp(scores - new), tf.exp(maximum - new)
        total = total * rescale + tf.reduce_sum(weights, axis=-1, keepdims=True)
        part = tf.matmul(tf.cast(weights, values.dtype), values)  # [B, N, T, H]
        after = new, total, context * rescale + tf.cast(part, tf.float32)
        return i + 1, *(tf.ensure_shape(x, y.shape) for x, y in zip(after, start[1:], strict=True))

    context = tf.zeros_like(query, tf.float32)
    narrow = context[..., :1]  # [B, N, T, 1]
    start = (tf.constant(0), narrow + MASK_VALUE, narrow, context)
    blocks = (used_columns + block - 1) // block
    _, _, total, context = tf.while_loop(lambda i, *_: i < blocks, body, start)
    return tf.ensure_shape(tf.cast(context / total, value.dtype), query.shape)

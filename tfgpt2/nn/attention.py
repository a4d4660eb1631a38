"""Multi-head attention as pure functions on tensors."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.nn.shapes import leading

# In the place of scores that must not be seen; scores are float32 here. Finite, so that a row in
# which everything is masked gives even weights and not NaN, and far below any real score.
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
    """Says which columns each query may see: its own and those before it.

    Args:
        queries: int32 `[T]`, the column in which each query stands.
        columns: int32 `[S]`, the columns there are.

    Returns:
        bool `[1, 1, T, S]`.

    Example:
        >>> causal_mask(tf.range(1, 3), tf.range(3))[0, 0].numpy().astype(int).tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    return (columns[None, :] <= queries[:, None])[None, None]  # [1, 1, T, S]


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
        mask: bool, broadcastable to `[B, N, T, S]`; True where a query may look. None sees all.
        scale: Factor on the scores.
        dropout: Applied to the attention weights.
        head_mask: Float, broadcastable to `[B, N, 1, 1]`; 0 silences a head.
        upcast: Compute the scores in float32 too (`reorder_and_upcast_attn`).

    Returns:
        The context `[B, N, T, H]` in the dtype of `value`, and the weights `[B, N, T, S]`.

    Source: Vaswani et al. 2017, equation 1; transformers `GPT2Attention` for the order of
        dropout and head mask.
    """
    if upcast:
        query, key = tf.cast(query, tf.float32), tf.cast(key, tf.float32)
    # Scaling the query touches T x H numbers where scaling the scores would touch T x S.
    scores = tf.matmul(query * tf.cast(scale, query.dtype), key, transpose_b=True)  # [B, N, T, S]
    scores = tf.cast(scores, tf.float32)
    if mask is not None:
        scores = tf.where(mask, scores, MASK_VALUE)
    weights = tf.cast(tf.nn.softmax(scores), value.dtype)
    weights = dropout(weights)
    if head_mask is not None:
        weights = weights * tf.cast(head_mask, weights.dtype)
    return tf.matmul(weights, value), weights  # [B, N, T, H]


BLOCK = 128  # columns that `attend_seen` takes at a time


def attend_seen(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor,
    seen: tf.Tensor,
    *,
    scale: float,
    upcast: bool = False,
) -> tf.Tensor:
    """`attend` for a few queries over a long buffer, of which just the first columns are read.

    Its time follows the tokens that exist and not the buffer. The columns are taken a block at a
    time, and what was summed up so far is scaled to each new maximum.

    Args:
        query: Float `[B, N, T, H]`.
        key: Float `[B, N, S, H]`.
        value: Float `[B, N, S, H]`.
        mask: bool `[B, 1, T, S]`, True where a query may look: at one of the first `seen` columns.
        seen: int32 `[]`, in `[1, S]`.
        scale: Factor on the scores.
        upcast: Compute the scores in float32 too.

    Returns:
        The context `[B, N, T, H]` in the dtype of `value`.

    Source: Dao et al. 2022, "FlashAttention", algorithm 1, over columns only.
    """
    batch, heads, length, size = tf.unstack(tf.shape(query))
    columns = tf.shape(key)[2]
    # Never the whole buffer: XLA would then fuse the write of the new columns into what reads
    # them, and copy the buffer in each step. All but one column, where they are few, since most
    # steps then take one block.
    block = tf.clip_by_value(columns - 1, 1, BLOCK)
    query = query * tf.cast(scale, query.dtype)

    def body(i: tf.Tensor, top: tf.Tensor, total: tf.Tensor, context: tf.Tensor) -> tuple:
        # The last block moves back to the end of the buffer; what it has seen twice, it hides.
        first = tf.minimum(i * block, columns - block)
        # Not -1 for a whole axis: XLA would take all columns.
        place, shape = tf.stack([0, 0, first, 0]), tf.stack([batch, heads, block, size])
        keys, values = (tf.slice(x, place, shape) for x in (key, value))  # [B, N, C, H]
        here = tf.slice(mask, tf.stack([0, 0, 0, first]), tf.stack([batch, 1, length, block]))
        here &= (first + tf.range(block) >= i * block)[None, None, None]  # [B, 1, T, C]
        rows = query
        if upcast:
            rows, keys = tf.cast(rows, tf.float32), tf.cast(keys, tf.float32)
        scores = tf.cast(tf.matmul(rows, keys, transpose_b=True), tf.float32)  # [B, N, T, C]
        scores = tf.where(here, scores, MASK_VALUE)
        new = tf.maximum(top, tf.reduce_max(scores, axis=-1, keepdims=True))  # [B, N, T, 1]
        weights, shrink = tf.exp(scores - new), tf.exp(top - new)
        total = total * shrink + tf.reduce_sum(weights, axis=-1, keepdims=True)
        part = tf.matmul(tf.cast(weights, values.dtype), values)  # [B, N, T, H]
        after = new, total, context * shrink + tf.cast(part, tf.float32)
        return i + 1, *(tf.ensure_shape(x, y.shape) for x, y in zip(after, start[1:], strict=True))

    context = tf.zeros_like(query, tf.float32)
    narrow = context[..., :1]  # [B, N, T, 1]
    start = (tf.constant(0), narrow + MASK_VALUE, narrow, context)
    blocks = (seen + block - 1) // block
    _, _, total, context = tf.while_loop(lambda i, *_: i < blocks, body, start)
    return tf.ensure_shape(tf.cast(context / total, value.dtype), query.shape)

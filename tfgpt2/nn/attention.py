"""Multi-head attention as pure functions on tensors."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.nn.kv_cache import unpack
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


# Columns per block of `decode_attend`: as many as leave a block of keys at about `_BLOCK_SIZE`
# numbers, which stay in the second-level cache between the kernels that make and read them.
_BLOCK_SIZE = 2**17
_FEWEST, _MOST = 32, 128  # a multiple of the 32 terms that XLA adds up at a time


def decode_attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: tf.Tensor,
    used_columns: tf.Tensor,
    *,
    scale: float,
) -> tf.Tensor:
    """Scaled dot-product attention of a decode step, over the used columns of a KV cache.

    Its time depends on the number of used columns and not on the size of the cache. The columns
    are processed in blocks, and the running sums are rescaled to each new maximum. It computes in
    float32 whatever the dtypes are, and only blocks of the cache are ever converted.

    Args:
        query: Float `[B, N, T, H]`.
        key: Packed (see `kv_cache.pack`), `[B, N, S, H]`.
        value: Packed, `[B, N, S, H]`.
        mask: bool `[B, 1, T, S]`, True where a query may attend, for each query at least at one
            of the used columns.
        used_columns: int32 `[2]`, the first column to read and the one after the last, in
            `[0, S]`.
        scale: Factor on the scores.

    Returns:
        The context `[B, N, T, H]` in the dtype of `query`.

    Source: Dao et al. 2022, "FlashAttention", algorithm 1, over columns only.
    """
    batch, heads, length, size = tf.unstack(tf.shape(query))
    columns = tf.shape(key)[2]
    fitting = _BLOCK_SIZE // (batch * heads * size) // _FEWEST * _FEWEST
    block = tf.clip_by_value(fitting, _FEWEST, _MOST)
    # Never the whole buffer: XLA would then fuse the write of the new columns into their readers,
    # and copy the buffer in each step. All columns but one where they are few, since most steps
    # then take one block.
    block = tf.clip_by_value(columns - 1, 1, block)
    first, end = tf.unstack(used_columns)
    queries = tf.cast(query, tf.float32)

    def body(i: tf.Tensor, maximum: tf.Tensor, total: tf.Tensor, context: tf.Tensor) -> tuple:
        # The last block ends with the buffer, and masks the columns it shares with the one before.
        start = tf.minimum(first + i * block, columns - block)
        # Not -1 for a whole axis: XLA would take all columns.
        begin, shape = tf.stack([0, 0, start, 0]), tf.stack([batch, heads, block, size])
        keys, values = (unpack(tf.slice(x, begin, shape), tf.float32) for x in (key, value))
        visible = tf.slice(mask, tf.stack([0, 0, 0, start]), tf.stack([batch, 1, length, block]))
        visible &= (start + tf.range(block) >= first + i * block)[None, None, None]  # [B, 1, T, C]
        # Not the query: LLVM does not vectorize the copy of a slice, but it does this product.
        scores = tf.matmul(queries, keys * scale, transpose_b=True)  # [B, N, T, C]
        scores = tf.where(visible, scores, MASK_VALUE)
        new = tf.maximum(maximum, tf.reduce_max(scores, axis=-1, keepdims=True))  # [B, N, T, 1]
        weights, rescale = tf.exp(scores - new), tf.exp(maximum - new)
        total = total * rescale + tf.reduce_sum(weights, axis=-1, keepdims=True)
        after = new, total, context * rescale + _weighted_sum(weights, values, visible)
        return i + 1, *(tf.ensure_shape(x, y.shape) for x, y in zip(after, zero[1:], strict=True))

    context = tf.zeros_like(queries)
    narrow = context[..., :1]  # [B, N, T, 1]
    zero = (tf.constant(0), narrow + MASK_VALUE, narrow, context)
    blocks = (end - first + block - 1) // block
    _, _, total, context = tf.while_loop(lambda i, *_: i < blocks, body, zero)
    return tf.ensure_shape(tf.cast(context / total, query.dtype), query.shape)


def _weighted_sum(weights: tf.Tensor, values: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
    """Sums a block's values: `[B, N, T, C]` and `[B, N, C, H]` -> `[B, N, T, H]`.

    Both forms have an operation on the values, which XLA fuses with the slice; see `decode_attend`.
    """
    if weights.shape[2] == 1:
        products = weights[:, :, 0, :, None] * values  # [B, N, C, H]
        return tf.reduce_sum(products, axis=2, keepdims=True)
    anywhere = tf.reduce_any(visible, axis=2)[..., None]  # [B, 1, C, 1]
    return tf.matmul(weights, tf.where(anywhere, values, 0.0))

"""Memory-efficient attention in blocks of queries, with an exact gradient.

Queries are processed in blocks against all keys, so `[B, N, T, S]` shrinks to `[B, N, block, S]`.
The backward pass recomputes each block's weights instead of keeping them. Dropout is a function of
a seed and the block's number, so the second pass drops the same weights.

Source: Rabe and Staats 2021, "Self-attention does not need O(n^2) memory", section 2, over
queries only; no softmax is split, so the results are those of `attention.attend`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.nn.attention import MASK_VALUE, attention_scores
from tfgpt2.nn.layers import dropout_mask, fold_in

BLOCK = 128  # queries per block


def blockwise_attend(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    visible: tf.Tensor | None,
    *,
    scale: float,
    dropout: float = 0.0,
    seed: tf.Tensor | None = None,
    upcast: bool = False,
    block: int = BLOCK,
) -> tf.Tensor:
    """Scaled dot-product attention in blocks of queries.

    Args:
        query: Float `[B, N, T, H]`.
        key: Float `[B, N, S, H]`.
        value: Float `[B, N, S, H]`.
        visible: bool, broadcastable to `[B, N, T, S]`; True where a query may attend.
        scale: Factor on the scores.
        dropout: Rate of dropout on the attention weights, in [0, 1).
        seed: int32 `[2]`, for dropout.
        upcast: Compute the scores in float32 too.
        block: Queries per block.

    Returns:
        Float `[B, N, T, H]` in the dtype of `value`.
    """
    length, columns = tf.shape(query)[2], tf.shape(key)[2]
    block = min(block, query.shape[2] or block)  # no padding where one block is enough
    extra = -length % block
    blocks = (length + extra) // block
    if visible is None:
        visible = tf.ones([1, 1, 1, 1], tf.bool)
    visible = tf.broadcast_to(
        visible, tf.concat([tf.shape(visible)[:2], [length, columns]], axis=0)
    )
    padded = tf.pad(query, [[0, 0], [0, 0], [0, extra], [0, 0]])  # [B, N, T', H]
    visible = tf.pad(visible, [[0, 0], [0, 0], [0, extra], [0, 0]])  # [B or 1, 1 or N, T', S]

    def weights(rows: tf.Tensor, key: tf.Tensor, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a block's attention weights `[B, N, block, S]` and its mask."""
        scores = attention_scores(rows, key, scale=scale, upcast=upcast)
        mask = _rows(visible, i, block)
        return tf.nn.softmax(tf.where(mask, scores, MASK_VALUE)), mask

    def dropout_factor(shape: tf.Tensor, i: tf.Tensor) -> tf.Tensor | float:
        """Returns the factor of dropout on a block's weights."""
        if not dropout:
            return 1.0
        kept, scale = dropout_mask(shape, dropout, fold_in(seed, i))
        return tf.where(kept, scale, 0.0)

    @tf.custom_gradient
    def attend(
        padded: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def forward(i: tf.Tensor, done: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            probabilities, _ = weights(_rows(padded, i, block), key, i)
            probabilities *= dropout_factor(tf.shape(probabilities), i)
            return i + 1, done.write(i, tf.matmul(tf.cast(probabilities, value.dtype), value))

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def step(
                i: tf.Tensor, d_rows: tf.TensorArray, d_key: tf.Tensor, d_value: tf.Tensor
            ) -> tuple[tf.Tensor, tf.TensorArray, tf.Tensor, tf.Tensor]:
                rows = _rows(padded, i, block)
                probabilities, mask = weights(rows, key, i)
                factor = dropout_factor(tf.shape(probabilities), i)
                above = tf.cast(_rows(upstream, i, block), tf.float32)  # [B, N, block, H]
                d_value += tf.matmul(probabilities * factor, above, transpose_a=True)
                d_weights = factor * tf.matmul(above, tf.cast(value, tf.float32), transpose_b=True)
                inner = tf.reduce_sum(d_weights * probabilities, axis=-1, keepdims=True)
                d_scores = tf.where(mask, probabilities * (d_weights - inner), 0.0) * scale
                d_key += tf.matmul(d_scores, tf.cast(rows, tf.float32), transpose_a=True)
                d_row = tf.matmul(d_scores, tf.cast(key, tf.float32))  # [B, N, block, H]
                return i + 1, d_rows.write(i, d_row), d_key, d_value

            _, d_rows, d_key, d_value = tf.while_loop(
                lambda i, *_: i < blocks,
                step,
                (
                    0,
                    tf.TensorArray(tf.float32, blocks, element_shape=[None, None, block, None]),
                    tf.zeros_like(key, tf.float32),
                    tf.zeros_like(value, tf.float32),
                ),
                parallel_iterations=1,
            )
            gradients = (_joined(d_rows.stack()), d_key, d_value)
            return tuple(
                tf.cast(gradient, x.dtype)
                for gradient, x in zip(gradients, (padded, key, value), strict=True)
            )

        empty = tf.TensorArray(value.dtype, blocks, element_shape=[None, None, block, None])
        # Not in parallel: all blocks would then be held at once.
        _, done = tf.while_loop(lambda i, _: i < blocks, forward, (0, empty), parallel_iterations=1)
        return _joined(done.stack()), backward

    context = attend(padded, key, value)[:, :, :length]  # [B, N, T, H]
    return tf.ensure_shape(context, [*query.shape[:3], value.shape[3]])


def _rows(x: tf.Tensor, i: tf.Tensor, block: int) -> tf.Tensor:
    """Cuts block `i` out of the third axis."""
    shape = tf.shape(x)
    return tf.slice(x, tf.stack([0, 0, i * block, 0]), [shape[0], shape[1], block, shape[3]])


def _joined(blocks: tf.Tensor) -> tf.Tensor:
    """`[blocks, B, N, block, H]` -> `[B, N, T', H]`."""
    count, batch, heads, block, width = tf.unstack(tf.shape(blocks))
    blocks = tf.transpose(blocks, [1, 2, 0, 3, 4])  # [B, N, blocks, block, H]
    return tf.reshape(blocks, [batch, heads, count * block, width])  # [B, N, T', H]

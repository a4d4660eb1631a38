"""Cross-entropy of hidden states without materialising the logits of all tokens.

Tokens are processed in chunks against the whole output matrix, so `[B, T, V]` shrinks to
`[chunk, V]`, forward and backward. The gradient is exact.

Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", sections 3 and
4, for the idea; here the vocabulary is not split, which suits plain matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfgpt2.nn.losses import IGNORED_LABEL, LossSettings, regularized_nll

# Bytes of one chunk's float32 logits, which determine the number of tokens per chunk. Smaller
# chunks save little, since the gradient of the output matrix is as large as many of them.
_CHUNK_BYTES = 64 * 2**20


def tokens_per_chunk(vocab_size: int) -> int:
    """Chooses the number of tokens per chunk: a power of 2 between 64 and 8192.

    Args:
        vocab_size: Number of columns of the logits.

    Example:
        >>> tokens_per_chunk(50257)
        256
    """
    fitting = _CHUNK_BYTES // (4 * vocab_size)
    return 2 ** (min(max(fitting, 64), 8192).bit_length() - 1)


def chunked_causal_lm_loss(
    hidden: tf.Tensor,
    table: tf.Tensor,
    labels: tf.Tensor,
    settings: LossSettings,
    *,
    training: bool = False,
) -> tf.Tensor:
    """Mean loss of each next token, as `losses.causal_lm_loss` of `hidden @ table.T`.

    Args:
        hidden: Float `[B, T, D]`, the model's last hidden states.
        table: Float `[V, D]`, the output matrix; the products run in the dtype of `hidden`, and
            sums over tokens in float32.
        labels: int `[B, T]` in `[0, V)`, shifted here; -100 is excluded from the mean.
        settings: Smoothing, z-loss and the most tokens per chunk; `chunk=None` chooses by `V`.
        training: Compute the gradient together with the loss, which saves a quarter of the work
            if the gradient is needed and wastes two thirds if not.

    Returns:
        float32 `[]`, nats per scored token; 0 when none is scored.

    Example:
        >>> hidden, table = tf.ones([1, 3, 2]), tf.ones([4, 2])
        >>> float(chunked_causal_lm_loss(hidden, table, tf.constant([[0, 1, 2]]), LossSettings()))
        1.3862943649291992
    """
    table = tf.convert_to_tensor(table)
    limit = settings.chunk or tokens_per_chunk(table.shape[0])
    labels = tf.cast(labels, tf.int32)
    # All T columns are kept, so that their number divides well; the last one is not scored.
    labels = tf.pad(labels[:, 1:], [[0, 0], [0, 1]], constant_values=IGNORED_LABEL)  # [B, T]
    count = tf.reduce_sum(tf.cast(labels != IGNORED_LABEL, tf.float32))
    rows = tf.reshape(hidden, [-1, table.shape[1]])  # [B * T, D]
    labels = tf.reshape(labels, [-1])  # [B * T]
    # As many chunks as the limit requires, all of one size, so that there is little padding.
    tokens = tf.size(labels) if labels.shape[0] is None else labels.shape[0]
    larger = max if isinstance(tokens, int) else tf.maximum
    chunks = larger((tokens + limit - 1) // limit, 1)  # an empty batch has a chunk too
    chunk = (tokens + chunks - 1) // chunks
    extra = chunks * chunk - tokens
    rows = tf.pad(rows, [[0, extra], [0, 0]])  # [chunks * chunk, D]
    labels = tf.pad(labels, [[0, extra]], constant_values=IGNORED_LABEL)
    rows = tf.reshape(rows, [chunks, chunk, table.shape[1]])  # [chunks, chunk, D]
    labels = tf.reshape(labels, [chunks, chunk])  # [chunks, chunk]
    # In float16 the loss scale has to reach the small numbers before they are rounded.
    together = training and hidden.dtype != tf.float16
    total = _loss_sum(rows, table, labels, settings, together=together)
    return tf.math.divide_no_nan(total, count)


class _Gradients(NamedTuple):
    """Gradients of the rows `[chunks, chunk, D]`, in their dtype, and of the table, float32."""

    rows: tf.Tensor
    table: tf.Tensor


def _loss_sum(
    rows: tf.Tensor,
    table: tf.Tensor,
    labels: tf.Tensor,
    settings: LossSettings,
    *,
    together: bool,
) -> tf.Tensor:
    """Sums the loss over all tokens; the arguments are those of `_loss_and_gradients`."""

    @tf.custom_gradient
    def total(
        rows: tf.Tensor, table: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        if together:
            loss, gradients = _loss_and_gradients(
                rows, table, labels, settings, scale=tf.constant(1.0)
            )
        else:
            loss = _loss_without_gradients(rows, table, labels, settings)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if together:
                d_rows = tf.cast(tf.cast(gradients.rows, tf.float32) * upstream, rows.dtype)
                return d_rows, tf.cast(gradients.table * upstream, table.dtype)
            _, late = _loss_and_gradients(rows, table, labels, settings, scale=upstream)
            return late.rows, tf.cast(late.table, table.dtype)

        return loss, backward

    return total(rows, table)


def _loss_without_gradients(
    rows: tf.Tensor, table: tf.Tensor, labels: tf.Tensor, settings: LossSettings
) -> tf.Tensor:
    """Sums the loss over all chunks: float32 `[]`."""
    matrix = tf.cast(table, rows.dtype)

    def step(i: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.cast(tf.matmul(rows[i], matrix, transpose_b=True), tf.float32)  # [chunk, V]
        nll, weights, _ = regularized_nll(scores, labels[i], settings)
        return i + 1, loss + tf.reduce_sum(nll * weights)

    # Not in parallel: all chunks would then be held at once.
    _, loss = tf.while_loop(
        lambda i, _: i < tf.shape(rows)[0], step, (0, tf.constant(0.0)), parallel_iterations=1
    )
    return loss


def _loss_and_gradients(
    rows: tf.Tensor,
    table: tf.Tensor,
    labels: tf.Tensor,
    settings: LossSettings,
    *,
    scale: tf.Tensor,
) -> tuple[tf.Tensor, _Gradients]:
    """Computes the sum of the loss and `scale` times its gradients.

    Args:
        rows: Float `[chunks, chunk, D]`.
        table: Float `[V, D]`.
        labels: int32 `[chunks, chunk]`.
        settings: Settings of the loss.
        scale: float32 `[]`.
    """
    matrix = tf.cast(table, rows.dtype)
    chunks, chunk = tf.shape(rows)[0], rows.shape[1]

    def step(
        i: tf.Tensor, loss: tf.Tensor, d_rows: tf.TensorArray, d_table: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.Tensor]:
        scores = tf.cast(tf.matmul(rows[i], matrix, transpose_b=True), tf.float32)  # [chunk, V]
        nll, weights, log_sum = regularized_nll(scores, labels[i], settings)
        d_scores = _d_scores(scores, labels[i], weights * scale, log_sum, settings)
        d_scores = tf.cast(d_scores, rows.dtype)  # [chunk, V]
        d_rows = d_rows.write(i, tf.matmul(d_scores, matrix))  # [chunk, D]
        part = tf.matmul(d_scores, rows[i], transpose_a=True)  # [V, D]
        return (
            i + 1,
            loss + tf.reduce_sum(nll * weights),
            d_rows,
            d_table + tf.cast(part, tf.float32),
        )

    _, loss, d_rows, d_table = tf.while_loop(
        lambda i, *_: i < chunks,
        step,
        (
            0,
            tf.constant(0.0),
            tf.TensorArray(rows.dtype, chunks, element_shape=[chunk, rows.shape[2]]),
            tf.zeros(table.shape, tf.float32),
        ),
        parallel_iterations=1,
    )
    return loss, _Gradients(d_rows.stack(), d_table)


def _d_scores(
    scores: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    log_sum: tf.Tensor,
    settings: LossSettings,
) -> tf.Tensor:
    """Gradient of the weighted loss with respect to the scores: float32 `[chunk, V]`."""
    smoothing = settings.label_smoothing
    slope = weights * (1.0 + 2.0 * settings.z_loss * log_sum) if settings.z_loss else weights
    gradient = tf.exp(scores - log_sum[:, None]) * slope[:, None]
    if smoothing:
        gradient -= (weights * (smoothing / scores.shape[1]))[:, None]
    indices = tf.stack([tf.range(tf.size(labels)), tf.maximum(labels, 0)], axis=1)  # [chunk, 2]
    return tf.tensor_scatter_nd_sub(gradient, indices, weights * (1.0 - smoothing))

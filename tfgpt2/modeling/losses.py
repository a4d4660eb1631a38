"""Losses as pure functions; the label -100 is not scored."""

from __future__ import annotations

import tensorflow as tf

IGNORED_LABEL = -100


def token_nll(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Negative log-likelihood of each label, in float32.

    Args:
        logits: Float `[..., V]`.
        labels: int `[...]` in `[0, V)`, or -100 for "not scored".

    Returns:
        Nats `[...]` (0 where not scored) and weights `[...]` (1 where scored, else 0).
    """
    scored = tf.not_equal(labels, IGNORED_LABEL)
    labels = tf.where(scored, labels, tf.zeros_like(labels))
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    weights = tf.cast(scored, tf.float32)
    return nll * weights, weights


def causal_lm_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean negative log-likelihood of each next token.

    Args:
        logits: Float `[B, T, V]`, the model's output at each token.
        labels: int `[B, T]`, usually the input ids; the shift by one happens here. -100 is left
            out of the mean.

    Returns:
        float32 `[]`, nats per scored token; 0 when none is scored.

    Source: transformers 4.57, `loss/loss_utils.py::ForCausalLMLoss`.

    Example:
        >>> float(causal_lm_loss(tf.zeros([1, 3, 4]), tf.constant([[0, 1, -100]])))
        1.3862943649291992
    """
    nll, weights = token_nll(logits[:, :-1], labels[:, 1:])  # [B, T - 1]
    return tf.math.divide_no_nan(tf.reduce_sum(nll), tf.reduce_sum(weights))

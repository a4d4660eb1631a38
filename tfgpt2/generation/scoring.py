"""How likely a model finds given tokens."""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf


class ScoringModel(Protocol):
    """What scoring asks of a model; see `TFGPT2LMHeadModel`."""

    def read(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Returns the hidden states `[B, P, D]` of right-aligned tokens, and the cache."""
        ...

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns the logits `[B, P, V]` of hidden states."""
        ...


def token_logprobs(
    model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, *, in_place: bool
) -> tf.Tensor:
    """Log-probability of each token given those before it.

    Args:
        model: What to score with.
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        in_place: Compiled by XLA; see `tfgpt2.modeling.cache.write`.

    Returns:
        float32 `[B, P]`, nats; 0 for a row's first token, which follows nothing, and for padding.
    """
    columns = tf.shape(ids)[1]
    hidden, _ = model.read(ids, mask, columns=columns, in_place=in_place)  # [B, P, D]

    def score_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        states, targets = row  # [P, D], [P]
        # A row at a time: the logits of a batch at once would be gigabytes.
        logits = model.score(states[None, :-1])[0]  # [P - 1, V]
        chosen = tf.gather(logits, targets[1:], batch_dims=1)  # [P - 1]
        return tf.pad(chosen - tf.reduce_logsumexp(logits, axis=-1), [[1, 0]])  # [P]

    scores = tf.map_fn(score_row, (hidden, ids), fn_output_signature=tf.float32)  # [B, P]
    scores = tf.reshape(scores, tf.shape(ids))
    follows = tf.pad(mask[:, 1:] * mask[:, :-1], [[0, 0], [1, 0]])  # [B, P]
    return tf.where(follows > 0, scores, 0.0)

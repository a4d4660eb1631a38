"""How likely a model finds given tokens."""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf

_MOST_NATS = 80.0  # exp of more is no finite float32


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


def summarize(logprobs: tf.Tensor, length: tf.Tensor) -> dict[str, tf.Tensor]:
    """Sums up the log-probabilities of texts.

    Args:
        logprobs: float32 `[B, P]`, right-aligned, from `token_logprobs`.
        length: int32 `[B]`, tokens of each text.

    Returns:
        `logprob` and `perplexity` float32 `[B]`; `num_tokens` int32 `[B]`, the tokens that are
        scored; `token_logprobs` float32 `[B, T]`, left-aligned, 0 for the first and after the end.

    Example:
        >>> out = summarize(tf.constant([[0.0, 0.0, -2.0]]), tf.constant([2]))
        >>> out["token_logprobs"].numpy().tolist(), out["num_tokens"].numpy().tolist()
        ([[0.0, -2.0]], [1])
    """
    logprob, scored = tf.reduce_sum(logprobs, axis=1), tf.maximum(length - 1, 0)  # [B]
    mean = tf.math.divide_no_nan(logprob, tf.cast(scored, tf.float32))
    columns = tf.range(tf.reduce_max(tf.pad(length, [[0, 1]])))[None]  # [1, T]
    inside = columns < length[:, None]  # [B, T]
    place = tf.where(inside, tf.shape(logprobs)[1] - length[:, None] + columns, 0)
    shifted = tf.gather(logprobs, place, batch_dims=1)  # [B, T]
    return {
        "logprob": logprob,
        "num_tokens": scored,
        "perplexity": tf.exp(tf.minimum(-mean, _MOST_NATS)),
        "token_logprobs": tf.where(inside, shifted, 0.0),
    }

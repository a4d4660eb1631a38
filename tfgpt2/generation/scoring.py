"""Scores of given tokens under a model: log-probabilities, ranks, alternatives, hidden states."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

_MOST_NATS = 80.0  # exp of more overflows float32


class ScoringModel(Protocol):
    """Interface of the model; see `TFGPT2LMHeadModel`."""

    def prefill_hidden(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, prefix: Any = ()
    ) -> tuple[tf.Tensor, Any]:
        """Returns the hidden states `[B, P, D]` of right-aligned tokens, and the cache."""
        ...

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Returns the logits `[B, P, V]` of hidden states."""
        ...


class TokenScores(NamedTuple):
    """Scores of each token given those before it.

    A row's first token follows nothing; its numbers are 0, as in the padding.

    Attributes:
        logprobs: float32 `[B, P]`, nats.
        ranks: int32 `[B, P]`, 1 for a token that no other was likelier than.
        top_ids: int32 `[B, P, N]`, the likeliest tokens at this position, best first.
        top_logprobs: float32 `[B, P, N]`, nats.
    """

    logprobs: tf.Tensor
    ranks: tf.Tensor
    top_ids: tf.Tensor
    top_logprobs: tf.Tensor


def token_logprobs(
    model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, prefix: Any = ()
) -> tf.Tensor:
    """Log-probability of each token given those before it.

    Args:
        model: What to score with.
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        prefix: A `tfgpt2.nn.kv_cache.Prefix` that was read before the ids, or nothing.

    Returns:
        float32 `[B, P]`, nats; 0 for a row's first token, which follows nothing, and for padding.
    """
    hidden = _hidden(model, ids, mask, prefix)  # [B, P, D]

    def score_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        logits, targets = _row_logits(model, row)  # [P - 1, V], [P - 1]
        chosen = tf.gather(logits, targets, batch_dims=1)  # [P - 1]
        return tf.pad(chosen - tf.reduce_logsumexp(logits, axis=-1), [[1, 0]])  # [P]

    scores = tf.map_fn(score_row, (hidden, ids), fn_output_signature=tf.float32)  # [B, P]
    scores = tf.reshape(scores, tf.shape(ids))
    return tf.where(_follows(mask), scores, 0.0)


def token_scores(
    model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, prefix: Any = (), *, top: int
) -> TokenScores:
    """Log-probability and rank of each token, and what the model expected in its place.

    Args:
        model: What to score with.
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        prefix: See `token_logprobs`.
        top: How many of the likeliest tokens, `N`, at most `V`.

    Source: Gehrmann et al. 2019, "GLTR: Statistical Detection and Visualization of Generated Text".
    """
    hidden = _hidden(model, ids, mask, prefix)  # [B, P, D]

    def score_row(row: tuple[tf.Tensor, tf.Tensor]) -> TokenScores:
        logits, targets = _row_logits(model, row)  # [P - 1, V], [P - 1]
        total = tf.reduce_logsumexp(logits, axis=-1)  # [P - 1]
        chosen = tf.gather(logits, targets, batch_dims=1)  # [P - 1]
        likelier = tf.math.count_nonzero(logits > chosen[:, None], axis=-1, dtype=tf.int32)
        best, best_ids = tf.math.top_k(logits, k=top)  # [P - 1, N]
        return TokenScores(
            tf.pad(chosen - total, [[1, 0]]),  # [P]
            tf.pad(likelier + 1, [[1, 0]]),  # [P]
            tf.pad(best_ids, [[1, 0], [0, 0]]),  # [P, N]
            tf.pad(best - total[:, None], [[1, 0], [0, 0]]),  # [P, N]
        )

    types = TokenScores(tf.float32, tf.int32, tf.int32, tf.float32)
    found = tf.map_fn(score_row, (hidden, ids), fn_output_signature=types)
    follows, shape = _follows(mask), tf.shape(ids)
    flat = [tf.where(follows, tf.reshape(x, shape), tf.zeros([], x.dtype)) for x in found[:2]]
    shape = tf.concat([shape, [top]], axis=0)
    deep = [
        tf.where(follows[..., None], tf.reshape(x, shape), tf.zeros([], x.dtype)) for x in found[2:]
    ]  # [B, P, N]
    return TokenScores(*flat, *deep)


def next_tokens(
    model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, prefix: Any = (), *, top: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The likeliest tokens after each text.

    Args:
        model: What to ask.
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        prefix: See `token_logprobs`.
        top: How many, `N`, at most `V`.

    Returns:
        Tokens int32 `[B, N]`, the likeliest first, and their log-probabilities `[B, N]` in nats.
    """
    hidden = _hidden(model, ids, mask, prefix)  # [B, P, D]
    logits = model.score(hidden[:, -1:])[:, 0]  # [B, V]
    best, tokens = tf.math.top_k(logits, k=top)  # [B, N]
    return tokens, best - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)


def text_vectors(
    model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, prefix: Any = ()
) -> tuple[tf.Tensor, tf.Tensor]:
    """The last layer's states of each text, after the final layer norm.

    Args:
        model: What reads.
        ids: int32 `[B, P]`, right-aligned.
        mask: int32 `[B, P]`.
        prefix: What was read before the ids, or nothing. Each row then begins with the prefix's
            last token, which counts for the mean of a row without other tokens only.

    Returns:
        float32 `[B, D]`, the state of the last token, and `[B, D]`, the mean over the tokens; 0
        for a row without tokens.
    """
    hidden = _hidden(model, ids, mask, prefix)  # [B, P, D]
    real = tf.cast(mask, tf.float32)[..., None]  # [B, P, 1]
    hidden = tf.cast(hidden, tf.float32) * real
    if prefix:
        follows = _follows(mask)  # [B, P]
        alone = ~tf.reduce_any(follows, axis=1, keepdims=True)  # [B, 1]
        real *= tf.cast(follows | alone, tf.float32)[..., None]
    mean = tf.math.divide_no_nan(tf.reduce_sum(hidden * real, axis=1), tf.reduce_sum(real, axis=1))
    return hidden[:, -1], mean  # [B, D]


def left_align(values: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Moves each row's last `length` columns to the left edge: `[B, P, ...]` -> `[B, T, ...]`.

    Args:
        values: Numbers `[B, P, ...]`, right-aligned.
        length: int32 `[B]`, at most `P`.

    Returns:
        `[B, T, ...]`, `T` being the largest length; 0 after a row's end.

    Example:
        >>> left_align(tf.constant([[0, 5], [6, 7]]), tf.constant([1, 2])).numpy().tolist()
        [[5, 0], [6, 7]]
    """
    columns = tf.range(tf.reduce_max(tf.pad(length, [[0, 1]])))[None]  # [1, T]
    inside = columns < length[:, None]  # [B, T]
    place = tf.where(inside, tf.shape(values)[1] - length[:, None] + columns, 0)
    inside = tf.reshape(inside, tf.concat([tf.shape(inside), [1] * (values.shape.rank - 2)], 0))
    return tf.where(inside, tf.gather(values, place, batch_dims=1), tf.zeros([], values.dtype))


def summarize(
    logprobs: tf.Tensor, length: tf.Tensor, scored: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Sums up the log-probabilities of texts.

    Args:
        logprobs: float32 `[B, P]`, right-aligned, from `token_logprobs`.
        length: int32 `[B]`, tokens of each text.
        scored: int32 `[B]`, those that are scored; None is all but the first.

    Returns:
        `logprob` and `perplexity` float32 `[B]`; `num_tokens` int32 `[B]`, the tokens that are
        scored; `token_logprobs` float32 `[B, T]`, left-aligned, 0 for a first token that follows
        nothing, and after the end.

    Example:
        >>> out = summarize(tf.constant([[0.0, 0.0, -2.0]]), tf.constant([2]))
        >>> out["token_logprobs"].numpy().tolist(), out["num_tokens"].numpy().tolist()
        ([[0.0, -2.0]], [1])
    """
    scored = tf.maximum(length - 1, 0) if scored is None else scored  # [B]
    logprob = tf.reduce_sum(logprobs, axis=1)  # [B]
    mean = tf.math.divide_no_nan(logprob, tf.cast(scored, tf.float32))
    return {
        "logprob": logprob,
        "num_tokens": scored,
        "perplexity": tf.exp(tf.minimum(-mean, _MOST_NATS)),
        "token_logprobs": left_align(logprobs, length),
    }


def _hidden(model: ScoringModel, ids: tf.Tensor, mask: tf.Tensor, prefix: Any) -> tf.Tensor:
    """The hidden states `[B, P, D]` of the ids, which follow the prefix."""
    after = {"prefix": prefix} if prefix else {}
    return model.prefill_hidden(ids, mask, columns=tf.shape(ids)[1], **after)[0]


def _row_logits(
    model: ScoringModel, row: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """One row's logits `[P - 1, V]` and the tokens `[P - 1]` they speak of.

    A row at a time: the logits of a batch at once would be gigabytes.
    """
    states, targets = row  # [P, D], [P]
    return model.score(states[None, :-1])[0], targets[1:]


def _follows(mask: tf.Tensor) -> tf.Tensor:
    """Marks the tokens that follow another: int `[B, P]` -> bool `[B, P]`."""
    return tf.pad(mask[:, 1:] * mask[:, :-1], [[0, 0], [1, 0]]) > 0

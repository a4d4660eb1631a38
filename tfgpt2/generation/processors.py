"""What is done to a step's logits before a token is drawn; one value per row for everything."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfgpt2.generation.sampling import (
    NEVER,
    argmax,
    gumbel,
    keep_min_p,
    keep_top_k,
    keep_top_p,
)

# A temperature below it acts like it: the most likely token, and no overflow on the way.
_COLDEST = 1e-6


def penalize_repetition(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens that the row already holds less likely (or more, below 1).

    Args:
        logits: float32 `[B, V]`.
        seen: bool `[B, V]`, tokens of the prompt and of the continuation so far.
        penalty: float32 `[B]`, above 0; 1 is off.

    Returns:
        float32 `[B, V]`.

    Source: Keskar et al. 2019 (CTRL), section 4.1; transformers'
        `RepetitionPenaltyLogitsProcessor`.
    """
    penalty = penalty[:, None]
    penalized = tf.where(logits > 0, logits / penalty, logits * penalty)
    return tf.where(seen, penalized, logits)


def forbid(logits: tf.Tensor, tokens: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Rules tokens out in some rows.

    Args:
        logits: float32 `[B, V]`.
        tokens: bool `[B, V]`.
        rows: bool `[B]`.

    Returns:
        float32 `[B, V]`.
    """
    return tf.where(tokens & rows[:, None], NEVER, logits)


def draw(
    logits: tf.Tensor,
    *,
    temperature: tf.Tensor,
    top_k: tf.Tensor,
    top_p: tf.Tensor,
    min_p: tf.Tensor,
    seed: tf.Tensor,
    step: tf.Tensor,
) -> tf.Tensor:
    """Chooses each row's next token.

    Filters and noise are skipped, at run time, when no row of the batch asks for them: one
    program serves all settings and a greedy batch pays for none.

    Args:
        logits: float32 `[B, V]`.
        temperature: float32 `[B]`; 0 takes the most likely token.
        top_k: int32 `[B]`; 0 is off.
        top_p: float32 `[B]`; 1 is off.
        min_p: float32 `[B]`; 0 is off.
        seed: int64 `[B]`.
        step: int32 `[B]`, tokens the row drew before; `[]` is one number for all rows.

    Returns:
        int32 `[B]`.

    Source: transformers 4.57, `generation/utils.py::_get_logits_processor` for the order:
        temperature, top-k, top-p, min-p.
    """
    sampled = temperature > 0  # [B]

    def noisy() -> tf.Tensor:
        scores = logits / tf.where(sampled, tf.maximum(temperature, _COLDEST), 1.0)[:, None]
        scores = _filter(scores, keep_top_k, top_k, sampled & (top_k > 0))
        scores = _filter(scores, keep_top_p, top_p, sampled & (top_p < 1))
        scores = _filter(scores, keep_min_p, min_p, sampled & (min_p > 0))
        # Gumbel-max: the largest of score + noise is a draw from the softmax of the scores.
        scores += gumbel(seed, step, logits.shape[-1])
        return tf.where(sampled[:, None], scores, logits)

    return argmax(tf.cond(tf.reduce_any(sampled), noisy, lambda: logits))


def _filter(
    scores: tf.Tensor,
    keep: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    setting: tf.Tensor,
    rows: tf.Tensor,
) -> tf.Tensor:
    """Rules out what a filter drops; the filter runs only if some row uses it."""
    return tf.cond(
        tf.reduce_any(rows),
        lambda: tf.where(keep(scores, setting) | ~rows[:, None], scores, NEVER),
        lambda: scores,
    )

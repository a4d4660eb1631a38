"""Typical-p: the smallest set of typical tokens that reaches a probability."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import entropy_terms, smallest_set
from tfgpt2.generation.options import Option


def keep_typical(
    scores: tf.Tensor, mass: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the smallest set of typical tokens whose probability reaches `mass`.

    A token is typical when its surprisal, `-log p`, is near the distribution's entropy, so the most
    likely token may go.

    Args:
        scores: float32 `[B, V]`, logits.
        mass: float32 `[B]` in [0, 1]; 1 keeps everything, 0 only the most typical token.
        min_tokens_to_keep: int32 `[B]` or `[]`, the most typical tokens that always stay.

    Returns:
        bool `[B, V]`; ties at the edge all stay, and the most typical token always.

    Source: Meister et al. 2022, "Locally Typical Sampling"; transformers'
        `TypicalLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_typical(scores, tf.constant([0.2])).numpy().tolist()
        [[False, False, True]]
    """
    logprobs, probabilities, entropy = entropy_terms(scores)
    typical = -tf.abs(logprobs + entropy[:, None])  # [B, V], 0 at the entropy, negative elsewhere
    return smallest_set(typical, probabilities, mass, min_tokens_to_keep)


class TypicalP(LogitsWarper):
    """See `keep_typical`."""

    option = Option(
        "typical_p",
        1.0,
        "yes, per row",
        "float32",
        1.0,
        1e-6,
        1,
        "a number in [0.000001, 1]; 1 is off",
    )
    keep = staticmethod(keep_typical)

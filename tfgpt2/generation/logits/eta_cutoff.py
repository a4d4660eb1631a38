"""Eta cutoff: tokens above a probability that follows the entropy."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import entropy_terms, largest
from tfgpt2.generation.options import Option


def keep_eta(
    scores: tf.Tensor, cutoff: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the tokens that are likely enough for the distribution: the flatter, the lower the bar.

    The bar is `min(cutoff, sqrt(cutoff) * exp(-entropy))`, the entropy in nats.

    Args:
        scores: float32 `[B, V]`, logits.
        cutoff: float32 `[B]` in [0, 1]; 0 keeps everything.
        min_tokens_to_keep: int32 `[B]` or `[]`, how many of the likeliest tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing";
        transformers' `EtaLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_eta(scores, tf.constant([0.2])).numpy().tolist()
        [[False, True, True]]
    """
    _, probabilities, entropy = entropy_terms(scores)
    bar = tf.minimum(cutoff, tf.sqrt(cutoff) * tf.exp(-entropy))  # [B]
    return (probabilities >= bar[:, None]) | largest(scores, min_tokens_to_keep)


class EtaCutoff(LogitsWarper):
    """See `keep_eta`."""

    option = Option(
        "eta_cutoff", 0.0, "yes, per row", "float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"
    )
    keep = staticmethod(keep_eta)

"""Epsilon cutoff: tokens above a fixed probability."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import largest
from tfgpt2.generation.options import Option


def keep_epsilon(
    scores: tf.Tensor, cutoff: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the tokens that are at least as likely as `cutoff`.

    Args:
        scores: float32 `[B, V]`, logits.
        cutoff: float32 `[B]` in [0, 1]; 0 keeps everything.
        min_tokens_to_keep: int32 `[B]` or `[]`, how many of the likeliest tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing";
        transformers' `EpsilonLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_epsilon(scores, tf.constant([0.2])).numpy().tolist()
        [[False, True, True]]
    """
    return (tf.nn.softmax(scores) >= cutoff[:, None]) | largest(scores, min_tokens_to_keep)


class EpsilonCutoff(LogitsWarper):
    """See `keep_epsilon`."""

    option = Option(
        "epsilon_cutoff", 0.0, "yes, per row", "float32", 0.0, 0, 1, "a number in [0, 1]; 0 is off"
    )
    keep = staticmethod(keep_epsilon)

"""Min-p: tokens not much less likely than the likeliest."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import largest
from tfgpt2.generation.options import REQUEST_OPTIONS


def keep_min_p(
    scores: tf.Tensor, p: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the tokens that are at least `p` times as likely as the likeliest one.

    Args:
        scores: float32 `[B, V]`, logits.
        p: float32 `[B]` in [0, 1]; 0 keeps everything.
        min_tokens_to_keep: int32 `[B]` or `[]`, how many of the likeliest tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Nguyen et al. 2024, section 3; transformers' `MinPLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_min_p(scores, tf.constant([0.4])).numpy().tolist()
        [[False, True, True]]
    """
    best = tf.reduce_max(scores, axis=-1, keepdims=True)  # [B, 1]
    ratio = tf.exp(scores - best)
    return (ratio >= p[:, None]) | largest(scores, min_tokens_to_keep)


class MinP(LogitsWarper):
    """See `keep_min_p`."""

    option = REQUEST_OPTIONS["min_p"]
    keep = staticmethod(keep_min_p)

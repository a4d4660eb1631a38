"""Top-k: the likeliest `k` tokens."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import at_least_count
from tfgpt2.generation.options import REQUEST_OPTIONS


def keep_top_k(
    scores: tf.Tensor, k: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the scores that are among a row's `k` largest; ties at the edge all stay.

    Args:
        scores: float32 `[B, V]`.
        k: int32 `[B]`; 0 keeps everything.
        min_tokens_to_keep: int32 `[B]` or `[]`, tokens that stay whatever `k` is, 1 or more.

    Returns:
        bool `[B, V]`.

    Source: Fan et al. 2018, section 5.4; transformers' `TopKLogitsWarper`.

    Example:
        >>> keep_top_k(tf.constant([[0.1, 0.5, 0.4]]), tf.constant([2])).numpy().tolist()
        [[False, True, True]]
    """
    size = tf.shape(scores)[-1]
    return at_least_count(scores, tf.where(k > 0, tf.maximum(k, min_tokens_to_keep), size))


class TopK(LogitsWarper):
    """See `keep_top_k`."""

    option = REQUEST_OPTIONS["top_k"]
    keep = staticmethod(keep_top_k)

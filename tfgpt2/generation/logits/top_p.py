"""Top-p (nucleus): the smallest set of likeliest tokens that reaches a probability."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.threshold import smallest_set
from tfgpt2.generation.options import REQUEST_OPTIONS


def keep_top_p(
    scores: tf.Tensor, p: tf.Tensor, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Marks the tokens that make up the smallest set whose probability reaches `p`.

    Args:
        scores: float32 `[B, V]`, logits.
        p: float32 `[B]` in [0, 1]; 1 keeps everything, 0 only the likeliest token.
        min_tokens_to_keep: int32 `[B]` or `[]`, how many of the likeliest tokens stay in any case.

    Returns:
        bool `[B, V]`; ties at the edge all stay, and the likeliest token always.

    Source: Holtzman et al. 2019, section 3.1; transformers' `TopPLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_top_p(scores, tf.constant([0.8])).numpy().tolist()
        [[False, True, True]]
    """
    return smallest_set(scores, tf.nn.softmax(scores), p, min_tokens_to_keep)


class TopP(LogitsWarper):
    """See `keep_top_p`."""

    option = REQUEST_OPTIONS["top_p"]
    keep = staticmethod(keep_top_p)

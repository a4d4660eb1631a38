"""Thresholds on scores, found by bisection over integers instead of sorting the vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def smallest_set(
    order: tf.Tensor, probabilities: tf.Tensor, mass: tf.Tensor, least: tf.Tensor | int
) -> tf.Tensor:
    """Marks the first tokens in an order that together reach a mass.

    Args:
        order: float32 `[B, V]`; the largest come first, and ties come together.
        probabilities: float32 `[B, V]`.
        mass: float32 `[B]`; 1 marks everything.
        least: int32 `[B]` or `[]`, how many are marked in any case.

    Returns:
        bool `[B, V]`.
    """
    keys = ordered_keys(order)

    def enough(threshold: tf.Tensor) -> tf.Tensor:
        kept = tf.where(keys >= threshold[:, None], probabilities, 0.0)  # [B, V]
        return tf.reduce_sum(kept, axis=-1) >= mass

    threshold = largest_threshold(keys, enough)
    return (keys >= threshold[:, None]) | (mass >= 1)[:, None] | largest(order, least)


def largest(scores: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Marks each row's `count` largest scores: bool `[B, V]`; one needs no search."""
    if isinstance(count, int) and count == 1:
        return scores >= tf.reduce_max(scores, axis=-1, keepdims=True)
    count = tf.broadcast_to(tf.maximum(count, 1), [tf.shape(scores)[0]])
    return at_least_count(scores, count)


def at_least_count(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks each row's `count` (int32 `[B]`) largest scores, ties included: bool `[B, V]`."""
    count = tf.minimum(count, tf.shape(scores)[-1])
    keys = ordered_keys(scores)
    threshold = largest_threshold(
        keys,
        lambda threshold: (
            tf.reduce_sum(tf.cast(keys >= threshold[:, None], tf.int32), axis=-1) >= count
        ),
    )
    return keys >= threshold[:, None]


def entropy_terms(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits `[B, V]` -> log-probabilities and probabilities `[B, V]`, entropy `[B]` in nats."""
    logprobs = tf.nn.log_softmax(scores)
    probabilities = tf.exp(logprobs)
    # A token without probability adds nothing, however far below its logit lies.
    terms = tf.where(probabilities > 0, probabilities * logprobs, 0.0)
    return logprobs, probabilities, -tf.reduce_sum(terms, axis=-1)


def ordered_keys(scores: tf.Tensor) -> tf.Tensor:
    """Maps float32 to int32 so that the order stays: a search over integers is exact."""
    bits = tf.bitcast(scores + 0.0, tf.int32)  # -0.0 becomes 0.0
    return tf.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def largest_threshold(keys: tf.Tensor, enough: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Bisects for the largest threshold that is low enough, without sorting the vocabulary.

    Args:
        keys: int32 `[B, V]`.
        enough: From thresholds `[B]` to bool `[B]`, whether the keys from that threshold up
            suffice: True below some threshold and False above it.

    Returns:
        int32 `[B]`; the smallest key where nothing is ever enough.
    """
    low, high = tf.reduce_min(keys, axis=-1), tf.reduce_max(keys, axis=-1)  # [B]

    def narrow(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The upper middle, without overflow: ceil((low + high) / 2).
        middle = (low | high) - tf.bitwise.right_shift(low ^ high, 1)
        fits = enough(middle)
        return tf.where(fits, middle, low), tf.where(fits, high, middle - 1)

    low, _ = tf.while_loop(
        lambda low, high: tf.reduce_any(low < high), narrow, (low, high), maximum_iterations=34
    )
    return low

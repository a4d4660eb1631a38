"""The scores of chosen tokens, from the scores of all tokens that `generate` returned."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def transition_scores(
    sequences: tf.Tensor,
    scores: Sequence[tf.Tensor],
    beam_indices: tf.Tensor | None = None,
    *,
    normalize_logits: bool = False,
) -> tf.Tensor:
    """Picks the score of each generated token.

    Args:
        sequences: int `[R, P + T]`, prompts and continuations.
        scores: `T` floats `[R, V]`, or `[B * K, V]` of a beam search.
        beam_indices: int `[R, T]`, the row of each step's scores that a token was chosen from; -1
            after the end. None is the token's own row.
        normalize_logits: Whether scores become log-probabilities.

    Returns:
        Float `[R, T]`; 0 after the end of a beam.

    Source: transformers 4.57, `generation/tf_utils.py::compute_transition_scores` (behaviour).
    """
    table = tf.stack(list(scores), axis=1)  # [B * K, T, V]
    if normalize_logits:
        table = tf.nn.log_softmax(table, axis=-1)
    steps, sequences = tf.shape(table)[1], tf.cast(sequences, tf.int32)
    if beam_indices is None:
        beam_indices = tf.repeat(tf.range(tf.shape(sequences)[0])[:, None], steps, axis=1)
    beam_indices = tf.cast(beam_indices, tf.int32)
    ended = beam_indices < 0  # [R, T]
    longest = tf.reduce_max(tf.reduce_sum(tf.cast(~ended, tf.int32), axis=1))
    ended, rows = ended[:, :longest], tf.maximum(beam_indices[:, :longest], 0)
    tokens = sequences[:, tf.shape(sequences)[1] - longest :]  # [R, T]
    places = tf.broadcast_to(tf.range(longest), tf.shape(tokens))
    chosen = tf.gather_nd(table, tf.stack([rows, places, tokens], axis=-1))  # [R, T]
    return tf.where(ended, tf.cast(0, chosen.dtype), chosen)

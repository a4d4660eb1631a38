"""Results of decoding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.params import DecodeSpec, Nothing


class TopLogprobs(NamedTuple):
    """The likeliest tokens at each position, under the model's own distribution.

    Attributes:
        ids: int32 `[R, T, N]`.
        logprobs: float32 `[R, T, N]`, nats.
    """

    ids: tf.Tensor
    logprobs: tf.Tensor


class Result(NamedTuple):
    """Generated sequences; `R` rows, those of a prompt next to each other.

    Attributes:
        tokens: int32 `[R, T]`, the continuation, the end token included; 0 after it.
        logprobs: float32 `[R, T]`, nats of each token under the model's own distribution
            (before temperature and filters); 0 after the end.
        count: int32 `[R]`, tokens of each row.
        reason: int32 `[R]`, a code of `tfgpt2.generation.stopping`.
        cut: int32 `[R]`, bytes of text before a stop string; -1 without one.
        score: float32 `[R]` of beam search: the sum of processed log-probabilities after length
            penalty.
        beam_indices: int32 `[R, T]` of beam search: the beam that each token was appended to.
        top: The likeliest tokens.
        scores: float32 `[R, T, V]`, after processing; `[B * K, T, V]` of beam search, whose
            `beam_indices` are rows of it.
        logits: float32, like `scores`, as the model gave them.
        steps: int32 `[]`, calls of the model.
    """

    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    cut: tf.Tensor
    score: tf.Tensor | Nothing = ()
    beam_indices: tf.Tensor | Nothing = ()
    top: TopLogprobs | Nothing = ()
    scores: tf.Tensor | Nothing = ()
    logits: tf.Tensor | Nothing = ()
    steps: tf.Tensor | Nothing = ()


def no_rows(spec: DecodeSpec, vocab_size: int, *, beams: bool) -> Result:
    """The result for no prompts, since XLA compiles no program for zero rows.

    Args:
        spec: What would have run.
        vocab_size: `V`.
        beams: Whether it is beam search.
    """
    ids, numbers, none = tf.zeros([0, 0], tf.int32), tf.zeros([0, 0]), tf.zeros([0], tf.int32)
    result = Result(ids, numbers, none, none, none)
    if spec.top_logprobs:
        top = [0, 0, spec.top_logprobs]
        result = result._replace(top=TopLogprobs(tf.zeros(top, tf.int32), tf.zeros(top)))
    scores = tf.zeros([0, 0, vocab_size])
    return result._replace(
        score=tf.zeros([0]) if beams else (),
        beam_indices=ids if beams else (),
        scores=scores if spec.output_scores else (),
        logits=scores if spec.output_logits else (),
    )


def select_best(result: Result, spec: DecodeSpec) -> Result:
    """Keeps the likeliest sequences of each prompt, by mean log-probability of a token.

    Args:
        result: `spec.rows_per_prompt` rows for each prompt.
        spec: With `best_of`, its `num_return_sequences` stay, the likeliest first.
    """
    if not spec.best_of:
        return result
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(result.logprobs, axis=1), tf.cast(result.count, tf.float32)
    )  # [B * n]
    mean = tf.reshape(mean, [-1, spec.rows_per_prompt])  # [B, n]
    order = tf.math.top_k(mean, spec.num_return_sequences).indices  # [B, num_return_sequences]
    first = tf.range(tf.shape(mean)[0])[:, None] * spec.rows_per_prompt
    index = tf.reshape(first + order, [-1])  # [B * num_return_sequences]
    best = tf.nest.map_structure(lambda x: tf.gather(x, index), result._replace(steps=()))
    return best._replace(steps=result.steps)


def record(table: tf.Tensor | Nothing, values: tf.Tensor, here: tf.Tensor) -> tf.Tensor | Nothing:
    """Writes values `[..., X]` into a table `[..., T, X]` at bool `[..., T]`, if there is one."""
    if isinstance(table, tuple):
        return table
    return tf.where(here[..., None], values[..., None, :], table)


def check_finite(logprobs: np.ndarray) -> None:
    """Refuses the results of a model whose weights are broken.

    Raises:
        ValueError: A log-probability is NaN or infinite.
    """
    if not np.all(np.isfinite(logprobs)):
        raise value_error(
            "The model's scores are not numbers: its weights or activations overflow.",
            fix="Check the weights for NaN and infinity, or use a wider dtype.",
            logprobs=logprobs[~np.isfinite(logprobs)][:3].tolist(),
        )

"""Penalties on tokens that occur: repetition, presence, frequency, diversity of beam groups."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.logits.base import LogitsProcessor, ProcessorContext
from tfgpt2.generation.logits.vocab_ops import count_ids
from tfgpt2.generation.options import REQUEST_OPTIONS, Option


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


class RepetitionPenalty(LogitsProcessor):
    """See `penalize_repetition`, over prompt and continuation."""

    option, skips = REQUEST_OPTIONS["repetition_penalty"], True

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        seen = context.seen(context.mask, scores.shape[-1])
        return penalize_repetition(scores, seen, value)


class EncoderRepetitionPenalty(LogitsProcessor):
    """Makes the prompt's tokens more likely (or less, below 1).

    Source: transformers' `EncoderRepetitionPenaltyLogitsProcessor`.
    """

    option = Option(
        "encoder_repetition_penalty", 1.0, "yes, per row, over the prompt",
        "float32", 1.0, 1e-3, 1e3, "a number in [0.001, 1000]; 1 is off",
    )  # fmt: skip

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        prompt = context.seen(context.mask & context.in_prompt, scores.shape[-1])
        return penalize_repetition(scores, prompt, 1.0 / value)


def penalize_presence(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token that the continuation holds, once.

    Args:
        logits: float32 `[B, V]`.
        counts: int32 `[B, V]`, how often the row has *generated* each token; the prompt does not
            count.
        penalty: float32 `[B]`, logits; 0 is off, below it tokens become more likely.

    Returns:
        float32 `[B, V]`.

    Source: OpenAI API reference, `presence_penalty`: `score - presence * (count > 0)`, over the
        generated tokens.

    Example:
        >>> counts = tf.constant([[0, 1, 3]])
        >>> penalize_presence(tf.zeros([1, 3]), counts, tf.constant([0.5])).numpy().tolist()
        [[0.0, -0.5, -0.5]]
    """
    return logits - tf.where(counts > 0, penalty[:, None], 0.0)


def penalize_frequency(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token as often as the continuation holds it.

    Args:
        logits: float32 `[B, V]`.
        counts: int32 `[B, V]`, how often the row has *generated* each token; the prompt does not
            count.
        penalty: float32 `[B]`, logits per occurrence; 0 is off.

    Returns:
        float32 `[B, V]`.

    Source: OpenAI API reference, `frequency_penalty`: `score - frequency * count`, over the
        generated tokens.

    Example:
        >>> counts = tf.constant([[0, 1, 3]])
        >>> penalize_frequency(tf.zeros([1, 3]), counts, tf.constant([0.5])).numpy().tolist()
        [[0.0, -0.5, -1.5]]
    """
    return logits - tf.where(counts > 0, penalty[:, None] * tf.cast(counts, tf.float32), 0.0)


class PresencePenalty(LogitsProcessor):
    """See `penalize_presence`, over the new tokens."""

    option = Option(
        "presence_penalty", 0.0, "own, OpenAI's formula over new tokens, per row",
        "float32", 0.0, -100, 100, "a number in [-100, 100]",
    )  # fmt: skip
    skips = True

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        return penalize_presence(scores, _new_token_counts(context, scores.shape[-1]), value)


class FrequencyPenalty(LogitsProcessor):
    """See `penalize_frequency`, over the new tokens."""

    option = Option(
        "frequency_penalty", 0.0, "own, OpenAI's formula over new tokens, per row",
        "float32", 0.0, -100, 100, "a number in [-100, 100]",
    )  # fmt: skip
    skips = True

    def __call__(self, scores: tf.Tensor, value: tf.Tensor, context: ProcessorContext) -> tf.Tensor:
        return penalize_frequency(scores, _new_token_counts(context, scores.shape[-1]), value)


def _new_token_counts(context: ProcessorContext, vocab_size: int) -> tf.Tensor:
    """Counts of the tokens that each row has generated: int32 `[R, V]`."""
    new = context.mask & ~context.in_prompt  # [R, S]
    return count_ids(tf.where(new, context.input_ids, -1), vocab_size)


def hamming_diversity(logits: tf.Tensor, chosen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Takes `penalty` off each token as often as earlier beam groups chose it in this step.

    Args:
        logits: float32 `[B, V]`.
        chosen: int32 `[B, M]`, tokens of the earlier groups of the row's prompt; -1 is none.
        penalty: float32 `[B]`, 0 or more; 0 is off.

    Returns:
        float32 `[B, V]`.

    Source: Vijayakumar et al. 2016, "Diverse Beam Search"; transformers 4.57's
        `HammingDiversityLogitsProcessor`.

    Example:
        >>> chosen = tf.constant([[2, 2, -1]])
        >>> hamming_diversity(tf.zeros([1, 3]), chosen, tf.constant([0.5])).numpy().tolist()
        [[0.0, 0.0, -1.0]]
    """
    return penalize_frequency(logits, count_ids(chosen, logits.shape[-1]), penalty)

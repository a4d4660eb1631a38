"""The logits processors in their order, applied to the scores of a step.

    apply_processors   what changes or rules out tokens: biases, penalties, forbidden, forced
    apply_constraint   what the text must match
    apply_warpers      temperature and filters, where tokens are drawn

Source for the order: transformers 4.57, `generation/utils.py::_get_logits_processor`.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.constraints import masking
from tfgpt2.generation.logits.base import LogitsProcessor, LogitsWarper, ProcessorContext
from tfgpt2.generation.logits.bias import BadWords, SequenceBias
from tfgpt2.generation.logits.epsilon_cutoff import EpsilonCutoff
from tfgpt2.generation.logits.eta_cutoff import EtaCutoff
from tfgpt2.generation.logits.forced import (
    BeginSuppressTokens,
    ForcedBosToken,
    ForcedEosToken,
    MinNewTokens,
    SuppressTokens,
)
from tfgpt2.generation.logits.length import ExponentialDecayLengthPenalty
from tfgpt2.generation.logits.min_p import MinP
from tfgpt2.generation.logits.ngrams import EncoderNoRepeatNgram, NoRepeatNgram
from tfgpt2.generation.logits.penalties import (
    EncoderRepetitionPenalty,
    FrequencyPenalty,
    PresencePenalty,
    RepetitionPenalty,
)
from tfgpt2.generation.logits.temperature import Temperature, divisor
from tfgpt2.generation.logits.top_k import TopK
from tfgpt2.generation.logits.top_p import TopP
from tfgpt2.generation.logits.typical_p import TypicalP
from tfgpt2.generation.logits.validity import RemoveInvalidValues, RenormalizeLogits
from tfgpt2.generation.logits.vocab_ops import RULED_OUT
from tfgpt2.generation.params import DecodeSpec, SamplingParams
from tfgpt2.nn.attention import MASK_VALUE

# To add a processor: a line here, at its place in the order of application.
PROCESSORS: tuple[LogitsProcessor, ...] = (
    SequenceBias(),
    EncoderRepetitionPenalty(),
    RepetitionPenalty(),
    PresencePenalty(),
    FrequencyPenalty(),
    NoRepeatNgram(),
    EncoderNoRepeatNgram(),
    BadWords(),
    MinNewTokens(),
    ForcedBosToken(),
    ForcedEosToken(),
    RemoveInvalidValues(),
    ExponentialDecayLengthPenalty(),
    SuppressTokens(),
    BeginSuppressTokens(),
    Temperature(),
    TopK(),
    TopP(),
    MinP(),
    TypicalP(),
    EpsilonCutoff(),
    EtaCutoff(),
    RenormalizeLogits(),
)


def apply_processors(scores: tf.Tensor, context: ProcessorContext, spec: DecodeSpec) -> tf.Tensor:
    """Applies all processors that the parameters hold, except for warpers.

    Args:
        scores: float32 `[R, V]`, the logits.
        context: The sequences so far, and their parameters.
        spec: Holds a user's own processors, which come last.

    Returns:
        float32 `[R, V]`.
    """
    options = context.params.options
    for processor in PROCESSORS:
        warps = isinstance(processor, (LogitsWarper, RenormalizeLogits))
        if processor.option.name in options and not warps:
            scores = processor.apply(scores, options[processor.option.name], context)
    for function in spec.logits_processors:
        changed = function(context.input_ids, tf.cast(context.mask, tf.int32), scores)
        scores = tf.ensure_shape(tf.cast(changed, tf.float32), scores.shape)
    return scores


def apply_constraint(
    scores: tf.Tensor, logits: tf.Tensor, context: ProcessorContext, state: tf.Tensor
) -> tf.Tensor:
    """Leaves the tokens that a row's automaton allows: float32 `[R, V]`.

    Where the processors ruled out all of those, the automaton wins: the text matches.

    Args:
        scores: float32 `[R, V]`, after processing.
        logits: float32 `[R, V]`, before it.
        context: The sequences so far, and their parameters.
        state: int32 `[R]`, the state of each row in its automaton.
    """
    constraint, ends = context.params.constraint, context.params.eos_token_ids
    remaining = context.max_new_tokens - context.num_new_tokens  # [R]
    allowed = masking.mask_logits(scores, constraint, state, ends, remaining)
    none_left = tf.reduce_max(allowed, axis=-1, keepdims=True) <= RULED_OUT  # [R, 1]
    return tf.cond(
        tf.reduce_any(none_left),
        lambda: tf.where(
            none_left, masking.mask_logits(logits, constraint, state, ends, remaining), allowed
        ),
        lambda: allowed,
    )


def apply_warpers(
    scores: tf.Tensor, params: SamplingParams, min_tokens_to_keep: tf.Tensor | int = 1
) -> tf.Tensor:
    """Applies temperature and filters, one after the other, and what comes after them.

    Each is skipped, at run time, when no row of the batch uses it: one program serves all settings,
    and a batch pays for what its rows use.

    Args:
        scores: float32 `[R, V]`, logits or log-probabilities.
        params: The settings of each row; those of temperature 0 stay as they are.
        min_tokens_to_keep: int32 `[R]` or `[]`, tokens of a row that every filter leaves; beam
            sampling needs one more than there are end tokens.

    Returns:
        float32 `[R, V]`, `MASK_VALUE` where a token is ruled out.
    """
    options = params.options
    temperature = options["temperature"]  # [R]
    sampled = temperature > 0

    def warp() -> tf.Tensor:
        warped = Temperature()(scores, temperature, None)
        for warper in PROCESSORS:
            name = warper.option.name
            if isinstance(warper, LogitsWarper) and name in options and name != "temperature":
                rows = sampled & (options[name] != warper.option.off)
                warped = _filter(warper, warped, options[name], rows, min_tokens_to_keep)
        return warped

    scores = tf.cond(tf.reduce_any(sampled), warp, lambda: scores)
    renormalize = RenormalizeLogits()
    if renormalize.option.name in options:
        scores = renormalize(scores, options[renormalize.option.name], None)
    return scores


def nothing_left(best: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Marks the rows all of whose tokens were ruled out: bool `[R]`.

    Args:
        best: float32 `[R]`, the largest score of each row after warping, with noise or without.
        temperature: float32 `[R]`.
    """
    return best * divisor(temperature) <= RULED_OUT


def _filter(
    warper: LogitsWarper,
    scores: tf.Tensor,
    value: tf.Tensor,
    rows: tf.Tensor,
    min_tokens_to_keep: tf.Tensor | int,
) -> tf.Tensor:
    """Rules out what a filter drops in some rows (bool `[R]`), if there are any."""
    return tf.cond(
        tf.reduce_any(rows),
        lambda: tf.where(
            warper.keep(scores, value, min_tokens_to_keep) | ~rows[:, None], scores, MASK_VALUE
        ),
        lambda: scores,
    )

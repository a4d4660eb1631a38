"""Everything a request asks of a step's logits, in transformers' order.

    process   what changes or rules out tokens: biases, penalties, forbidden and forced tokens
    warped    temperature and filters, where tokens are drawn
    noisy     the noise that makes the largest score a draw

Source for the order: transformers 4.57, `generation/utils.py::_get_logits_processor`.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.constraints import masking as automaton
from tfgpt2.generation.constraints.masking import Constraint
from tfgpt2.generation.logits import history as sequences
from tfgpt2.generation.logits import processors
from tfgpt2.generation.logits import vocab_ops as id_lists
from tfgpt2.generation.logits.processors import Warping
from tfgpt2.generation.logits.sampling import gumbel
from tfgpt2.generation.request import History, Program, Request
from tfgpt2.nn.attention import MASK_VALUE


def process(
    logits: tf.Tensor, history: History, request: Request, program: Program, limit: tf.Tensor
) -> tf.Tensor:
    """Applies what a request asks, except for temperature and filters.

    Args:
        logits: float32 `[R, V]`.
        history: The tokens so far.
        request: The settings of each row.
        program: Holds a user's own processors.
        limit: int32 `[R]`, most new tokens of each row.

    Returns:
        float32 `[R, V]`.
    """
    size, ids, held = logits.shape[-1], history.ids, history.mask
    in_prompt = tf.range(tf.shape(ids)[1])[None] < history.prompt  # [1, S]
    scores = logits
    if request.sequence_bias:
        scores = sequences.add_sequence_bias(scores, ids, held, request.sequence_bias)
    if _asked(request.encoder_repetition_penalty):
        prompt = seen(ids, held & in_prompt, size)
        scores = processors.penalize_encoder_repetition(
            scores, prompt, request.encoder_repetition_penalty
        )
    scores = _unless_off(
        tf.reduce_any(request.repetition_penalty != 1),
        scores,
        lambda: processors.penalize_repetition(
            scores, seen(ids, held, size), request.repetition_penalty
        ),
    )
    scores = _penalize_use(scores, history, request)
    if _asked(request.no_repeat_ngram_size):
        scores = sequences.forbid_repeated_ngrams(scores, ids, held, request.no_repeat_ngram_size)
    if _asked(request.encoder_no_repeat_ngram_size):
        scores = sequences.forbid_repeated_ngrams(
            scores, ids, held, request.encoder_no_repeat_ngram_size, source=held & in_prompt
        )
    if request.bad_words:
        scores = sequences.add_sequence_bias(scores, ids, held, request.bad_words)
    scores = _unless_off(
        tf.reduce_any(history.count < request.min_new_tokens),
        scores,
        lambda: processors.forbid(
            scores, id_lists.mark(request.eos, size), history.count < request.min_new_tokens
        ),
    )
    scores = _force(scores, history, request, limit)
    if _asked(request.remove_invalid_values):
        scores = processors.remove_invalid(scores, request.remove_invalid_values)
    if request.decay:
        scores = processors.decay_length(
            scores, request.eos, request.decay.start, request.decay.factor, history.count
        )
    if _asked(request.suppress_tokens):
        scores = processors.suppress(scores, request.suppress_tokens)
    if _asked(request.begin_suppress_tokens):
        first = history.count == 0
        if _asked(request.forced_bos_token_id):  # then the first one is not free
            first = history.count == tf.cast(_length(history) - history.count == 1, tf.int32)
        scores = processors.begin_suppress(scores, request.begin_suppress_tokens, first)
    for function in program.processors:
        changed = function(ids, tf.cast(held, tf.int32), scores)
        scores = tf.ensure_shape(tf.cast(changed, tf.float32), scores.shape)
    return scores


def constrain(
    scores: tf.Tensor,
    logits: tf.Tensor,
    constraint: Constraint,
    state: tf.Tensor,
    eos: tf.Tensor,
    remaining: tf.Tensor,
) -> tf.Tensor:
    """Leaves just the tokens that a row's automaton allows: float32 `[R, V]`.

    Where everything that it allows was ruled out before, the automaton wins: the text matches.

    Args:
        scores: float32 `[R, V]`, after processing.
        logits: float32 `[R, V]`, before it.
        constraint: The automata.
        state: int32 `[R]`, where each row is in its automaton.
        eos: int32 `[R, E]`.
        remaining: int32 `[R]`, tokens that each row may still get.
    """
    allowed = automaton.allow(scores, constraint, state, eos, remaining)
    dead = tf.reduce_max(allowed, axis=-1, keepdims=True) <= MASK_VALUE / 2  # [R, 1]
    return tf.cond(
        tf.reduce_any(dead),
        lambda: tf.where(dead, automaton.allow(logits, constraint, state, eos, remaining), allowed),
        lambda: allowed,
    )


def met(program: Program, ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Says which rows a user's criteria end: bool `[R]`, from ids and mask `[R, S]`."""
    mask = tf.cast(mask, tf.int32)
    done = tf.zeros(tf.shape(ids)[:1], tf.bool)
    for criterion in program.criteria:
        done |= tf.ensure_shape(tf.cast(criterion(ids, mask), tf.bool), [None])
    return done


def warped(scores: tf.Tensor, request: Request, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Applies temperature and filters, and what comes after them: float32 `[R, V]`.

    Args:
        scores: float32 `[R, V]`.
        request: The settings of each row; those of temperature 0 stay as they are.
        least: Tokens that every filter leaves; see `processors.warp`.
    """
    asked = {
        name: getattr(request, name)
        for name in Warping._fields
        if not isinstance(getattr(request, name), tuple)
    }
    scores = processors.warp(scores, Warping(**asked), least)
    if _asked(request.renormalize_logits):
        scores = processors.renormalize(scores, request.renormalize_logits)
    return scores


def noisy(scores: tf.Tensor, request: Request, count: tf.Tensor) -> tf.Tensor:
    """Adds Gumbel noise where tokens are drawn: the largest sum is a draw from the softmax.

    Args:
        scores: float32 `[R, V]`.
        request: The settings of each row.
        count: int32 `[R]`, tokens that were drawn before; the noise depends on it and the seed.
    """
    sampled = request.temperature > 0  # [R]
    return _unless_off(
        tf.reduce_any(sampled),
        scores,
        lambda: tf.where(
            sampled[:, None], scores + gumbel(request.seed, count, scores.shape[-1]), scores
        ),
    )


def seen(ids: tf.Tensor, held: tf.Tensor, size: int) -> tf.Tensor:
    """Marks the tokens that each row holds: int32 `[R, S]` where bool `[R, S]` -> bool `[R, V]`."""
    return id_lists.mark(tf.where(held, ids, -1), size)


def _length(history: History) -> tf.Tensor:
    """Tokens of each row, the prompt's included: int32 `[R]`."""
    return tf.reduce_sum(tf.cast(history.mask, tf.int32), axis=1)


def _asked(field: tf.Tensor | tuple[()]) -> bool:
    return not isinstance(field, tuple)


def _unless_off(used: tf.Tensor, scores: tf.Tensor, change: object) -> tf.Tensor:
    """Changes the scores only if some row asks for it; the program serves both."""
    return tf.cond(used, change, lambda: scores)


def _penalize_use(scores: tf.Tensor, history: History, request: Request) -> tf.Tensor:
    """Presence and frequency penalties, over the new tokens."""
    if not _asked(request.presence_penalty) and not _asked(request.frequency_penalty):
        return scores
    new = tf.range(tf.shape(history.ids)[1])[None] >= history.prompt  # [1, S]
    counts = id_lists.count(tf.where(history.mask & new, history.ids, -1), scores.shape[-1])
    if _asked(request.presence_penalty):
        scores = processors.penalize_presence(scores, counts, request.presence_penalty)
    if _asked(request.frequency_penalty):
        scores = processors.penalize_frequency(scores, counts, request.frequency_penalty)
    return scores


def _force(scores: tf.Tensor, history: History, request: Request, limit: tf.Tensor) -> tf.Tensor:
    """Tokens that must come at their place."""
    if _asked(request.forced_bos_token_id):
        alone = _length(history) == 1
        scores = processors.force_token(scores, request.forced_bos_token_id, alone)
    if _asked(request.forced_eos_token_id):
        last = history.count == limit - 1
        scores = processors.force_token(scores, request.forced_eos_token_id, last)
    return scores

"""One step of beam search: the candidates of a row's beams, and which of them are kept.

What ordinary and diverse beam search have in common.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.logits.penalties import hamming_diversity
from tfgpt2.generation.logits.pipeline import apply_warpers
from tfgpt2.generation.logits.random import add_gumbel_noise
from tfgpt2.generation.params import SamplingParams, repeat_rows
from tfgpt2.generation.results import record
from tfgpt2.generation.stopping import StopState
from tfgpt2.generation.strategies.base import DecodeTask
from tfgpt2.generation.strategies.beam_state import (
    EXACT,
    FULL,
    NO_BEAM,
    Beams,
    BeamState,
    flatten_beams,
    gather_beams,
)
from tfgpt2.nn.attention import MASK_VALUE


class Candidates(NamedTuple):
    """The best continuations of each row's beams, best first.

    Attributes:
        beams: `[B, M]` hypotheses; those that have not ended have the reason RUNNING.
        parent: int32 `[B, M]`, the beam that each continues.
        token: int32 `[B, M]`, its last token.
        stop: State of the stop strings, `[B, M, ...]`; an empty tuple without any.
        broken: bool `[B]`, rows where the model's scores are not numbers.
        scores: float32 `[B, K, V]`, what the beams chose from: processed, not yet added up.
    """

    beams: Beams
    parent: tf.Tensor
    token: tf.Tensor
    stop: StopState | tuple[()]
    broken: tf.Tensor
    scores: tf.Tensor


def score_candidates(
    task: DecodeTask,
    state: BeamState,
    logits: tf.Tensor,
    first: tf.Tensor,
    *,
    draws: bool = True,
    previous_group_tokens: tf.Tensor | None = None,
) -> Candidates:
    """Finds the best continuations of all beams.

    Args:
        task: What is searched.
        state: The search so far.
        logits: float32 `[B * K, V]`, of each beam's next token.
        first: int32 `[B]`, the number of each row's first beam; see `Beams.beam_indices`.
        draws: Whether rows with a temperature draw.
        previous_group_tokens: int32 `[B, C]`, tokens that cost `diversity_penalty`, -1 for none.
    """
    params, options = task.params, task.params.options
    beams, size = state.token.shape[1], logits.shape[-1]
    total = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)  # [B * K, 1]
    broken = tf.reduce_any(tf.reshape(~tf.math.is_finite(total), [-1, beams]), axis=1)  # [B]
    logprobs = logits - total  # [B * K, V]
    scores = logprobs
    if "guidance_scale" in options:
        # transformers adds up what guidance makes of log-probabilities, sum 1 or not.
        guided = tf.repeat(options["guidance_scale"], beams)[:, None] != 1  # [B * K, 1]
        scores = tf.where(guided, logits, logprobs)
    if previous_group_tokens is not None:
        penalty = tf.repeat(options["diversity_penalty"], beams)  # [B * K]
        chosen = tf.repeat(previous_group_tokens, beams, axis=0)  # [B * K, C]
        scores = hamming_diversity(scores, chosen, penalty)
    processed = tf.reshape(_process(task, state, scores), [-1, beams, size])  # [B, K, V]
    scores = tf.reshape(processed + state.running.score[..., None], [-1, beams * size])
    # Enough that `K` beams continue even when every end token of every beam is among them.
    most = tf.minimum(beams * tf.maximum(2, 1 + tf.shape(params.eos_token_ids)[1]), beams * size)
    noisy = scores
    if draws:  # the `M` largest of score + noise are `M` draws without replacement
        noisy = add_gumbel_noise(scores, options["temperature"], params.seed, state.step)
    index = tf.math.top_k(noisy, most).indices  # [B, M]
    parent, token = index // size, index % size  # [B, M]
    logprob = tf.gather(tf.reshape(logprobs, [-1, beams * size]), index, batch_dims=1)
    old, here = gather_beams(state.running, parent), _column(state)
    stop = _match_stops(task, state, parent, token)
    reason = tf.zeros_like(token) + stopping.RUNNING
    end = tf.reduce_any(params.eos_token_ids[:, None] == token[..., None], axis=-1)  # [B, M]
    reason = tf.where(end, stopping.EOS, reason)
    if stop:
        reason = tf.where(stop.cut >= 0, stopping.STOP, reason)
    found = Beams(
        score=tf.gather(scores, index, batch_dims=1),
        tokens=tf.where(here, token[..., None], old.tokens),
        logprobs=tf.where(here, logprob[..., None], old.logprobs),
        count=old.count + 1,
        reason=reason,
        beam_indices=tf.where(here, (first[:, None] + parent)[..., None], old.beam_indices),
        cut=stop.cut if stop else old.cut,
    )
    if task.spec.stopping_criteria:
        context = _context(task, found.tokens, state.step + 1)
        met = stopping.stopping_criteria_met(
            task.spec.stopping_criteria, context.input_ids, context.mask
        )
        met = tf.reshape(met, tf.shape(token)) & (reason == stopping.RUNNING)
        found = found._replace(reason=tf.where(met, stopping.STOP, reason))
    return Candidates(found, parent, token, stop, broken, processed)


def record_scores(
    state: BeamState, found: Candidates, logits: tf.Tensor
) -> dict[str, tf.Tensor | tuple[()]]:
    """The tables of `BeamState` with this step's scores and logits `[B * K, V]`, if it has any."""
    here = _column(state)  # [1, 1, T]
    logits = tf.reshape(logits, tf.shape(found.scores))
    return {
        "scores": record(state.scores, found.scores, here),
        "logits": record(state.logits, logits, here),
    }


def advance_beams(state: BeamState, found: Candidates) -> BeamState:
    """Continues the best candidates that have not ended; `step` is not counted here."""
    size, beams = state.token.shape[1], found.beams
    # A hypothesis that has ended does not continue, even where there are fewer than `K` that do.
    score = tf.where(beams.reason == stopping.RUNNING, beams.score, MASK_VALUE)
    order = tf.math.top_k(score, size).indices  # [B, K]
    running, parent, token, stop = gather_beams(
        (beams._replace(score=score), found.parent, found.token, found.stop), order
    )  # [B, K]
    # A model whose scores are not numbers ends the row's search, and the result shows it.
    score = tf.where(found.broken[:, None], float("nan"), running.score)
    return state._replace(
        running=running._replace(score=score),
        token=token,
        parent=parent,
        stop=stop,
    )


def keep_finished(
    finished: Beams, candidates: Beams, new: tf.Tensor, params: SamplingParams
) -> Beams:
    """Keeps the best finished hypotheses: `[B, K]` of those and of bool `new` `[B, M]`."""
    new &= candidates.score > NO_BEAM / 2
    power = params.options["length_penalty"][:, None]  # [B, 1]
    length = tf.cast(tf.maximum(candidates.count, 1), tf.float32)  # [B, M]
    candidates = candidates._replace(
        score=tf.where(new, candidates.score / length**power, MASK_VALUE),
        reason=tf.where(new, candidates.reason, stopping.RUNNING),
        count=tf.where(new, candidates.count, 0),
    )
    both = tf.nest.map_structure(lambda *x: tf.concat(x, axis=1), finished, candidates)
    return gather_beams(both, tf.math.top_k(both.score, finished.score.shape[1]).indices)


def keep_stuck(
    finished: Beams, state: BeamState, candidates: Beams, params: SamplingParams
) -> Beams:
    """Keeps the hypotheses of rows whose tokens were all ruled out: they end where they are.

    Args:
        finished: The finished hypotheses, `[B, K]`.
        state: The search before this step.
        candidates: `[B, M]`, the best continuations.
        params: See `keep_finished`.
    """
    stuck = state.searching & tf.reduce_all(candidates.score <= NO_BEAM / 2, axis=1)  # [B]
    ended = state.running._replace(reason=tf.fill(tf.shape(state.token), stopping.NO_TOKEN))
    return tf.cond(
        tf.reduce_any(stuck),
        lambda: keep_finished(finished, ended, stuck[:, None], params),
        lambda: finished,
    )


def can_improve(
    best: tf.Tensor, finished: Beams, limit: tf.Tensor, length: tf.Tensor, params: SamplingParams
) -> tf.Tensor:
    """Marks the rows whose beams may still beat a finished hypothesis: bool `[B]`.

    Args:
        best: float32 `[B]`, the best score of a beam.
        finished: The finished hypotheses.
        limit: int32 `[B]`, most tokens of each row.
        length: int32 `[]`, tokens of the beams.
        params: Holds `length_penalty`, and `early_stopping`: `FULL` stops with `K` finished
            hypotheses; `HEURISTIC` when the best beam, at its present length, is no better than
            the worst finished one; `EXACT` when no beam can become better at any length.

    Source: transformers 4.57, `generation/utils.py::_check_early_stop_heuristic`, and 4.55,
        `generation/beam_search.py::BeamHypotheses.is_done`.
    """
    early, power = params.options["early_stopping"], params.options["length_penalty"]
    longest = (early == EXACT) & (power > 0)
    length = tf.cast(tf.where(longest, limit, length), tf.float32)
    worst = tf.reduce_min(finished.score, axis=1)  # [B]
    full = tf.reduce_all(finished.reason != stopping.RUNNING, axis=1)
    done = full & (early == FULL)
    better = ~full | (best / length**power > worst)
    return (best > NO_BEAM / 2) & better & ~done


def _column(state: BeamState) -> tf.Tensor:
    """Marks the place of the next token: bool `[1, 1, T]`."""
    return tf.range(tf.shape(state.running.tokens)[2])[None, None] == state.step


def _context(task: DecodeTask, tokens: tf.Tensor, step: tf.Tensor) -> object:
    """The hypotheses `[B, M, T]` of which `step` tokens are written, as a `ProcessorContext`."""
    tokens = flatten_beams(tokens)  # [B * M, T]
    copies = tf.shape(tokens)[0] // tf.shape(task.prompt.ids)[0]
    params = repeat_rows(task.params._replace(stop_strings=()), copies)
    return task.context(tokens, tf.fill([tf.shape(tokens)[0]], step), params, copies)


def _process(task: DecodeTask, state: BeamState, logprobs: tf.Tensor) -> tf.Tensor:
    """Applies processors and warpers to log-probabilities `[B * K, V]` before they add up."""
    context = _context(task, state.running.tokens, state.step)
    scores = task.process(logprobs, context)
    # So many tokens stay that a beam can continue when it may end, too.
    ends = tf.reduce_sum(tf.cast(context.params.eos_token_ids >= 0, tf.int32), axis=1)
    return apply_warpers(scores, context.params, tf.maximum(2, 1 + ends))  # [B * K, V]


def _match_stops(
    task: DecodeTask, state: BeamState, parent: tf.Tensor, token: tf.Tensor
) -> StopState | tuple[()]:
    """Matches the tokens `[B, M]` with the stop strings; each candidate has its own state."""
    if not state.stop:
        return ()
    shape = tf.shape(token)
    old = tf.nest.map_structure(flatten_beams, gather_beams(state.stop, parent))  # [B * M, ...]
    stops = repeat_rows(task.params.stop_strings, shape[1])  # [B * M, ...]
    new = stopping.match_token(old, stops, task.token_bytes, tf.reshape(token, [-1]))
    return tf.nest.map_structure(
        lambda x, old: tf.reshape(x, tf.concat([shape, tf.shape(old)[2:]], axis=0)), new, state.stop
    )  # [B, M, ...]

"""One step of beam search: the continuations of a row's texts, and which of them are kept.

What ordinary and group beam search have in common; where they differ is in `beam` and `groups`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.logits import pipeline as rules
from tfgpt2.generation.logits.base import standard, tell
from tfgpt2.generation.logits.processors import hamming_diversity
from tfgpt2.generation.logits.sampling import gumbel
from tfgpt2.generation.request import Request
from tfgpt2.generation.stopping import StopState
from tfgpt2.generation.strategies.beam_state import (
    ABSENT,
    EXACT,
    FULL,
    BeamRequest,
    Beams,
    Search,
    State,
    take,
)
from tfgpt2.nn.attention import MASK_VALUE


class Found(NamedTuple):
    """The best continuations of each row, best first.

    Attributes:
        texts: `[B, M]` of them; those that have not ended have the reason RUNNING.
        parent: int32 `[B, M]`, the running text that each continues.
        token: int32 `[B, M]`, its last token.
        stop: What stop strings have matched, `[B, M, ...]`; an empty tuple without any.
        broken: bool `[B]`, rows where the model's scores are no numbers.
    """

    texts: Beams
    parent: tf.Tensor
    token: tf.Tensor
    stop: StopState | tuple[()]
    broken: tf.Tensor


def look(
    search: Search,
    state: State,
    logits: tf.Tensor,
    first: tf.Tensor,
    crowd: tf.Tensor | None = None,
) -> Found:
    """Finds the best continuations of all running texts.

    Args:
        search: What is searched.
        state: The search so far.
        logits: float32 `[B * K, V]`, of each running text's next token.
        first: int32 `[B]`, the number of each row's first running text; see `Beams.beam_indices`.
        crowd: int32 `[B, C]`, tokens that cost `diversity_penalty`, -1 for none.
    """
    row = search.request.row
    beams, size = state.token.shape[1], logits.shape[-1]
    total = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)  # [B * K, 1]
    broken = tf.reduce_any(tf.reshape(~tf.math.is_finite(total), [-1, beams]), axis=1)  # [B]
    logprobs = logits - total  # [B * K, V]
    scores = logprobs
    if not isinstance(row.guidance_scale, tuple):
        # transformers adds up what guidance makes of log-probabilities, sum 1 or not.
        guided = tf.repeat(row.guidance_scale, beams)[:, None] != 1  # [B * K, 1]
        scores = tf.where(guided, logits, logprobs)
    if crowd is not None:
        penalty = tf.repeat(search.request.diversity_penalty, beams)  # [B * K]
        scores = hamming_diversity(scores, tf.repeat(crowd, beams, axis=0), penalty)
    scores = tf.reshape(_process(search, state, scores), [-1, beams, size])  # [B, K, V]
    scores = tf.reshape(scores + state.running.score[..., None], [-1, beams * size])
    # Enough that `K` texts go on even when every end token of every beam is among them.
    most = tf.minimum(beams * tf.maximum(2, 1 + tf.shape(row.eos)[1]), beams * size)  # M
    noisy = scores if search.groups > 1 else _noisy(scores, state.step, row)
    index = tf.math.top_k(noisy, most).indices  # [B, M]
    parent, token = index // size, index % size  # [B, M]
    logprob = tf.gather(tf.reshape(logprobs, [-1, beams * size]), index, batch_dims=1)
    old, here = take(state.running, parent), _column(state)
    stop = _advance_stops(search, state, parent, token)
    reason = tf.zeros_like(token) + stopping.RUNNING
    end = tf.reduce_any(row.eos[:, None] == token[..., None], axis=-1)  # [B, M]
    reason = tf.where(end, stopping.EOS, reason)
    if stop:
        reason = tf.where(stop.cut >= 0, stopping.STOP, reason)
    texts = Beams(
        score=tf.gather(scores, index, batch_dims=1),
        tokens=tf.where(here, token[..., None], old.tokens),
        logprobs=tf.where(here, logprob[..., None], old.logprobs),
        count=old.count + 1,
        reason=reason,
        beam_indices=tf.where(here, (first[:, None] + parent)[..., None], old.beam_indices),
        cut=stop.cut if stop else old.cut,
    )
    if search.ends is not None:
        told = tell(search.ids, search.mask, _flat(texts.tokens), state.step + 1)
        done = tf.reshape(search.ends(told), tf.shape(token)) & (reason == stopping.RUNNING)
        texts = texts._replace(reason=tf.where(done, stopping.STOP, reason))
    return Found(texts, parent, token, stop, broken)


def go_on(state: State, found: Found) -> State:
    """Lets the best texts that have not ended run on; the next step's `step` is not set."""
    beams, texts = state.token.shape[1], found.texts
    # A text that has ended does not go on, not even where there are fewer than `K` that do.
    score = tf.where(texts.reason == stopping.RUNNING, texts.score, MASK_VALUE)
    order = tf.math.top_k(score, beams).indices  # [B, K]
    running, parent, token, stop = take(
        (texts._replace(score=score), found.parent, found.token, found.stop), order
    )  # [B, K]
    # A model whose scores are no numbers ends the row's search, and the result says so.
    score = tf.where(found.broken[:, None], float("nan"), running.score)
    return state._replace(
        running=running._replace(score=score),
        token=token,
        parent=parent,
        stop=stop,
    )


def keep(ended: Beams, texts: Beams, new: tf.Tensor, request: BeamRequest) -> Beams:
    """Keeps the best texts that have ended: `[B, K]` of those and of bool `new` `[B, M]`."""
    new &= texts.score > ABSENT / 2
    length = tf.cast(texts.count, tf.float32) ** request.length_penalty[:, None]  # [B, M]
    texts = texts._replace(
        score=tf.where(new, texts.score / length, MASK_VALUE),
        reason=tf.where(new, texts.reason, stopping.RUNNING),
        count=tf.where(new, texts.count, 0),
    )
    both = tf.nest.map_structure(lambda *x: tf.concat(x, axis=1), ended, texts)
    return take(both, tf.math.top_k(both.score, ended.score.shape[1]).indices)


def can_improve(
    best: tf.Tensor, ended: Beams, limit: tf.Tensor, length: tf.Tensor, request: BeamRequest
) -> tf.Tensor:
    """Says which rows' running texts may still beat one that has ended: bool `[B]`.

    Args:
        best: float32 `[B]`, the best running score.
        ended: The texts that have ended.
        limit: int32 `[B]`, most tokens of each row.
        length: int32 `[]`, tokens of the running texts.
        request: The settings.

    Source: transformers 4.57, `generation/utils.py::_check_early_stop_heuristic`, and 4.55,
        `generation/beam_search.py::BeamHypotheses.is_done`.
    """
    longest = (request.early_stopping == EXACT) & (request.length_penalty > 0)
    length = tf.cast(tf.where(longest, limit, length), tf.float32)
    worst = tf.reduce_min(ended.score, axis=1)  # [B]
    full = tf.reduce_all(ended.reason != stopping.RUNNING, axis=1)
    done = full & (request.early_stopping == FULL)
    better = ~full | (best / length**request.length_penalty > worst)
    return (best > ABSENT / 2) & better & ~done


def _column(state: State) -> tf.Tensor:
    """Marks the place of the next token: bool `[1, 1, T]`."""
    return tf.range(tf.shape(state.running.tokens)[2])[None, None] == state.step


def _flat(texts: tf.Tensor) -> tf.Tensor:
    """`[B, K, ...]` -> `[B * K, ...]`."""
    return tf.reshape(texts, tf.concat([[-1], tf.shape(texts)[2:]], axis=0))


def _process(search: Search, state: State, logprobs: tf.Tensor) -> tf.Tensor:
    """What is done to log-probabilities `[B * K, V]` before scores are added up."""
    beams = state.token.shape[1]
    told = tell(search.ids, search.mask, _flat(state.running.tokens), state.step)
    row = search.request.row._replace(stops=())
    row = tf.nest.map_structure(lambda x: tf.repeat(x, beams, axis=0), row)  # [B * K, ...]
    if search.process is None:
        scores = standard(logprobs, told, row)
    else:
        scores = search.process(logprobs, told)
    # So many tokens stay that a beam can go on when it may end, too.
    least = tf.maximum(2, 1 + tf.reduce_sum(tf.cast(row.eos >= 0, tf.int32), axis=1))  # [B * K]
    return rules.warped(scores, row, least)


def _noisy(scores: tf.Tensor, step: tf.Tensor, row: Request) -> tf.Tensor:
    """Adds Gumbel noise to the scores `[B, K * V]` of rows that draw.

    The `M` largest of score + noise are `M` draws without replacement.

    Source: Kool et al. 2019, "Stochastic Beams and Where to Find Them", section 2.3.
    """
    sampled, size = row.temperature > 0, scores.shape[-1]  # [B]
    return tf.cond(
        tf.reduce_any(sampled),
        lambda: tf.where(sampled[:, None], scores + gumbel(row.seed, step, size), scores),
        lambda: scores,
    )


def _advance_stops(
    search: Search, state: State, parent: tf.Tensor, token: tf.Tensor
) -> StopState | tuple[()]:
    """Reads the tokens `[B, M]` into the texts' bytes; each continuation has its own state."""
    if not state.stop:
        return ()
    shape = tf.shape(token)
    old = tf.nest.map_structure(_flat, take(state.stop, parent))  # [B * M, ...]
    stops = tf.nest.map_structure(
        lambda x: tf.repeat(x, shape[1], axis=0), search.request.row.stops
    )  # [B * M, ...]
    new = stopping.advance(old, stops, search.vocabulary, tf.reshape(token, [-1]))
    return tf.nest.map_structure(
        lambda x, old: tf.reshape(x, tf.concat([shape, tf.shape(old)[2:]], axis=0)), new, state.stop
    )  # [B, M, ...]

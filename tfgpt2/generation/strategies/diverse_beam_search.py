"""Diverse beam search: groups of beams, each kept apart from those before it.

In every step the groups of a row choose one after the other, and a token that an earlier group has
just chosen costs a group `diversity_penalty` for each beam that chose it. Otherwise a group is a
beam search of its own, with rules that differ from those of `beam` in three points, all taken over:

- when the tokens are used up, the best running texts of a group count, wherever they rank;
- a group that cannot improve stops alone, and what it has found stays;
- whether it can is judged by its best continuation, even when that one has just ended.

A state's row is one group here: `G` of them for each prompt, side by side.

Source: Vijayakumar et al. 2016, "Diverse Beam Search", algorithm 1; transformers 4.55,
    `generation/utils.py::_group_beam_search` and `generation/beam_search.py::BeamSearchScorer`.
"""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.strategies.beam_state import Search, State, take
from tfgpt2.generation.strategies.beam_step import can_improve, go_on, keep, look


def choose(search: Search, state: State, logits: tf.Tensor) -> State:
    """Chooses the continuations of all groups from the logits `[B * G * K, V]`.

    Args:
        search: What is searched, one row per prompt.
        state: The search so far, one row per group.
        logits: float32 `[B * G * K, V]`.
    """
    groups, beams = search.groups, state.token.shape[1]
    scores = tf.reshape(logits, [-1, beams, logits.shape[-1]])  # [B * G, K, V]
    prompt = tf.range(tf.shape(search.ids)[0])  # [B]
    crowd, parts = None, []
    for group in range(groups):
        # The cache is no part of what a group chooses.
        part = tf.nest.map_structure(
            lambda x, g=group: _part(x, g, groups), state._replace(cache=())
        )
        own = tf.reshape(scores[group::groups], [-1, logits.shape[-1]])  # [B * K, V]
        part = _choose(search, part, own, (prompt * groups + group) * beams, crowd)
        parts.append(part._replace(step=state.step))
        token = tf.where(
            state.open[group::groups][:, None], part.token, search.request.pad[:, None]
        )
        crowd = token if crowd is None else tf.concat([crowd, token], axis=1)  # [B, C]
    joined = tf.nest.map_structure(_join, state._replace(cache=()), *parts)
    return joined._replace(step=state.step + 1, cache=state.cache)


def joined(state: State, groups: int) -> State:
    """Makes each prompt a row again: `[B * G, K, ...]` -> `[B, G * K, ...]`, best text first."""

    def merge(x: tf.Tensor) -> tf.Tensor:
        split = tf.reshape(x, tf.concat([[-1, groups], tf.shape(x)[1:]], axis=0))
        # Of equal texts, a later group's comes first.
        split = tf.reverse(split, [1])  # [B, G, K, ...]
        return tf.reshape(split, tf.concat([[-1, groups * x.shape[1]], tf.shape(x)[2:]], axis=0))

    running, ended = tf.nest.map_structure(merge, (state.running, state.ended))
    order = tf.math.top_k(ended.score, ended.score.shape[1]).indices  # [B, G * K]
    return state._replace(limit=state.limit[::groups], running=running, ended=take(ended, order))


def _choose(
    search: Search, state: State, logits: tf.Tensor, first: tf.Tensor, crowd: tf.Tensor | None
) -> State:
    """Chooses for one group of each prompt; see `beam_step.look`."""
    beams, step = state.token.shape[1], state.step + 1
    found = look(search, state, logits, first, crowd)
    rank = tf.range(tf.shape(found.token)[1])[None]  # [1, M]
    new = (found.texts.reason != stopping.RUNNING) & (rank < beams) & state.open[:, None]  # [B, M]
    ended = keep(state.ended, found.texts, new, search.request)
    state = go_on(state, found)
    best = tf.where(found.broken, float("nan"), found.texts.score[:, 0])  # [B]
    improves = state.open & can_improve(best, ended, state.limit, step, search.request)
    last = step >= state.limit  # [B]
    running = state.running._replace(reason=tf.fill(tf.shape(state.token), stopping.LENGTH))
    ended = keep(ended, running, (improves & last)[:, None], search.request)
    return state._replace(ended=ended, open=improves & ~last)


def _part(x: tf.Tensor, group: int, groups: int) -> tf.Tensor:
    """One group of each prompt: `[B * G, ...]` -> `[B, ...]`; the step is the same for all."""
    return x[group::groups] if x.shape.rank else x


def _join(old: tf.Tensor, *parts: tf.Tensor) -> tf.Tensor:
    """Puts the groups of each prompt side by side: `G` x `[B, ...]` -> `[B * G, ...]`."""
    if not old.shape.rank:
        return old
    stacked = tf.stack(parts, axis=1)  # [B, G, ...]
    shape = tf.concat([[-1], tf.shape(stacked)[2:]], axis=0)
    return tf.ensure_shape(tf.reshape(stacked, shape), old.shape)

"""Diverse beam search: groups of beams, each kept apart from those before it.

In every step the groups of a row choose one after the other, and a token that an earlier group has
just chosen costs a group `diversity_penalty` for each beam that chose it. Otherwise a group is a
beam search of its own, with rules that differ from those of `beam_search` in three points:

- when the tokens are used up, the best beams of a group count, wherever they rank;
- a group that cannot improve stops alone, and what it has found stays;
- whether it can is judged by its best continuation, even when that one has just ended.

A state's row is one group here: `G` of them for each prompt, side by side.

Source: Vijayakumar et al. 2016, "Diverse Beam Search", algorithm 1; transformers 4.55,
    `generation/utils.py::_group_beam_search` and `generation/beam_search.py::BeamSearchScorer`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.options import Option
from tfgpt2.generation.strategies.base import DecodeTask
from tfgpt2.generation.strategies.beam_search import BeamSearch, run_search
from tfgpt2.generation.strategies.beam_state import BeamState, gather_beams
from tfgpt2.generation.strategies.beam_step import (
    advance_beams,
    can_improve,
    keep_finished,
    keep_stuck,
    record_scores,
    score_candidates,
)


@dataclasses.dataclass(frozen=True)
class DiverseBeamSearch(BeamSearch):
    """Beam search in `num_beam_groups` groups; nothing is drawn; see `Strategy`.

    `params.options["pad_token_id"]`, int32 `[B]`, is the token that a group which has ended counts
    as having chosen, -1 for none.
    """

    num_beam_groups: int

    name = "diverse beam search"
    options = (
        *BeamSearch.options,
        Option("diversity_penalty", 0.0, "yes, per row", "float32", 0.0, 0, 1e6,
               "a number of 0 or more, at most 1000000"),
    )  # fmt: skip

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether there are several groups of beams."""
        return super().matches(config) and (config.num_beam_groups or 1) > 1

    @classmethod
    def from_config(cls, config: Any, vocab_size: int) -> DiverseBeamSearch:
        """See `Strategy`."""
        return cls(config.beams, config.num_beam_groups)

    @classmethod
    def contradictions(cls, config: Any) -> list[tuple[Any, str, str, tuple[str, ...]]]:
        """See `Strategy`."""
        return [
            (config.beams % config.num_beam_groups,
             "`num_beams` must be a multiple of `num_beam_groups`.",
             "Give every group as many beams.", ("num_beams", "num_beam_groups")),
            (config.do_sample, "Diverse beam search does not sample.", "Leave do_sample out.",
             ("num_beam_groups", "do_sample")),
            *super().contradictions(config),
        ]  # fmt: skip

    def final_state(self, task: DecodeTask) -> BeamState:
        """See `BeamSearch`."""
        groups = self.num_beam_groups

        def choose(task: DecodeTask, state: BeamState, logits: tf.Tensor) -> BeamState:
            return _choose(task, state, logits, groups)

        return _join_prompts(run_search(task, choose, self.num_beams, groups), groups)


def _choose(task: DecodeTask, state: BeamState, logits: tf.Tensor, groups: int) -> BeamState:
    """Chooses the continuations of all groups from the logits `[B * G * K, V]`."""
    beams = state.token.shape[1]
    by_group = tf.reshape(logits, [-1, beams, logits.shape[-1]])  # [B * G, K, V]
    prompt = tf.range(tf.shape(task.prompt.ids)[0])  # [B]
    pad = task.params.options["pad_token_id"][:, None]  # [B, 1]
    chosen, parts = None, []
    for group in range(groups):
        # The cache is not part of what a group chooses.
        part = tf.nest.map_structure(
            lambda x, g=group: _select_group(x, g, groups), state._replace(cache=())
        )
        own = tf.reshape(by_group[group::groups], [-1, logits.shape[-1]])  # [B * K, V]
        part = _choose_group(task, part, own, (prompt * groups + group) * beams, chosen)
        parts.append(part._replace(step=state.step))
        token = tf.where(state.searching[group::groups][:, None], part.token, pad)
        chosen = token if chosen is None else tf.concat([chosen, token], axis=1)  # [B, C]
    joined = tf.nest.map_structure(_join_groups, state._replace(cache=()), *parts)
    return joined._replace(step=state.step + 1, cache=state.cache)


def _choose_group(
    task: DecodeTask,
    state: BeamState,
    logits: tf.Tensor,
    first: tf.Tensor,
    chosen: tf.Tensor | None,
) -> BeamState:
    """Chooses for one group of each prompt; see `beam_step.score_candidates`."""
    beams, step, params = state.token.shape[1], state.step + 1, task.params
    found = score_candidates(task, state, logits, first, draws=False, previous_group_tokens=chosen)
    rank = tf.range(tf.shape(found.token)[1])[None]  # [1, M]
    ended = found.beams.reason != stopping.RUNNING
    new = ended & (rank < beams) & state.searching[:, None]  # [B, M]
    finished = keep_finished(state.finished, found.beams, new, params)
    finished = keep_stuck(finished, state, found.beams, params)
    tables = record_scores(state, found, logits)
    state = advance_beams(state, found)
    best = tf.where(found.broken, float("nan"), found.beams.score[:, 0])  # [B]
    improves = state.searching & can_improve(best, finished, state.limit, step, params)
    last = step >= state.limit  # [B]
    running = state.running._replace(reason=tf.fill(tf.shape(state.token), stopping.LENGTH))
    finished = keep_finished(finished, running, (improves & last)[:, None], params)
    return state._replace(finished=finished, searching=improves & ~last, **tables)


def _join_prompts(state: BeamState, groups: int) -> BeamState:
    """Makes each prompt a row again: `[B * G, K, ...]` -> `[B, G * K, ...]`, best first."""

    def merge(x: tf.Tensor) -> tf.Tensor:
        split = tf.reshape(x, tf.concat([[-1, groups], tf.shape(x)[1:]], axis=0))
        # Of equal hypotheses, a later group's comes first.
        split = tf.reverse(split, [1])  # [B, G, K, ...]
        return tf.reshape(split, tf.concat([[-1, groups * x.shape[1]], tf.shape(x)[2:]], axis=0))

    running, finished = tf.nest.map_structure(merge, (state.running, state.finished))
    order = tf.math.top_k(finished.score, finished.score.shape[1]).indices  # [B, G * K]
    return state._replace(
        limit=state.limit[::groups], running=running, finished=gather_beams(finished, order)
    )


def _select_group(x: tf.Tensor, group: int, groups: int) -> tf.Tensor:
    """One group of each prompt: `[B * G, ...]` -> `[B, ...]`; the step is the same for all."""
    return x[group::groups] if x.shape.rank else x


def _join_groups(old: tf.Tensor, *parts: tf.Tensor) -> tf.Tensor:
    """Puts the groups of each prompt side by side: `G` x `[B, ...]` -> `[B * G, ...]`."""
    if not old.shape.rank:
        return old
    stacked = tf.stack(parts, axis=1)  # [B, G, ...]
    shape = tf.concat([[-1], tf.shape(stacked)[2:]], axis=0)
    return tf.ensure_shape(tf.reshape(stacked, shape), old.shape)

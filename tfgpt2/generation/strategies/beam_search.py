"""Beam search and beam sampling: a pure function from prompts and per-row settings to tokens.

    start    read the prompts once, one cache row per beam, choose the first tokens      -> state
    body     reorder the cache by parent, read each beam's last token, choose the next   -> state
    search   start, then body until no row can improve                                   -> Beams

Every step looks at the `M` best continuations of a row's `K` beams. Those among the first `K` that
end are kept if they beat what is kept already; the best `K` that do not end continue. A row depends
on nothing but itself.

Source: transformers 4.57, `generation/utils.py::_beam_search`, for every rule that decides a token;
    Kool et al. 2019, "Stochastic Beams and Where to Find Them", section 2.3, for sampling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.results import Result
from tfgpt2.generation.strategies.base import DecodeTask, Strategy
from tfgpt2.generation.strategies.beam_state import (
    EARLY_STOPPING,
    EXACT,
    FULL,
    HEURISTIC,
    LENGTH_PENALTY,
    NO_BEAM,
    Beams,
    BeamState,
    empty_beams,
    flatten_beams,
)
from tfgpt2.generation.strategies.beam_step import (
    advance_beams,
    can_improve,
    keep_finished,
    keep_stuck,
    record_scores,
    score_candidates,
)
from tfgpt2.generation.strategies.cache_rows import reorder_cache, repeat_cache
from tfgpt2.nn.attention import MASK_VALUE

Choose = Callable[[DecodeTask, BeamState, tf.Tensor], BeamState]


@dataclasses.dataclass(frozen=True)
class BeamSearch(Strategy):
    """Follows the `num_beams` likeliest hypotheses; see `Strategy`."""

    num_beams: int

    name = "beam search"
    options = (LENGTH_PENALTY, EARLY_STOPPING)

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether there are several beams."""
        return config.beams > 1

    @classmethod
    def from_config(cls, config: Any, vocab_size: int) -> BeamSearch:
        """See `Strategy`."""
        return cls(config.beams)

    @classmethod
    def contradictions(cls, config: Any) -> list[tuple[Any, str, str, tuple[str, ...]]]:
        """See `Strategy`."""
        return [
            (config.asks("penalty_alpha"), "Contrastive search has no beams.",
             "Leave out num_beams or penalty_alpha.", ("penalty_alpha", "num_beams")),
            (config.constraint is not None and not config.eos_ids,
             "Constrained beams need an end token.", "Set eos_token_id.",
             ("eos_token_id", "num_beams", config.constraint)),
        ]  # fmt: skip

    @classmethod
    def max_sequences(cls, config: Any) -> int | None:
        """See `Strategy`."""
        return config.beams

    @classmethod
    def option_values(cls, config: Any) -> dict[str, Any]:
        """See `Strategy`."""
        values = super().option_values(config)
        values["early_stopping"] = early_stopping_codes(config.early_stopping)
        values["length_penalty"] = LENGTH_PENALTY.off if config.length_penalty is None else (
            config.length_penalty)  # fmt: skip
        return values

    def search(self, task: DecodeTask) -> Beams:
        """Searches until no row can improve.

        Returns:
            The `K` best hypotheses of each row. A score that is not a number says that the
            model's are not; a count of 0, that there are fewer hypotheses or none was asked for.
        """
        return finish_search(self.final_state(task))

    def final_state(self, task: DecodeTask) -> BeamState:
        """The state in which no row can improve; its tables keep the order of the beams."""
        return run_search(task, _choose, self.num_beams)

    def run(self, task: DecodeTask) -> Result:
        """See `Strategy`."""
        state, most = self.final_state(task), task.spec.num_return_sequences
        found = finish_search(state)
        best = tf.nest.map_structure(lambda x: flatten_beams(x[:, :most]), found)
        scores, logits = tf.nest.map_structure(flatten_beams, (state.scores, state.logits))
        return Result(**best._asdict(), scores=scores, logits=logits)


def early_stopping_codes(value: Any) -> Any:
    """Turns one value of `early_stopping`, or a list with one per row, into codes.

    Raises:
        ValueError: It is not True, False or "never".

    Example:
        >>> early_stopping_codes([True, "never"])
        [1, 2]
    """
    if isinstance(value, (list, tuple, np.ndarray)):
        return [early_stopping_codes(one) for one in value]
    if value is None:
        return HEURISTIC
    if not isinstance(value, (bool, np.bool_)) and value != "never":
        raise value_error(
            f"`early_stopping` must be {EARLY_STOPPING.expected}.",
            fix="True stops with num_beams finished hypotheses; 'never' when none can improve.",
            early_stopping=value,
        )
    return EXACT if value == "never" else FULL if value else HEURISTIC


def run_search(task: DecodeTask, choose: Choose, beams: int, groups: int = 1) -> BeamState:
    """Runs the search loop.

    Args:
        task: What is searched. Tensors of the model's cache have rows as first axis, or no axis.
        choose: Chooses the continuations from the logits `[B * K, V]`.
        beams: `K`, of all groups together; each group is a row of the state with its share.
        groups: Groups of beams, a divisor of `K`.
    """
    state, logits = _start(task, beams, groups)  # [B * K, V]
    state = choose(task, state, logits)

    def body(state: BeamState) -> tuple[BeamState]:
        new = choose(task, *_read(task, state))
        return (tf.nest.map_structure(lambda x, y: tf.ensure_shape(x, y.shape), new, state),)

    (state,) = tf.while_loop(lambda state: tf.reduce_any(state.searching), body, (state,))
    return state


def _start(task: DecodeTask, beams: int, groups: int) -> tuple[BeamState, tf.Tensor]:
    """Reads the prompts, one row each; returns the state before any token, and its logits."""
    ids, params = task.prompt.ids, task.params
    rows, size = tf.unstack(tf.shape(task.output_buffer))
    columns = tf.shape(ids)[1] + size
    logits, cache = task.model.prefill(ids, task.prompt.mask, columns=columns)
    limit = tf.repeat(task.max_new_tokens, groups)  # [B]
    rows, own = rows * groups, beams // groups
    score = tf.tile(tf.constant([[0.0] + [NO_BEAM] * (own - 1)]), [rows, 1])  # [B, K]
    none = empty_beams(rows, own, size, score)
    table, spec = [rows, own, size, logits.shape[-1]], task.spec  # [B, K, T, V]
    stop = stopping.start_matching(params.stop_strings) if params.stop_strings else ()
    state = BeamState(
        step=tf.constant(0),
        limit=limit,
        searching=limit > 0,
        running=none,
        finished=none._replace(score=tf.fill([rows, own], MASK_VALUE)),
        token=none.count,
        parent=none.count,
        stop=tf.nest.map_structure(
            lambda x: tf.stack([tf.repeat(x, groups, axis=0)] * own, axis=1), stop
        ),  # [B, K, ...]
        scores=tf.zeros(table) if spec.output_scores else (),
        logits=tf.zeros(table) if spec.output_logits else (),
        cache=repeat_cache(cache, beams),
    )
    return state, tf.repeat(logits, beams, axis=0)


def _read(task: DecodeTask, state: BeamState) -> tuple[BeamState, tf.Tensor]:
    """Gives each beam its parent's cache and reads its last token: logits `[B * K, V]`."""
    rows, beams = tf.shape(state.parent)[0], state.parent.shape[1]
    source = tf.reshape(tf.range(rows)[:, None] * beams + state.parent, [-1])  # [B * K]
    # The prompt's columns are the same for all beams of a row; what was generated comes last.
    generated = tf.shape(state.running.tokens)[2]
    columns = tf.shape(state.cache.valid)[1] if hasattr(state.cache, "valid") else 0
    cache = reorder_cache(
        state.cache, source, columns - generated, generated, in_place=task.in_place
    )
    token = tf.reshape(state.token, [-1, 1])  # [B * K, 1]
    valid = tf.ones_like(token, tf.bool)
    logits, cache = task.model.decode_step(token, valid, cache, in_place=task.in_place)
    return state._replace(cache=cache), logits[:, 0]


def _choose(task: DecodeTask, state: BeamState, logits: tf.Tensor) -> BeamState:
    """Chooses the continuations of all beams from the logits `[B * K, V]` and records them."""
    rows, beams = tf.shape(state.token)[0], state.token.shape[1]
    found = score_candidates(task, state, logits, tf.range(rows) * beams)
    step = state.step + 1
    reason = found.beams.reason
    last = (step >= state.limit)[:, None] & (reason == stopping.RUNNING)  # [B, M]
    candidates = found.beams._replace(reason=tf.where(last, stopping.LENGTH, reason))
    # Only the `K` best continuations are considered.
    first = tf.range(tf.shape(reason)[1])[None] < beams  # [1, M]
    ended = candidates.reason != stopping.RUNNING
    new = ended & first & state.searching[:, None]  # [B, M]
    finished = keep_finished(state.finished, candidates, new, task.params)
    finished = keep_stuck(finished, state, candidates, task.params)
    tables = record_scores(state, found, logits)
    state = advance_beams(state, found._replace(beams=candidates))
    state = state._replace(step=step, finished=finished, **tables)
    best = state.running.score[:, 0]  # [B]
    improves = can_improve(best, finished, state.limit, step, task.params)
    return state._replace(searching=state.searching & (step < state.limit) & improves)


def finish_search(state: BeamState) -> Beams:
    """Returns the finished hypotheses; places without one are empty."""
    finished = state.finished
    empty = finished.reason == stopping.RUNNING  # [B, K]
    # Without a hypothesis, the best beam's score tells whether the model's scores are numbers.
    score = tf.where((state.limit > 0)[:, None], state.running.score[:, :1], 0.0)  # [B, 1]
    score = tf.where(score < MASK_VALUE, MASK_VALUE, score)  # finite, or not a number
    without = tf.where(state.limit > 0, stopping.NO_TOKEN, stopping.LENGTH)[:, None]  # [B, 1]
    return finished._replace(
        score=tf.where(empty, score, finished.score),
        tokens=tf.where(empty[..., None], 0, finished.tokens),
        logprobs=tf.where(empty[..., None], 0.0, finished.logprobs),
        reason=tf.where(empty, without, finished.reason),
        beam_indices=tf.where(empty[..., None], -1, finished.beam_indices),
        cut=tf.where(empty, -1, finished.cut),
    )

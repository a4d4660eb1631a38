"""Greedy decoding and sampling, with draft tokens or without: the decode loop.

    start         read the prompts, choose the first token          -> State
    advance       repeat: read the last token, choose the next one  -> State
    advance_rows  the same for rows of different age                -> State
    decode        start, then advance until every row has ended     -> Result

Pure functions from prompts and per-row settings to tokens. What a request may set is a tensor with
one value per row; what is static is the model, the `DecodeSpec` and the shapes, so one compiled
program serves all settings.

In speculative decoding, a round reads the last token and some draft tokens, and accepts as many as
equal the loop's own choices, plus one. Each is chosen by the same function from the same logits as
without drafts, and its random numbers depend on its own position only: drafts change the time a
sequence takes and not the sequence.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.constraints import masking
from tfgpt2.generation.logits.pipeline import (
    apply_constraint,
    apply_processors,
    apply_warpers,
    nothing_left,
)
from tfgpt2.generation.logits.random import add_gumbel_noise
from tfgpt2.generation.logits.vocab_ops import best_token
from tfgpt2.generation.params import repeat_rows
from tfgpt2.generation.results import Result, TopLogprobs, record, select_best
from tfgpt2.generation.stopping import StopState
from tfgpt2.generation.strategies.base import DecodeTask, Strategy
from tfgpt2.generation.strategies.cache_rows import repeat_cache
from tfgpt2.nn.one_row import in_branch

_SLACK = 4  # rounds whose rejected draft tokens have columns before the cache is made compact


@dataclasses.dataclass(frozen=True)
class GreedySearch(Strategy):
    """Takes the likeliest token; see `Strategy`."""

    name = "greedy decoding"
    one_row_per_sequence = streams = takes_draft_tokens = reports_top_logprobs = True

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether nothing else is asked for."""
        return True

    def run(self, task: DecodeTask) -> Result:
        """See `Strategy`."""
        return select_best(decode(task), task.spec)


@dataclasses.dataclass(frozen=True)
class Sampling(GreedySearch):
    """Draws tokens from the warped distribution; see `Strategy`."""

    name = "sampling"

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether `do_sample` is asked for."""
        return bool(config.do_sample)

    @classmethod
    def max_sequences(cls, config: Any) -> int | None:
        """See `Strategy`."""
        return None


class State(NamedTuple):
    """Loop variables of the decode loop.

    Attributes:
        token: int32 `[R]`, the last one.
        tokens: int32 `[R, T]`, 0 after a row's end.
        logprobs: float32 `[R, T]`, nats of each token under the model's own distribution.
        count: int32 `[R]`, tokens of each row.
        reason: int32 `[R]`, a code of `tfgpt2.generation.stopping`.
        steps: int32 `[]`, calls of the model.
        stop: State of the stop strings; an empty tuple when the program matches none.
        constraint: int32 `[R]`, the state of each row in its automaton; an empty tuple without one.
        top: The likeliest tokens so far, where results report them.
        scores: float32 `[R, T, V]`, where results hold them.
        logits: float32 `[R, T, V]`, where results hold them.
        cache: The model's.
        drafts: The state of the draft proposer.
    """

    token: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    steps: tf.Tensor
    stop: StopState | tuple[()]
    constraint: tf.Tensor | tuple[()]
    top: TopLogprobs | tuple[()]
    scores: tf.Tensor | tuple[()]
    logits: tf.Tensor | tuple[()]
    cache: Any
    drafts: Any


def start(task: DecodeTask) -> State:
    """Reads the prompts and chooses the first token."""
    size = tf.shape(task.output_buffer)[1]
    spec, params, prompt = task.spec, task.params, task.prompt
    # Holes that rejected draft tokens leave need columns of their own.
    slack = (spec.num_draft_tokens + 1) * _SLACK if spec.num_draft_tokens else 0
    columns = tf.shape(prompt.ids)[1] + size + slack
    logits, cache = task.model.prefill(prompt.ids, prompt.mask, columns=columns)
    logits, cache = (repeat_cache(x, spec.rows_per_prompt) for x in (logits, cache))
    drafts = task.proposer.start(prompt, params, columns) if task.proposer else ()
    state = first_state(task, prompt.ids[:, -1], cache, drafts, vocab_size=logits.shape[-1])
    return choose(task, state, logits, state.reason == stopping.RUNNING)


def first_state(
    task: DecodeTask, token: tf.Tensor, cache: Any, drafts: Any = (), *, vocab_size: int
) -> State:
    """The state before the first token is chosen.

    Args:
        task: The task.
        token: int32 `[B]` or `[R]`, the last token of each prompt.
        cache: The model's, `R` rows.
        drafts: The state of the draft proposer.
        vocab_size: `V`.
    """
    rows, size = tf.unstack(tf.shape(task.output_buffer))
    spec, params, limit = task.spec, task.params, task.max_new_tokens
    per_token, best = [rows, size, vocab_size], [rows, size, spec.top_logprobs]
    top = TopLogprobs(tf.zeros(best, tf.int32), tf.zeros(best)) if spec.top_logprobs else ()
    stops, constraint = params.stop_strings, params.constraint
    reason = tf.where(limit > 0, stopping.RUNNING, stopping.LENGTH)
    if constraint:  # the empty text may be all that matches
        whole = masking.is_complete(constraint, constraint.start, limit)
        reason = tf.where((limit > 0) & whole, stopping.STOP, reason)
    return State(
        token=repeat_rows(token, spec.rows_per_prompt),
        tokens=tf.zeros([rows, size], tf.int32),
        logprobs=tf.zeros([rows, size], tf.float32),
        count=tf.zeros([rows], tf.int32),
        reason=reason,
        steps=tf.constant(1),
        stop=stopping.start_matching(stops) if stops else (),
        constraint=constraint.start if constraint else (),
        top=top,
        scores=tf.zeros(per_token) if spec.output_scores else (),
        logits=tf.zeros(per_token) if spec.output_logits else (),
        cache=cache,
        drafts=drafts,
    )


def advance(task: DecodeTask, state: State, until: tf.Tensor) -> State:
    """Chooses tokens until every row has ended or a running one has `until` (int32 `[]`)."""
    body = _speculative_round if task.proposer else _step

    def running(state: State) -> tf.Tensor:
        running_rows = state.reason == stopping.RUNNING
        # With draft tokens, a row may be done long before others: it must not stop them.
        most = tf.reduce_max(tf.where(running_rows, state.count, 0))
        return tf.reduce_any(running_rows) & (most < until)

    (state,) = tf.while_loop(running, lambda state: (body(task, state),), (state,))
    return state


def advance_rows(task: DecodeTask, state: State, steps: tf.Tensor) -> State:
    """Chooses up to `steps` (int32 `[]`) tokens for each running row; rows may differ in age.

    The cache is one of `kv_cache.row_cache`: rows that have ended leave theirs as it is.
    """

    def body(step: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        return step + 1, _step(task, state, state.reason == stopping.RUNNING)

    _, state = tf.while_loop(
        lambda step, state: (step < steps) & tf.reduce_any(state.reason == stopping.RUNNING),
        body,
        (tf.constant(0), state),
    )
    return state


def decode(task: DecodeTask) -> Result:
    """Generates until every row has ended."""
    return finish(advance(task, start(task), tf.shape(task.output_buffer)[1]))


def finish(state: State) -> Result:
    """Returns what a state has generated."""
    none = tf.fill(tf.shape(state.count), -1)
    return Result(
        tokens=state.tokens,
        logprobs=state.logprobs,
        count=state.count,
        reason=state.reason,
        cut=state.stop.cut if state.stop else none,
        top=state.top,
        scores=state.scores,
        logits=state.logits,
        steps=state.steps,
    )


def _step(task: DecodeTask, state: State, valid: tf.Tensor | None = None) -> State:
    """Reads the last token, in the rows that bool `[R]` marks, and chooses the next."""
    valid = tf.ones_like(state.token, tf.bool) if valid is None else valid
    logits, cache = task.model.decode_step(
        state.token[:, None], valid[:, None], state.cache, in_place=task.in_place
    )
    state = state._replace(cache=cache, steps=state.steps + 1)
    return choose(task, state, logits[:, 0], state.reason == stopping.RUNNING)


def _context(task: DecodeTask, state: State) -> Any:
    """The sequences so far; see `ProcessorContext`."""
    return task.context(state.tokens, state.count, task.params, task.spec.rows_per_prompt)


def _speculative_round(task: DecodeTask, state: State) -> State:
    """Reads the last token and draft tokens, and accepts as many as are right."""
    before, running = state, state.reason == stopping.RUNNING
    draft = task.proposer.propose(state.drafts, _context(task, state), state.token, running)
    tokens = tf.ensure_shape(draft.tokens, [None, task.spec.num_draft_tokens])  # [R, G]
    last = state.token[:, None]  # [R, 1]

    def read(ids: tf.Tensor) -> tuple[tf.Tensor, State]:
        with in_branch():
            logits, cache = task.model.decode_step(
                ids, tf.ones_like(ids, tf.bool), state.cache, in_place=task.in_place
            )
        return logits, state._replace(cache=cache)

    def verify() -> State:
        logits, longer = read(tf.concat([last, tokens], axis=1))  # [R, G + 1, V]
        return _accept(task, longer, logits, tokens)

    def without_draft() -> State:
        logits, longer = read(last)  # [R, 1, V]
        return choose(task, longer, logits[:, 0], running)

    state = tf.cond(draft.useful, verify, without_draft)
    kept = state.count - before.count  # [R]
    width = task.spec.num_draft_tokens + 1
    cache = task.model.rollback(state.cache, before.cache, kept, width=width)
    drafts = task.proposer.rollback(draft.memory, before.drafts, kept)
    return state._replace(cache=cache, drafts=drafts, steps=state.steps + 1)


def _accept(task: DecodeTask, state: State, logits: tf.Tensor, draft_tokens: tf.Tensor) -> State:
    """Chooses tokens from logits `[R, G + 1, V]`, as long as the drafts `[R, G]` were right."""

    def body(place: tf.Tensor, state: State, active: tf.Tensor) -> tuple[Any, ...]:
        state = choose(task, state, tf.gather(logits, place, axis=1), active)
        number = tf.minimum(place, tf.shape(draft_tokens)[1] - 1)
        proposed = tf.gather(draft_tokens, number, axis=1)  # [R]
        active &= (state.token == proposed) & (state.reason == stopping.RUNNING)
        return place + 1, state, active

    # The cache is not part of what is chosen; carried along it might be copied.
    cache, drafts = state.cache, state.drafts
    _, state, _ = tf.while_loop(
        lambda place, state, active: (place <= tf.shape(draft_tokens)[1]) & tf.reduce_any(active),
        body,
        (tf.constant(0), state._replace(cache=(), drafts=()), state.reason == stopping.RUNNING),
    )
    return state._replace(cache=cache, drafts=drafts)


def choose(task: DecodeTask, state: State, logits: tf.Tensor, active: tf.Tensor) -> State:
    """Chooses the next token of the active rows (bool `[R]`) from logits `[R, V]`.

    A row all of whose tokens were ruled out ends without one.
    """
    params, spec = task.params, task.spec
    size = tf.shape(state.tokens)[1]
    context = _context(task, state)
    scores = apply_processors(logits, context, spec)
    if params.constraint:
        scores = apply_constraint(scores, logits, context, state.constraint)
    scores = apply_warpers(scores, params)
    temperature = params.options["temperature"]
    noisy = add_gumbel_noise(scores, temperature, params.seed, state.count)
    token, best = best_token(noisy)  # [R]
    total = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)  # [R, 1]
    # A model whose scores are not numbers goes on, and the result shows it.
    stuck = active & nothing_left(best, temperature) & tf.math.is_finite(total[:, 0])  # [R]
    active &= ~stuck
    token = tf.where(active, token, 0)
    logprobs = logits - total  # [R, V]
    logprob = tf.gather(logprobs, token, batch_dims=1)
    here = (tf.range(size)[None] == state.count[:, None]) & active[:, None]  # [R, T]
    chosen = state._replace(
        token=token,
        tokens=tf.where(here, token[:, None], state.tokens),
        logprobs=tf.where(here, logprob[:, None], state.logprobs),
        count=state.count + 1,
        scores=record(state.scores, scores, here),
        logits=record(state.logits, logits, here),
    )
    if state.top:
        best = tf.math.top_k(logprobs, spec.top_logprobs)
        ids = record(state.top.ids, best.indices, here)
        values = record(state.top.logprobs, best.values, here)
        chosen = chosen._replace(top=TopLogprobs(ids, values))
    if params.stop_strings:
        stop = stopping.match_token(state.stop, params.stop_strings, task.token_bytes, token)
        chosen = chosen._replace(stop=stop)
    if params.constraint:
        after = masking.advance(params.constraint, state.constraint, token)
        chosen = chosen._replace(constraint=after)
    chosen = chosen._replace(reason=_reason(task, chosen, context.max_new_tokens))
    # Rows that are not active keep their state. What is recorded is masked by `here` already, and
    # the cache is not chosen.
    recorded = {name: () for name in ("cache", "drafts", "scores", "logits", "top")}
    kept = tf.nest.map_structure(
        lambda new, old: _where(active, new, old) if new.shape.rank else new,
        chosen._replace(**recorded),
        state._replace(**recorded),
    )
    return kept._replace(
        token=tf.where(active, token, state.token),
        reason=tf.where(stuck, stopping.NO_TOKEN, kept.reason),
        **{name: getattr(chosen, name) for name in recorded},
    )


def _reason(task: DecodeTask, state: State, limit: tf.Tensor) -> tf.Tensor:
    """The finish reason of each row after its new token, or RUNNING: int32 `[R]`."""
    params, criteria = task.params, task.spec.stopping_criteria
    reason = tf.where(state.count >= limit, stopping.LENGTH, stopping.RUNNING)
    if params.constraint:
        whole = masking.is_complete(params.constraint, state.constraint, limit - state.count)
        reason = tf.where(whole, stopping.STOP, reason)
    ended = tf.reduce_any(params.eos_token_ids == state.token[:, None], axis=1)
    reason = tf.where(ended, stopping.EOS, reason)
    if criteria:
        context = _context(task, state)
        met = stopping.stopping_criteria_met(criteria, context.input_ids, context.mask)
        reason = tf.where(met, stopping.STOP, reason)
    if state.stop:
        reason = tf.where(state.stop.cut >= 0, stopping.STOP, reason)
    return reason


def _where(rows: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Selects whole rows: bool `[R]` over tensors `[R, ...]`."""
    return tf.where(tf.reshape(rows, [-1] + [1] * (new.shape.rank - 1)), new, old)

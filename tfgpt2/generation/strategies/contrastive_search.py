"""Contrastive search: likely tokens that do not repeat what the sequence already says.

    start    read the prompts once, one cache row per candidate                        -> state
    body     read the `K` likeliest tokens of each row, keep the one of the best score -> state
    search   start, then body until every row has ended                                -> Result

A candidate's score weighs its probability against its similarity to the sequence: the largest
cosine between its last hidden state and those of all tokens before it, prompt and continuation. The
candidates of a row are read at once, each in a cache row of its own; afterwards just the column
that differs is copied from the chosen one.

Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5;
    transformers 4.55, `generation/utils.py::_contrastive_search`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.logits.vocab_ops import RULED_OUT, argmax
from tfgpt2.generation.options import Option
from tfgpt2.generation.results import Result, record
from tfgpt2.generation.stopping import StopState
from tfgpt2.generation.strategies.base import DecodeTask, Strategy
from tfgpt2.generation.strategies.cache_rows import reorder_cache, repeat_cache
from tfgpt2.nn.attention import MASK_VALUE
from tfgpt2.nn.kv_cache import write


@dataclasses.dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """Compares up to `num_candidates` tokens per row; see `Strategy`.

    The option `top_k` is the number of candidates of a row, from 1 (greedy) on; nothing is drawn.
    """

    num_candidates: int

    name = "contrastive search"
    options = (
        Option("penalty_alpha", None, "yes, per row", "float32", 0.0, 0, 1,
               "a number in [0, 1]; 0 is off"),
    )  # fmt: skip
    sampling_options = ("top_k",)
    takes_sampling_options = takes_constraints = takes_guidance = takes_prefix = False

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether `penalty_alpha` is asked for."""
        return config.asks("penalty_alpha")

    @classmethod
    def from_config(cls, config: Any, vocab_size: int) -> ContrastiveSearch:
        """See `Strategy`; the number of candidates is a power of two, so that programs are few."""
        most = int(np.max(np.asarray(config.top_k), initial=1))
        return cls(min(1 << max(2, (most - 1).bit_length()), vocab_size))

    @classmethod
    def contradictions(cls, config: Any) -> list[tuple[Any, str, str, tuple[str, ...]]]:
        """See `Strategy`."""
        return [
            (config.do_sample, "Contrastive search does not sample.",
             "Leave out do_sample or penalty_alpha.", ("penalty_alpha", "do_sample")),
            (not np.all(np.asarray(config.top_k or 0) > 1),
             "Contrastive search compares the `top_k` likeliest tokens, two or more.",
             "Pass top_k=4.", ("penalty_alpha", "top_k")),
            (config.use_cache is False, "Contrastive search needs the cache.",
             "Leave use_cache out.", ("penalty_alpha", "use_cache")),
        ]  # fmt: skip

    def run(self, task: DecodeTask) -> Result:
        """See `Strategy`."""
        state = _start(task, self.num_candidates)
        count = min(self.num_candidates, state.logits.shape[-1])  # K

        def body(state: ContrastiveState) -> tuple[ContrastiveState]:
            new = _step(task, state, count)
            return (tf.nest.map_structure(lambda x, y: tf.ensure_shape(x, y.shape), new, state),)

        def running(state: ContrastiveState) -> tf.Tensor:
            return tf.reduce_any(state.reason == stopping.RUNNING)

        (state,) = tf.while_loop(running, body, (state,))
        cut = state.stop.cut if state.stop else tf.fill(tf.shape(state.count), -1)
        return Result(
            state.tokens, state.logprobs, state.count, state.reason, cut,
            scores=state.all_scores, logits=state.all_logits,
        )  # fmt: skip


class ContrastiveState(NamedTuple):
    """Loop variables of contrastive search.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        logits: float32 `[B, V]`, of the next token.
        context_vectors: float32 `[B, 1, S, D]`, the hidden state of each token as a unit vector.
        valid: bool `[B, S]`, where there is one.
        tokens: int32 `[B, T]`, 0 after a row's end.
        logprobs: float32 `[B, T]`, nats under the model's own distribution.
        count: int32 `[B]`, tokens of each row.
        reason: int32 `[B]`, a code of `tfgpt2.generation.stopping`.
        stop: State of the stop strings; an empty tuple when the program matches none.
        all_scores: float32 `[B, T, V]`, the processed scores of each step, where results hold them.
        all_logits: float32 `[B, T, V]`, likewise.
        cache: The model's, with `B * K` rows.
    """

    step: tf.Tensor
    logits: tf.Tensor
    context_vectors: tf.Tensor
    valid: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    stop: StopState | tuple[()]
    all_scores: tf.Tensor | tuple[()]
    all_logits: tf.Tensor | tuple[()]
    cache: Any


def _start(task: DecodeTask, candidates: int) -> ContrastiveState:
    """Reads the prompts, one row each."""
    ids, mask, stops = task.prompt.ids, task.prompt.mask, task.params.stop_strings
    rows, size = tf.unstack(tf.shape(task.output_buffer))
    columns = tf.shape(ids)[1] + size  # S
    hidden, cache = task.model.prefill_hidden(ids, mask, columns=columns)
    logits = task.model.score(hidden[:, -1:])[:, 0]  # [B, V]
    table, spec = [rows, size, logits.shape[-1]], task.spec  # [B, T, V]
    vectors = tf.pad(_unit_vectors(hidden), [[0, 0], [0, size], [0, 0]])  # [B, S, D]
    return ContrastiveState(
        step=tf.constant(0),
        logits=logits,
        context_vectors=vectors[:, None],  # [B, 1, S, D]
        valid=tf.pad(mask > 0, [[0, 0], [0, size]]),  # [B, S]
        tokens=tf.zeros([rows, size], tf.int32),
        logprobs=tf.zeros([rows, size], tf.float32),
        count=tf.zeros([rows], tf.int32),
        reason=tf.where(task.max_new_tokens > 0, stopping.RUNNING, stopping.LENGTH),
        stop=stopping.start_matching(stops) if stops else (),
        all_scores=tf.zeros(table) if spec.output_scores else (),
        all_logits=tf.zeros(table) if spec.output_logits else (),
        cache=repeat_cache(cache, min(candidates, logits.shape[-1])),
    )


def _step(task: DecodeTask, state: ContrastiveState, count: int) -> ContrastiveState:
    """Chooses one token of each row among `count` candidates."""
    rows = tf.fill([tf.shape(state.tokens)[0]], state.step)  # [B]
    context = task.context(state.tokens, rows, task.params, 1)
    scores = task.process(state.logits, context)
    best, total = tf.reduce_max(scores, axis=-1), tf.reduce_logsumexp(state.logits, axis=-1)  # [B]
    # A model whose scores are not numbers goes on, and the result shows it.
    stuck = (state.reason == stopping.RUNNING) & (best <= RULED_OUT) & tf.math.is_finite(total)
    state = state._replace(reason=tf.where(stuck, stopping.NO_TOKEN, state.reason))
    here = (tf.range(tf.shape(state.tokens)[1])[None] == state.step) & (
        state.reason == stopping.RUNNING
    )[:, None]  # [B, T]
    state = state._replace(
        all_scores=record(state.all_scores, scores, here),
        all_logits=record(state.all_logits, state.logits, here),
    )
    chosen, token, logits = _choose(task, state, scores, count)
    new = _append(task, chosen, token)._replace(logits=logits)
    if task.spec.stopping_criteria:
        context = task.context(new.tokens, rows + 1, task.params, 1)
        met = stopping.stopping_criteria_met(
            task.spec.stopping_criteria, context.input_ids, context.mask
        ) & (state.reason == stopping.RUNNING)
        new = new._replace(reason=tf.where(met, stopping.STOP, new.reason))
    return new


def _choose(
    task: DecodeTask, state: ContrastiveState, scores: tf.Tensor, count: int
) -> tuple[ContrastiveState, tf.Tensor, tf.Tensor]:
    """Reads the candidates of each row and continues the best.

    Returns:
        The state with that candidate in cache and context vectors, its token int32 `[B]`, and the
        logits `[B, V]` of what may follow it.
    """
    model, options, in_place = task.model, task.params.options, task.in_place
    rows, column = tf.shape(scores)[0], tf.shape(state.valid)[1] - tf.shape(state.tokens)[1]
    column += state.step  # where the candidates are written
    scores, ids = tf.math.top_k(tf.nn.log_softmax(scores), count)  # [B, K]
    flat = tf.reshape(ids, [-1, 1])  # [B * K, 1]
    valid = tf.ones_like(flat, tf.bool)
    hidden, cache = model.decode_hidden(flat, valid, state.cache, in_place=in_place)
    hidden = tf.reshape(hidden, [rows, count, hidden.shape[-1]])  # [B, K, D]
    vectors = _unit_vectors(hidden)
    similarity = tf.matmul(state.context_vectors[:, 0], vectors, transpose_b=True)  # [B, S, K]
    similarity = tf.where(state.valid[..., None], similarity, MASK_VALUE)
    alpha = options["penalty_alpha"][:, None]
    score = (1.0 - alpha) * tf.exp(scores) - alpha * tf.reduce_max(similarity, axis=1)  # [B, K]
    # A token that was ruled out is not a candidate, even where fewer than `top_k` are left.
    rank, most = tf.range(count)[None], tf.maximum(options["top_k"], 1)[:, None]
    is_candidate = (rank < most) & ((scores > RULED_OUT) | (rank == 0))  # [B, K]
    best = argmax(tf.where(is_candidate, score, MASK_VALUE))  # [B]
    source = tf.repeat(tf.range(rows) * count + best, count)  # [B * K]
    chosen = tf.gather(vectors, best, batch_dims=1)[:, None, None]  # [B, 1, 1, D]
    here = tf.range(tf.shape(state.valid)[1])[None] == column  # [1, S]
    state = state._replace(
        context_vectors=write(state.context_vectors, chosen, column, in_place=in_place),
        valid=state.valid | here,
        cache=reorder_cache(cache, source, column, tf.constant(1), in_place=in_place),
    )
    logits = model.score(tf.gather(hidden, best, batch_dims=1)[:, None])[:, 0]  # [B, V]
    return state, tf.gather(ids, best, batch_dims=1), logits


def _append(task: DecodeTask, state: ContrastiveState, token: tf.Tensor) -> ContrastiveState:
    """Appends the tokens int32 `[B]` to the running rows."""
    params, running = task.params, state.reason == stopping.RUNNING
    token = tf.where(running, token, 0)
    logprob = tf.gather(state.logits, token, batch_dims=1)
    logprob -= tf.reduce_logsumexp(state.logits, axis=-1)  # [B]
    stop, stopped = state.stop, tf.zeros_like(running)
    if stop:
        stop = stopping.match_token(stop, params.stop_strings, task.token_bytes, token)
        # Finished rows keep the place where they were cut.
        stop = stop._replace(cut=tf.where(running, stop.cut, state.stop.cut))
        stopped = stop.cut >= 0
    count = state.count + tf.cast(running, tf.int32)
    reason = tf.where(count >= task.max_new_tokens, stopping.LENGTH, stopping.RUNNING)
    ended = tf.reduce_any(params.eos_token_ids == token[:, None], axis=1)
    reason = tf.where(ended, stopping.EOS, reason)
    reason = tf.where(stopped, stopping.STOP, reason)
    here = (tf.range(tf.shape(state.tokens)[1])[None] == state.step) & running[:, None]  # [B, T]
    return state._replace(
        step=state.step + 1,
        tokens=tf.where(here, token[:, None], state.tokens),
        logprobs=tf.where(here, logprob[:, None], state.logprobs),
        count=count,
        reason=tf.where(running, reason, state.reason),
        stop=stop,
    )


def _unit_vectors(hidden: tf.Tensor) -> tf.Tensor:
    """Vectors of length 1, float32 `[..., D]`."""
    return tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=-1)

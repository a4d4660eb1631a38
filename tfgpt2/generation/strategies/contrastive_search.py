"""Contrastive search: likely tokens that do not repeat what the text already says.

    start    read the prompts once, one cache row per candidate                       -> State
    body     read the `K` likeliest tokens of each row, keep the one of the best score  -> State
    decode   start, then body until every row has ended                                -> Result

A candidate's score weighs its probability against its likeness to the text: the largest cosine
between its last hidden state and those of all tokens before it, prompt and continuation. The
candidates of a row are read at once, each in a cache row of its own; afterwards just the column
that differs is copied from the chosen one.

Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5;
    transformers 4.55, `generation/utils.py::_contrastive_search`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation import stopping
from tfgpt2.generation.logits.base import Ends, Process, standard, tell
from tfgpt2.generation.logits.sampling import argmax
from tfgpt2.generation.request import Request, Result
from tfgpt2.generation.stopping import StopState, TokenBytes
from tfgpt2.generation.strategies.cache_rows import expand, hand_over
from tfgpt2.nn.attention import MASK_VALUE
from tfgpt2.nn.cache import write


class ReadingModel(Protocol):
    """What contrastive search asks of a model; see `TFGPT2LMHeadModel`."""

    def prefill_hidden(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, **context: Any
    ) -> tuple[tf.Tensor, Any]:
        """Reads prompts: their last hidden states `[B, P, D]`, and the cache."""
        ...

    def decode_hidden(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Any, *, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Reads more tokens: their last hidden states `[B, T, D]`, and the longer cache."""
        ...

    def score(self, hidden: tf.Tensor) -> tf.Tensor:
        """Turns hidden states `[B, T, D]` into logits `[B, T, V]`."""
        ...


class ContrastiveRequest(NamedTuple):
    """What is asked of contrastive search, one value per row.

    Attributes:
        row: The settings that every strategy knows. `top_k` is the number of candidates, from 1
            (greedy) to `K`, and what is more counts as `K`; nothing is drawn, so `temperature`,
            `top_p`, `min_p` and `seed` are not read.
        penalty_alpha: float32 `[B]` in [0, 1]: 0 looks at probability alone, 1 at likeness alone.
    """

    row: Request
    penalty_alpha: tf.Tensor


class State(NamedTuple):
    """What the search carries from token to token.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        logits: float32 `[B, V]`, of the next token.
        said: float32 `[B, 1, S, D]`, the hidden state of each token, made a unit vector.
        valid: bool `[B, S]`, where there is one.
        tokens: int32 `[B, T]`, 0 after a row's end.
        logprobs: float32 `[B, T]`, nats under the model's own distribution.
        count: int32 `[B]`, tokens of each row.
        reason: int32 `[B]`, a code of `tfgpt2.generation.stopping`.
        stop: What stop strings have matched; an empty tuple when the program matches none.
        cache: The model's, with `B * K` rows.
    """

    step: tf.Tensor
    logits: tf.Tensor
    said: tf.Tensor
    valid: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    stop: StopState | tuple[()]
    cache: Any


def decode(
    model: ReadingModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: ContrastiveRequest,
    room: tf.Tensor,
    vocabulary: TokenBytes | None = None,
    *,
    candidates: int,
    in_place: bool,
    process: Process | None = None,
    context: Mapping[str, Any] | None = None,
    ends: Ends | None = None,
) -> Result:
    """Generates until every row has ended.

    Args:
        model: What to read with. Tensors of its cache have rows as first axis, or no axis.
        ids: int32 `[B, P]`, right-aligned, at least one token per row.
        mask: int32 `[B, P]`.
        request: The settings of each row.
        room: Any `[B, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
        vocabulary: Bytes of every token, where `request.row.stops` is given.
        candidates: `K`, most candidates of a row, 1 or more.
        in_place: Compiled by XLA; see `tfgpt2.nn.cache.write`.
        process: What is done to logits `[B, V]` before candidates are chosen; None is the row's
            repetition penalty and least length.
        context: What `model.read` is given beside the prompts.
        ends: What ends a text beside end tokens, stop strings and its length.

    Returns:
        The continuation of each row.

    Raises:
        ValueError: The context has a prefix, whose hidden states nobody knows any more.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> from tfgpt2.generation.options import ROW_OPTIONS
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> off = {name: tf.constant([one.off], one.dtype) for name, one in ROW_OPTIONS.items()}
        >>> row = Request(**off | {"top_k": tf.constant([4])}, eos=tf.constant([[-1]]))
        >>> request = ContrastiveRequest(row, penalty_alpha=tf.constant([0.6]))
        >>> ids, room = tf.constant([[1, 2]]), tf.zeros([1, 3], tf.int32)
        >>> decode(model, ids, tf.ones_like(ids), request, room, candidates=4,
        ...        in_place=False).tokens.shape
        TensorShape([1, 3])
    """
    if context and context.get("prefix"):
        raise ValueError(
            explain(
                "Contrastive search compares tokens with the hidden states of the whole text, and"
                " a prefix keeps none.",
                fix="Pass the prefix's tokens as part of the prompt.",
                strategy="contrastive search",
            )
        )
    state = start(model, ids, mask, request, room, candidates=candidates, context=context)
    count = min(candidates, state.logits.shape[-1])  # K

    def body(state: State) -> tuple[State]:
        told = tell(ids, mask, state.tokens, state.step)
        if process is None:
            scores = standard(state.logits, told, request.row)
        else:
            scores = process(state.logits, told)
        chosen, token, logits = _choose(
            model, state, scores, request, count=count, in_place=in_place
        )
        new = _record(chosen, token, request.row, vocabulary)._replace(logits=logits)
        if ends is not None:
            done = ends(tell(ids, mask, new.tokens, new.step)) & (state.reason == stopping.RUNNING)
            new = new._replace(reason=tf.where(done, stopping.STOP, new.reason))
        return (tf.nest.map_structure(lambda x, y: tf.ensure_shape(x, y.shape), new, state),)

    def running(state: State) -> tf.Tensor:
        return tf.reduce_any(state.reason == stopping.RUNNING)

    (state,) = tf.while_loop(running, body, (state,))
    cut = state.stop.cut if state.stop else tf.fill(tf.shape(state.count), -1)
    return Result(state.tokens, state.logprobs, state.count, state.reason, cut)


def start(
    model: ReadingModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: ContrastiveRequest,
    room: tf.Tensor,
    *,
    candidates: int,
    context: Mapping[str, Any] | None,
) -> State:
    """Reads the prompts, one row each; see `decode`."""
    rows, size = tf.unstack(tf.shape(room))
    columns = tf.shape(ids)[1] + size  # S
    hidden, cache = model.prefill_hidden(ids, mask, columns=columns, **(context or {}))
    logits = model.score(hidden[:, -1:])[:, 0]  # [B, V]
    limit = tf.minimum(request.row.max_new_tokens, size)  # [B]
    return State(
        step=tf.constant(0),
        logits=logits,
        said=tf.pad(_unit(hidden), [[0, 0], [0, size], [0, 0]])[:, None],  # [B, 1, S, D]
        valid=tf.pad(mask > 0, [[0, 0], [0, size]]),  # [B, S]
        tokens=tf.zeros([rows, size], tf.int32),
        logprobs=tf.zeros([rows, size], tf.float32),
        count=tf.zeros([rows], tf.int32),
        reason=tf.where(limit > 0, stopping.RUNNING, stopping.LENGTH),
        stop=stopping.start(request.row.stops) if request.row.stops else (),
        cache=expand(cache, min(candidates, logits.shape[-1])),
    )


def _choose(
    model: ReadingModel,
    state: State,
    scores: tf.Tensor,
    request: ContrastiveRequest,
    *,
    count: int,
    in_place: bool,
) -> tuple[State, tf.Tensor, tf.Tensor]:
    """Reads the candidates of each row and goes on with the best.

    Returns:
        The state with that candidate in cache and hidden states, its token int32 `[B]`, and the
        logits `[B, V]` of what may follow it.
    """
    rows, column = tf.shape(scores)[0], tf.shape(state.valid)[1] - tf.shape(state.tokens)[1]
    column += state.step  # where the candidates are written
    scores = tf.nn.log_softmax(scores)
    scores, ids = tf.math.top_k(scores, count)  # [B, K]
    flat = tf.reshape(ids, [-1, 1])  # [B * K, 1]
    hidden, cache = model.decode_hidden(
        flat, tf.ones_like(flat, tf.bool), state.cache, in_place=in_place
    )
    hidden = tf.reshape(hidden, [rows, count, hidden.shape[-1]])  # [B, K, D]
    unit = _unit(hidden)
    likeness = tf.matmul(state.said[:, 0], unit, transpose_b=True)  # [B, S, K]
    likeness = tf.where(state.valid[..., None], likeness, MASK_VALUE)
    alpha = request.penalty_alpha[:, None]
    worth = (1.0 - alpha) * tf.exp(scores) - alpha * tf.reduce_max(likeness, axis=1)  # [B, K]
    # What was ruled out is no candidate, even where fewer than `top_k` tokens are left.
    rank, asked = tf.range(count)[None], tf.maximum(request.row.top_k, 1)[:, None]
    real = (rank < asked) & ((scores > MASK_VALUE / 2) | (rank == 0))  # [B, K]
    best = argmax(tf.where(real, worth, MASK_VALUE))  # [B]
    source = tf.repeat(tf.range(rows) * count + best, count)  # [B * K]
    chosen = tf.gather(unit, best, batch_dims=1)[:, None, None]  # [B, 1, 1, D]
    here = tf.range(tf.shape(state.valid)[1])[None] == column  # [1, S]
    state = state._replace(
        said=write(state.said, chosen, column, in_place=in_place),
        valid=state.valid | here,
        cache=hand_over(cache, source, column, tf.constant(1), in_place=in_place),
    )
    logits = model.score(tf.gather(hidden, best, batch_dims=1)[:, None])[:, 0]  # [B, V]
    return state, tf.gather(ids, best, batch_dims=1), logits


def _record(state: State, token: tf.Tensor, row: Request, vocabulary: TokenBytes | None) -> State:
    """Appends the tokens int32 `[B]` to the rows that still run."""
    running, size = state.reason == stopping.RUNNING, tf.shape(state.tokens)[1]
    token = tf.where(running, token, 0)
    logprob = tf.gather(state.logits, token, batch_dims=1)
    logprob -= tf.reduce_logsumexp(state.logits, axis=-1)  # [B]
    stop, stopped = state.stop, tf.zeros_like(running)
    if stop:
        stop = stopping.advance(stop, row.stops, vocabulary, token)
        # What a row that had ended pretends to read must not change where it was cut.
        stop = stop._replace(cut=tf.where(running, stop.cut, state.stop.cut))
        stopped = stop.cut >= 0
    count = state.count + tf.cast(running, tf.int32)
    full = count >= tf.minimum(row.max_new_tokens, size)
    reason = tf.where(full, stopping.LENGTH, stopping.RUNNING)
    reason = tf.where(tf.reduce_any(row.eos == token[:, None], axis=1), stopping.EOS, reason)
    reason = tf.where(stopped, stopping.STOP, reason)
    here = (tf.range(size)[None] == state.step) & running[:, None]  # [B, T]
    return state._replace(
        step=state.step + 1,
        tokens=tf.where(here, token[:, None], state.tokens),
        logprobs=tf.where(here, logprob[:, None], state.logprobs),
        count=count,
        reason=tf.where(running, reason, state.reason),
        stop=stop,
    )


def _unit(hidden: tf.Tensor) -> tf.Tensor:
    """Vectors of length 1, float32 `[..., D]`."""
    return tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=-1)

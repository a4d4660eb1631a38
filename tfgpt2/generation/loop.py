"""The decode loop: a pure function from prompts and per-row settings to tokens.

    start    read the prompts, choose the first token          -> State
    advance  repeat: read the last token, choose the next one  -> State
    decode   start, then advance until every row has ended     -> Result

It knows a model only as something that can read prompts and read on. What a request may set is a
tensor with one value per row; what is static is the model and the shapes, so one compiled program
serves all settings.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.processors import draw, forbid, penalize_repetition
from tfgpt2.generation.stopping import StopState, StopStrings, TokenBytes


class LanguageModel(Protocol):
    """What the loop asks of a model; see `TFGPT2LMHeadModel` for the shapes."""

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Reads prompts into a fresh cache; returns the next token's logits and the cache."""
        ...

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Any, *, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Reads more tokens; returns logits and the longer cache."""
        ...


class Request(NamedTuple):
    """What is asked of the loop, one value per row.

    Attributes:
        max_new_tokens: int32 `[B]`, 0 or more; a row's limit is also the size of the output.
        min_new_tokens: int32 `[B]`, tokens before an end token may come.
        temperature: float32 `[B]`, 0 or more; 0 takes the most likely token.
        top_k: int32 `[B]`; 0 is off.
        top_p: float32 `[B]` in [0, 1]; 1 is off.
        min_p: float32 `[B]` in [0, 1]; 0 is off.
        repetition_penalty: float32 `[B]`, above 0; 1 is off.
        seed: int64 `[B]`.
        eos: int32 `[B, E]`, ids that end the row; -1 is none.
        stops: Stop strings; an empty tuple when the program matches none.
    """

    max_new_tokens: tf.Tensor
    min_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    repetition_penalty: tf.Tensor
    seed: tf.Tensor
    eos: tf.Tensor
    stops: StopStrings | tuple[()] = ()


class State(NamedTuple):
    """What the loop carries from token to token.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        token: int32 `[B]`, the last one.
        tokens: int32 `[B, T]`, 0 after a row's end.
        logprobs: float32 `[B, T]`, nats of each token under the model's own distribution.
        count: int32 `[B]`, tokens of each row.
        reason: int32 `[B]`, a code of `tfgpt2.generation.stopping`.
        seen: bool `[B, V]`, tokens the row holds.
        stop: What stop strings have matched; an empty tuple when the program matches none.
        cache: The model's.
    """

    step: tf.Tensor
    token: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    seen: tf.Tensor
    stop: StopState | tuple[()]
    cache: Any


class Result(NamedTuple):
    """What generation made of each row.

    Attributes:
        tokens: int32 `[B, T]`, the continuation, the end token included; 0 after it.
        logprobs: float32 `[B, T]`, nats of each token under the model's own distribution
            (before temperature and filters); 0 after the end.
        count: int32 `[B]`, tokens of each row.
        reason: int32 `[B]`, a code of `tfgpt2.generation.stopping`.
        cut: int32 `[B]`, bytes of text before a stop string; -1 without one.
    """

    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    cut: tf.Tensor


def start(
    model: LanguageModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: Request,
    room: tf.Tensor,
    vocabulary: TokenBytes | None = None,
    *,
    in_place: bool,
) -> State:
    """Reads the prompts and chooses the first token.

    Args:
        model: What to read with.
        ids: int32 `[B, P]`, right-aligned, at least one token per row.
        mask: int32 `[B, P]`.
        request: The settings of each row.
        room: Any `[B, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
        vocabulary: Bytes of every token, where `request.stops` is given.
        in_place: Compiled by XLA; see `tfgpt2.modeling.cache.write`.
    """
    rows, size = tf.unstack(tf.shape(room))
    logits, cache = model.prefill(ids, mask, columns=tf.shape(ids)[1] + size, in_place=in_place)
    limit = tf.minimum(request.max_new_tokens, size)
    state = State(
        step=tf.constant(0),
        token=tf.zeros([rows], tf.int32),
        tokens=tf.zeros([rows, size], tf.int32),
        logprobs=tf.zeros([rows, size], tf.float32),
        count=tf.zeros([rows], tf.int32),
        reason=tf.where(limit > 0, stopping.RUNNING, stopping.LENGTH),
        seen=seen_tokens(ids, mask, logits.shape[-1]),
        stop=stopping.start(request.stops) if request.stops else (),
        cache=cache,
    )
    return _choose(state, logits, request, vocabulary)


def advance(
    model: LanguageModel,
    state: State,
    request: Request,
    until: tf.Tensor,
    vocabulary: TokenBytes | None = None,
    *,
    in_place: bool,
) -> State:
    """Chooses tokens until every row has ended or `until` (int32 `[]`) tokens are chosen."""

    def body(state: State) -> tuple[State]:
        valid = tf.ones_like(state.token, tf.bool)[:, None]  # [B, 1]
        logits, cache = model.decode_step(
            state.token[:, None], valid, state.cache, in_place=in_place
        )
        return (_choose(state._replace(cache=cache), logits[:, 0], request, vocabulary),)

    def running(state: State) -> tf.Tensor:
        return (state.step < until) & tf.reduce_any(state.reason == stopping.RUNNING)

    (state,) = tf.while_loop(running, body, (state,))
    return state


def decode(
    model: LanguageModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: Request,
    room: tf.Tensor,
    vocabulary: TokenBytes | None = None,
    *,
    in_place: bool,
) -> Result:
    """Generates until every row has ended; the arguments are those of `start`."""
    state = start(model, ids, mask, request, room, vocabulary, in_place=in_place)
    return finish(advance(model, state, request, tf.shape(room)[1], vocabulary, in_place=in_place))


def finish(state: State) -> Result:
    """Returns what a state has generated."""
    none = tf.fill(tf.shape(state.count), -1)
    cut = state.stop.cut if state.stop else none
    return Result(state.tokens, state.logprobs, state.count, state.reason, cut)


def _choose(
    state: State, logits: tf.Tensor, request: Request, vocabulary: TokenBytes | None
) -> State:
    """Chooses each running row's next token from its logits `[B, V]` and records it."""
    running = state.reason == stopping.RUNNING  # [B]
    scores = tf.cond(
        tf.reduce_any(request.repetition_penalty != 1),
        lambda: penalize_repetition(logits, state.seen, request.repetition_penalty),
        lambda: logits,
    )
    ends = any_of(request.eos, logits.shape[-1])  # [B, V]
    scores = forbid(scores, ends, state.step < request.min_new_tokens)
    token = draw(
        scores,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        seed=request.seed,
        step=state.step,
    )  # [B]
    token = tf.where(running, token, 0)
    logprob = tf.gather(logits, token, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)
    stop, stopped = state.stop, tf.zeros_like(running)
    if stop:
        stop = stopping.advance(stop, request.stops, vocabulary, token)
        # What a row that had ended pretends to read must not change it.
        stop = StopState(
            *(_where(running, new, old) for new, old in zip(stop, state.stop, strict=True))
        )
        stopped = stop.cut >= 0
    count = state.count + tf.cast(running, tf.int32)
    reason = tf.where(count >= tf.minimum(request.max_new_tokens, tf.shape(state.tokens)[1]),
                      stopping.LENGTH, stopping.RUNNING)  # fmt: skip
    reason = tf.where(tf.reduce_any(request.eos == token[:, None], axis=1), stopping.EOS, reason)
    reason = tf.where(stopped, stopping.STOP, reason)
    column = tf.range(tf.shape(state.tokens)[1])[None] == state.step  # [1, T]
    here = column & running[:, None]  # [B, T]
    return State(
        step=state.step + 1,
        token=token,
        tokens=tf.where(here, token[:, None], state.tokens),
        logprobs=tf.where(here, logprob[:, None], state.logprobs),
        count=count,
        reason=tf.where(running, reason, state.reason),
        seen=state.seen | (tf.one_hot(token, logits.shape[-1], True, False) & running[:, None]),
        stop=stop,
        cache=state.cache,
    )


def _where(rows: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Selects whole rows: bool `[B]` over tensors `[B, ...]`."""
    return tf.where(tf.reshape(rows, [-1] + [1] * (new.shape.rank - 1)), new, old)


def seen_tokens(ids: tf.Tensor, mask: tf.Tensor, size: int) -> tf.Tensor:
    """Marks the tokens of the prompts: bool `[B, V]`."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))  # [B, P]
    # Padding goes into a column of its own that is then cut off.
    column = tf.where(mask > 0, ids, size)  # [B, P]
    counts = tf.zeros([tf.shape(ids)[0], size + 1], tf.int32)
    counts = tf.tensor_scatter_nd_max(
        counts, tf.stack([rows, column], axis=-1), tf.ones_like(column)
    )
    return counts[:, :size] > 0  # [B, V]


def any_of(ids: tf.Tensor, size: int) -> tf.Tensor:
    """Ids int `[B, E]` -> bool `[B, V]`, True at each id; -1 marks nothing."""
    return tf.reduce_any(tf.range(size)[None, None] == ids[..., None], axis=1)  # [B, V]

"""The decode loop: a pure function from prompts and per-row settings to tokens.

    start    read the prompts, choose the first token          -> State
    advance  repeat: read the last token, choose the next one  -> State
    decode   start, then advance until every row has ended     -> Result

It knows a model only as something that can read prompts and read on. What a request may set is a
tensor with one value per row; what is static is the model, the `Program` and the shapes, so one
compiled program serves all settings.

With `lookahead`, a round reads the last token and some guesses of what follows, and chooses as
many tokens as the guesses were right, plus one. Each is chosen by the same function from the same
logits as without guesses, and its random numbers depend on its own place only: guessing changes
the time a text takes and not the text.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.constraints import masking as automaton
from tfgpt2.generation.logits import pipeline as rules
from tfgpt2.generation.logits.sampling import argmax
from tfgpt2.generation.request import History, Program, Prompt, Request, Result, Top
from tfgpt2.generation.stopping import StopState, TokenBytes

__all__ = ["Request", "Result"]


class LanguageModel(Protocol):
    """What the loop asks of a model; see `TFGPT2LMHeadModel` for the shapes."""

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Reads prompts into a fresh cache; returns the next token's logits and the cache."""
        ...

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: Any, *, in_place: bool
    ) -> tuple[tf.Tensor, Any]:
        """Reads more tokens; returns logits and the longer cache."""
        ...

    def rollback(self, cache: Any, before: Any, kept: tf.Tensor, *, width: int) -> Any:
        """Keeps the first `kept` of the tokens read since `before`; asked with guesses only."""
        ...


class Guesser(Protocol):
    """What the loop asks of something that guesses tokens ahead."""

    def start(self, prompt: Prompt, request: Request, size: tf.Tensor) -> Any:
        """Returns what it remembers at first."""
        ...

    def guess(self, memory: Any, history: History, state: State, request: Request) -> Guess:
        """Guesses the tokens after the last one."""
        ...

    def rollback(self, memory: Any, before: Any, kept: tf.Tensor) -> Any:
        """Forgets what it read of guesses that were wrong."""
        ...


class Guess(NamedTuple):
    """What might follow.

    Attributes:
        tokens: int32 `[R, G]`, any ids in `[0, V)`.
        useful: bool `[]`, whether reading the guesses may be worth its time.
        memory: What the guesser remembers after it.
    """

    tokens: tf.Tensor
    useful: tf.Tensor
    memory: Any


@dataclasses.dataclass(frozen=True)
class Task:
    """What stays the same while a request is decoded.

    Attributes:
        model: What to read with.
        prompt: The texts to continue.
        request: The settings of each row.
        program: What the program is compiled for.
        vocabulary: Bytes of every token, where `request.stops` is given.
        guesser: What guesses ahead, where `program.lookahead` is above 0.
        in_place: Compiled by XLA; see `tfgpt2.nn.cache.write`.
    """

    model: LanguageModel
    prompt: Prompt
    request: Request
    program: Program = dataclasses.field(default_factory=Program)
    vocabulary: TokenBytes | None = None
    guesser: Guesser | None = None
    in_place: bool = False

    def history(self, tokens: tf.Tensor, count: tf.Tensor) -> History:
        """The prompts and what was added to them: tokens int32 `[R, T]`, count `[R]`."""
        ids, mask = (repeat(x, self.program.texts) for x in (self.prompt.ids, self.prompt.mask))
        written = tf.range(tf.shape(tokens)[1])[None] < count[:, None]  # [R, T]
        return History(
            tf.concat([ids, tf.where(written, tokens, 0)], axis=1),  # [R, P + T]
            tf.concat([mask > 0, written], axis=1),
            tf.shape(ids)[1],
            count,
        )


class State(NamedTuple):
    """What the loop carries from token to token.

    Attributes:
        token: int32 `[R]`, the last one.
        tokens: int32 `[R, T]`, 0 after a row's end.
        logprobs: float32 `[R, T]`, nats of each token under the model's own distribution.
        count: int32 `[R]`, tokens of each row.
        reason: int32 `[R]`, a code of `tfgpt2.generation.stopping`.
        steps: int32 `[]`, how often the model was asked.
        stop: What stop strings have matched; an empty tuple when the program matches none.
        constraint: int32 `[R]`, where each row is in its automaton; an empty tuple without one.
        top: The likeliest tokens so far, where results report them.
        scores: float32 `[R, T, V]`, where results hold them.
        logits: float32 `[R, T, V]`, where results hold them.
        cache: The model's.
        guesses: What the guesser remembers.
    """

    token: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    steps: tf.Tensor
    stop: StopState | tuple[()]
    constraint: tf.Tensor | tuple[()]
    top: Top | tuple[()]
    scores: tf.Tensor | tuple[()]
    logits: tf.Tensor | tuple[()]
    cache: Any
    guesses: Any


def start(task: Task, room: tf.Tensor) -> State:
    """Reads the prompts and chooses the first token.

    Args:
        task: What to do.
        room: Any `[R, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
    """
    rows, size = tf.unstack(tf.shape(room))
    program, request, prompt = task.program, task.request, task.prompt
    # Holes that wrong guesses leave need columns of their own.
    columns = (
        tf.shape(prompt.ids)[1] + size + (program.lookahead + 1) * _SLACK * bool(program.lookahead)
    )
    logits, cache = task.model.prefill(prompt.ids, prompt.mask, columns=columns)
    logits, cache = (repeat(x, program.texts) for x in (logits, cache))
    limit, vocabulary = tf.minimum(request.max_new_tokens, size), logits.shape[-1]
    every, best = [rows, size, vocabulary], [rows, size, program.top_logprobs]
    state = State(
        token=tf.zeros([rows], tf.int32),
        tokens=tf.zeros([rows, size], tf.int32),
        logprobs=tf.zeros([rows, size], tf.float32),
        count=tf.zeros([rows], tf.int32),
        reason=tf.where(limit > 0, stopping.RUNNING, stopping.LENGTH),
        steps=tf.constant(1),
        stop=stopping.start(request.stops) if request.stops else (),
        constraint=request.constraint.start if request.constraint else (),
        top=Top(tf.zeros(best, tf.int32), tf.zeros(best)) if program.top_logprobs else (),
        scores=tf.zeros(every) if program.scores else (),
        logits=tf.zeros(every) if program.logits else (),
        cache=cache,
        guesses=task.guesser.start(prompt, request, columns) if task.guesser else (),
    )
    return choose(task, state, logits, state.reason == stopping.RUNNING)


_SLACK = 4  # wrong guesses of so many rounds find room before holes are closed


def advance(task: Task, state: State, until: tf.Tensor) -> State:
    """Chooses tokens until every row has ended or one that has not has `until` (int32 `[]`)."""
    body = _guessed if task.guesser else _plain

    def running(state: State) -> tf.Tensor:
        open_rows = state.reason == stopping.RUNNING
        # With guesses, a row may be done long before others: it must not stop them.
        most = tf.reduce_max(tf.where(open_rows, state.count, 0))
        return tf.reduce_any(open_rows) & (most < until)

    (state,) = tf.while_loop(running, lambda state: (body(task, state),), (state,))
    return state


def decode(task: Task, room: tf.Tensor) -> Result:
    """Generates until every row has ended; the arguments are those of `start`."""
    return finish(advance(task, start(task, room), tf.shape(room)[1]))


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


def repeat(tree: Any, texts: int) -> Any:
    """Gives each text the tensors of its prompt: `[B, ...]` -> `[B * texts, ...]`."""
    if texts == 1:
        return tree
    return tf.nest.map_structure(
        lambda x: (
            tf.ensure_shape(tf.repeat(x, texts, axis=0), [None, *x.shape[1:]])
            if x.shape.rank
            else x
        ),
        tree,
    )


def _plain(task: Task, state: State) -> State:
    """Reads the last token and chooses the next."""
    valid = tf.ones_like(state.token, tf.bool)[:, None]  # [R, 1]
    logits, cache = task.model.decode_step(
        state.token[:, None], valid, state.cache, in_place=task.in_place
    )
    state = state._replace(cache=cache, steps=state.steps + 1)
    return choose(task, state, logits[:, 0], state.reason == stopping.RUNNING)


def _guessed(task: Task, state: State) -> State:
    """Reads the last token and guesses, and chooses as many tokens as those allow."""
    before = state
    guess = task.guesser.guess(
        state.guesses, task.history(state.tokens, state.count), state, task.request
    )
    guesses = tf.ensure_shape(guess.tokens, [None, task.program.lookahead])  # [R, G]
    last = state.token[:, None]  # [R, 1]

    def read(ids: tf.Tensor) -> tuple[tf.Tensor, State]:
        logits, cache = task.model.decode_step(
            ids, tf.ones_like(ids, tf.bool), state.cache, in_place=task.in_place
        )
        return logits, state._replace(cache=cache)

    def with_guesses() -> State:
        logits, read_on = read(tf.concat([last, guesses], axis=1))  # [R, G + 1, V]
        return _accept(task, read_on, logits, guesses)

    def alone() -> State:
        logits, read_on = read(last)  # [R, 1, V]
        return choose(task, read_on, logits[:, 0], state.reason == stopping.RUNNING)

    state = tf.cond(guess.useful, with_guesses, alone)
    kept = state.count - before.count  # [R]
    width = task.program.lookahead + 1
    cache = task.model.rollback(state.cache, before.cache, kept, width=width)
    guesses = task.guesser.rollback(guess.memory, before.guesses, kept)
    return state._replace(cache=cache, guesses=guesses, steps=state.steps + 1)


def _accept(task: Task, state: State, logits: tf.Tensor, guesses: tf.Tensor) -> State:
    """Chooses tokens from logits `[R, G + 1, V]`, as long as the guesses `[R, G]` were right."""

    def body(place: tf.Tensor, state: State, active: tf.Tensor) -> tuple[Any, ...]:
        state = choose(task, state, tf.gather(logits, place, axis=1), active)
        guess = tf.gather(guesses, tf.minimum(place, tf.shape(guesses)[1] - 1), axis=1)  # [R]
        active &= (state.token == guess) & (state.reason == stopping.RUNNING)
        return place + 1, state, active

    # The cache is not part of what is chosen; carried along it might be copied.
    cache, guessed = state.cache, state.guesses
    _, state, _ = tf.while_loop(
        lambda place, state, active: (place <= tf.shape(guesses)[1]) & tf.reduce_any(active),
        body,
        (tf.constant(0), state._replace(cache=(), guesses=()), state.reason == stopping.RUNNING),
    )
    return state._replace(cache=cache, guesses=guessed)


def choose(task: Task, state: State, logits: tf.Tensor, active: tf.Tensor) -> State:
    """Chooses the next token of the active rows (bool `[R]`) from logits `[R, V]`."""
    request, program = task.request, task.program
    size = tf.shape(state.tokens)[1]
    limit = tf.minimum(request.max_new_tokens, size)  # [R]
    history = task.history(state.tokens, state.count)
    scores = rules.process(logits, history, request, program, limit)
    if request.constraint:
        scores = rules.constrain(
            scores, logits, request.constraint, state.constraint, request.eos, limit - state.count
        )
    scores = rules.warped(scores, request)
    token = tf.where(active, argmax(rules.noisy(scores, request, state.count)), 0)  # [R]
    logprobs = logits - tf.reduce_logsumexp(logits, axis=-1, keepdims=True)  # [R, V]
    logprob = tf.gather(logprobs, token, batch_dims=1)
    here = (tf.range(size)[None] == state.count[:, None]) & active[:, None]  # [R, T]
    chosen = state._replace(
        token=token,
        tokens=tf.where(here, token[:, None], state.tokens),
        logprobs=tf.where(here, logprob[:, None], state.logprobs),
        count=state.count + 1,
        scores=_noted(state.scores, scores, here),
        logits=_noted(state.logits, logits, here),
    )
    if state.top:
        best = tf.math.top_k(logprobs, program.top_logprobs)
        top = Top(best.indices, best.values)
        chosen = chosen._replace(
            top=Top(*(_noted(old, new, here) for old, new in zip(state.top, top, strict=True)))
        )
    if request.stops:
        chosen = chosen._replace(
            stop=stopping.advance(state.stop, request.stops, task.vocabulary, token)
        )
    if request.constraint:
        chosen = chosen._replace(
            constraint=automaton.advance(request.constraint, state.constraint, token)
        )
    chosen = chosen._replace(reason=_reason(task, chosen, limit))
    # What a row pretends to read when it is not its turn must not change it.
    cache, guesses = state.cache, state.guesses
    kept = tf.nest.map_structure(
        lambda new, old: _where(active, new, old) if new.shape.rank else new,
        chosen._replace(cache=(), guesses=(), scores=(), logits=(), top=()),
        state._replace(cache=(), guesses=(), scores=(), logits=(), top=()),
    )
    return kept._replace(
        cache=cache,
        guesses=guesses,
        scores=chosen.scores,
        logits=chosen.logits,
        top=chosen.top,
        token=tf.where(active, token, state.token),
    )


def _reason(task: Task, state: State, limit: tf.Tensor) -> tf.Tensor:
    """Says why each row ends with the token it has just got, or that it goes on: int32 `[R]`."""
    request = task.request
    reason = tf.where(state.count >= limit, stopping.LENGTH, stopping.RUNNING)
    if request.constraint:
        whole = automaton.complete(request.constraint, state.constraint, limit - state.count)
        reason = tf.where(whole, stopping.STOP, reason)
    ended = tf.reduce_any(request.eos == state.token[:, None], axis=1)
    reason = tf.where(ended, stopping.EOS, reason)
    if task.program.criteria:
        history = task.history(state.tokens, state.count)
        done = rules.met(task.program, history.ids, history.mask)
        reason = tf.where(done, stopping.STOP, reason)
    if state.stop:
        reason = tf.where(state.stop.cut >= 0, stopping.STOP, reason)
    return reason


def _noted(record: Any, values: tf.Tensor, here: tf.Tensor) -> Any:
    """Writes values `[R, X]` into a record `[R, T, X]` at bool `[R, T]`, where there is one."""
    if isinstance(record, tuple):
        return record
    return tf.where(here[..., None], values[:, None], record)


def _where(rows: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Selects whole rows: bool `[R]` over tensors `[R, ...]`."""
    return tf.where(tf.reshape(rows, [-1] + [1] * (new.shape.rank - 1)), new, old)

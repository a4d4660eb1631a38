"""Beam search and beam sampling: a pure function from prompts and per-row settings to tokens.

    start    read the prompts once, one cache row per beam, choose the first tokens   -> State
    body     hand each beam its parent's memory, read its last token, choose the next  -> State
    decode   start, then body until no row can improve                                 -> Beams

Every step looks at the `M` best continuations of a row's `K` beams. Those among the first `K` that
end are kept if they beat what is kept already; the best `K` that do not end go on. A row depends on
nothing but itself, and what a request may set is a tensor with one value per row; what is static
is the model, the number of beams and groups, and the shapes.

Source: transformers 4.57, `generation/utils.py::_beam_search`, for every rule that decides a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation import stopping
from tfgpt2.generation.logits.base import Ends, Process
from tfgpt2.generation.stopping import TokenBytes
from tfgpt2.generation.strategies import diverse_beam_search as beam_groups
from tfgpt2.generation.strategies.beam_state import (
    ABSENT,
    EXACT,
    FULL,
    HEURISTIC,
    BeamRequest,
    Beams,
    Search,
    State,
    no_texts,
)
from tfgpt2.generation.strategies.beam_step import can_improve, go_on, keep, look
from tfgpt2.generation.strategies.cache_rows import expand, hand_over
from tfgpt2.generation.strategies.sampling import LanguageModel
from tfgpt2.nn.attention import MASK_VALUE

__all__ = ["EXACT", "FULL", "HEURISTIC", "BeamRequest", "Beams", "State", "decode", "start"]


def decode(
    model: LanguageModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: BeamRequest,
    room: tf.Tensor,
    *,
    beams: int,
    in_place: bool,
    groups: int = 1,
    process: Process | None = None,
    vocabulary: TokenBytes | None = None,
    context: Mapping[str, Any] | None = None,
    ends: Ends | None = None,
) -> Beams:
    """Searches until no row can improve.

    Args:
        model: What to read with. Tensors of its cache have rows as first axis, or no axis.
        ids: int32 `[B, P]`, right-aligned, at least one token per row.
        mask: int32 `[B, P]`.
        request: The settings of each row.
        room: Any `[B, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
        beams: `K`, 1 or more.
        in_place: Compiled by XLA; see `tfgpt2.nn.cache.write`.
        groups: Groups of beams that keep apart from each other, see `diverse_beam_search`; a
            divisor of `K`. More than one draws nothing: `temperature` is not read.
        process: What is done to log-probabilities `[B * K, V]` before scores are added up; None
            is the row's repetition penalty and least length. Temperature and filters come after.
        vocabulary: Bytes of every token, where `request.row.stops` is given. A text that a stop
            string ends is an ended text like any other.
        context: What `model.prefill` is given beside the prompts, such as a prefix.
        ends: What ends a text beside end tokens, stop strings and its length.

    Returns:
        The `K` best texts of each row. A score that is no number says that the model's are none;
        a count of 0, that there are fewer texts or that none was asked for.

    Raises:
        ValueError: `groups` does not divide `beams`, or its settings are missing.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model.generate([[1, 2]], num_beams=3, max_new_tokens=4, eos_token_id=None).shape
        TensorShape([1, 6])
    """
    _check_groups(beams, groups, request)
    search = Search(ids, mask, request, groups, process, vocabulary, ends)
    choose = beam_groups.choose if groups > 1 else _choose
    state, logits = start(model, search, room, beams=beams, context=context or {})
    state = choose(search, state, logits)

    def body(state: State) -> tuple[State]:
        new = _read(model, state, in_place=in_place)
        new = choose(search, *new)
        return (tf.nest.map_structure(lambda x, y: tf.ensure_shape(x, y.shape), new, state),)

    (state,) = tf.while_loop(lambda state: tf.reduce_any(state.open), body, (state,))
    return _finish(beam_groups.joined(state, groups) if groups > 1 else state)


def start(
    model: LanguageModel,
    search: Search,
    room: tf.Tensor,
    *,
    beams: int,
    context: Mapping[str, Any],
) -> tuple[State, tf.Tensor]:
    """Reads the prompts, one row each; returns the state before any token, and its logits.

    Args:
        model: What to read with.
        search: What is searched.
        room: `[B, T]`.
        beams: `K` of all groups together; each group is a row of the state with its share.
        context: See `decode`.
    """
    ids, mask, row, groups = search.ids, search.mask, search.request.row, search.groups
    rows, size = tf.unstack(tf.shape(room))
    columns = tf.shape(ids)[1] + size
    logits, cache = model.prefill(ids, mask, columns=columns, **context)
    limit = tf.repeat(tf.minimum(row.max_new_tokens, size), groups)  # [B]
    rows, own = rows * groups, beams // groups
    absent = tf.tile(tf.constant([[0.0] + [ABSENT] * (own - 1)]), [rows, 1])  # [B, K]
    none = no_texts(rows, own, size, absent)
    stop = stopping.start(row.stops) if row.stops else ()
    state = State(
        step=tf.constant(0),
        limit=limit,
        open=limit > 0,
        running=none,
        ended=none._replace(score=tf.fill([rows, own], MASK_VALUE)),
        token=none.count,
        parent=none.count,
        stop=tf.nest.map_structure(
            lambda x: tf.stack([tf.repeat(x, groups, axis=0)] * own, axis=1), stop
        ),  # [B, K, ...]
        cache=expand(cache, beams),
    )
    return state, tf.repeat(logits, beams, axis=0)


def _read(model: LanguageModel, state: State, *, in_place: bool) -> tuple[State, tf.Tensor]:
    """Hands each beam the memory of its parent and reads its last token: logits `[B * K, V]`."""
    rows, beams = tf.shape(state.parent)[0], state.parent.shape[1]
    source = tf.reshape(tf.range(rows)[:, None] * beams + state.parent, [-1])  # [B * K]
    # The prompt's columns are the same for all beams of a row; what was generated comes last.
    room = tf.shape(state.running.tokens)[2]
    since = _columns(state.cache) - room
    cache = hand_over(state.cache, source, since, room, in_place=in_place)
    token = tf.reshape(state.token, [-1, 1])  # [B * K, 1]
    logits, cache = model.decode_step(token, tf.ones_like(token, tf.bool), cache, in_place=in_place)
    return state._replace(cache=cache), logits[:, 0]


def _columns(cache: Any) -> tf.Tensor | int:
    """Columns of a cache that has some."""
    return tf.shape(cache.valid)[1] if hasattr(cache, "valid") else 0


def _choose(search: Search, state: State, logits: tf.Tensor) -> State:
    """Chooses the continuations of all texts from the logits `[B * K, V]` and records them."""
    rows, beams = tf.shape(state.token)[0], state.token.shape[1]
    found = look(search, state, logits, tf.range(rows) * beams)
    step = state.step + 1
    reason = found.texts.reason
    last = (step >= state.limit)[:, None] & (reason == stopping.RUNNING)  # [B, M]
    texts = found.texts._replace(reason=tf.where(last, stopping.LENGTH, reason))
    # Only the `K` best continuations are considered.
    first = tf.range(tf.shape(reason)[1])[None] < beams  # [1, M]
    new = (texts.reason != stopping.RUNNING) & first & state.open[:, None]  # [B, M]
    ended = keep(state.ended, texts, new, search.request)
    state = go_on(state, found._replace(texts=texts))._replace(step=step, ended=ended)
    best = state.running.score[:, 0]  # [B]
    improves = can_improve(best, ended, state.limit, step, search.request)
    return state._replace(open=state.open & (step < state.limit) & improves)


def _finish(state: State) -> Beams:
    """Returns the texts that have ended; places without one are empty."""
    texts = state.ended
    empty = texts.reason == stopping.RUNNING  # [B, K]
    # Without a text, the best open one's score tells whether the model's scores are numbers.
    score = tf.where((state.limit > 0)[:, None], state.running.score[:, :1], 0.0)
    return texts._replace(
        score=tf.where(empty, score, texts.score),
        tokens=tf.where(empty[..., None], 0, texts.tokens),
        logprobs=tf.where(empty[..., None], 0.0, texts.logprobs),
        reason=tf.where(empty, stopping.LENGTH, texts.reason),
        beam_indices=tf.where(empty[..., None], -1, texts.beam_indices),
        cut=tf.where(empty, -1, texts.cut),
    )


def _check_groups(beams: int, groups: int, request: BeamRequest) -> None:
    """Checks that groups can be made."""
    if groups < 1 or beams % groups:
        raise ValueError(
            explain(
                "The beams must fall into groups of the same size.",
                fix="Choose num_beams as a multiple of num_beam_groups.",
                num_beams=beams,
                num_beam_groups=groups,
            )
        )
    if groups > 1 and (
        isinstance(request.diversity_penalty, tuple) or isinstance(request.pad, tuple)
    ):
        raise ValueError(
            explain(
                "Groups of beams need a diversity penalty and a pad token for each row.",
                fix="Set `diversity_penalty` and `pad` of the BeamRequest.",
                num_beam_groups=groups,
            )
        )

"""Beam search and beam sampling: a pure function from prompts and per-row settings to tokens.

    start    read the prompts once, one cache row per beam, choose the first tokens   -> State
    body     hand each beam its parent's memory, read its last token, choose the next  -> State
    decode   start, then body until no row can improve                                 -> Result

Every step looks at the `M` best continuations of a row's `K` beams. Those among the first `K` that
end are kept if they beat what is kept already; the best `K` that do not end go on. A row depends on
nothing but itself, and what a request may set is a tensor with one value per row; what is static
is the model, the number of beams and the shapes.

Source: transformers 4.57, `generation/utils.py::_beam_search`, for every rule that decides a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.loop import LanguageModel, Request, any_of, seen_tokens
from tfgpt2.generation.processors import forbid, penalize_repetition
from tfgpt2.generation.sampling import NEVER, gumbel, keep_min_p, keep_top_k, keep_top_p

# Values of `BeamRequest.early_stopping`.
HEURISTIC, FULL, EXACT = 0, 1, 2  # False, True, "never" of transformers

# The score of a beam that does not exist yet: at first all beams are copies of one.
_ABSENT = -1e9
_COLDEST = 1e-6  # as in `processors.draw`


class BeamRequest(NamedTuple):
    """What is asked of beam search, one value per row.

    Attributes:
        row: The settings that every strategy knows. `temperature` 0 takes the best continuations,
            more draws them; stop strings are not matched.
        length_penalty: float32 `[B]`; a text's score is divided by its tokens to this power, so
            above 0 favours long ones.
        early_stopping: int32 `[B]`: `FULL` stops with `K` ended texts; `HEURISTIC` when the best
            open text, as long as it is now, is no better than the worst ended one; `EXACT` when
            no open text can become better, as long as it may get.
    """

    row: Request
    length_penalty: tf.Tensor
    early_stopping: tf.Tensor


class Beams(NamedTuple):
    """Texts of each row, best first.

    Attributes:
        score: float32 `[B, K]`, the sum of log-probabilities; ended texts: after length penalty.
        tokens: int32 `[B, K, T]`, 0 after the end.
        logprobs: float32 `[B, K, T]`, nats of each token under the model's own distribution.
        count: int32 `[B, K]`, tokens.
        reason: int32 `[B, K]`, a code of `tfgpt2.generation.stopping`; RUNNING among ended texts
            is a place where there is none yet.
    """

    score: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor


class State(NamedTuple):
    """What the search carries from step to step.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        limit: int32 `[B]`, most tokens of each row.
        open: bool `[B]`, rows that still search.
        running: Texts that go on.
        ended: The best texts that have ended.
        token: int32 `[B, K]`, the last token of each running text.
        parent: int32 `[B, K]`, the beam whose memory each running text continues.
        seen: bool `[B, K, V]`, tokens that each running text and its prompt hold.
        cache: The model's, with `B * K` rows.
    """

    step: tf.Tensor
    limit: tf.Tensor
    open: tf.Tensor
    running: Beams
    ended: Beams
    token: tf.Tensor
    parent: tf.Tensor
    seen: tf.Tensor
    cache: Any


def decode(
    model: LanguageModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: BeamRequest,
    room: tf.Tensor,
    *,
    beams: int,
    in_place: bool,
) -> Beams:
    """Searches until no row can improve.

    Args:
        model: What to read with. Tensors of its cache have rows as first axis, or no axis.
        ids: int32 `[B, P]`, right-aligned, at least one token per row.
        mask: int32 `[B, P]`.
        request: The settings of each row.
        room: Any `[B, T]` tensor, `T >= 1`: its shape is the most tokens a row can get.
        beams: `K`, 1 or more.
        in_place: Compiled by XLA; see `tfgpt2.modeling.cache.write`.

    Returns:
        The `K` best texts of each row. A score that is no number says that the model's are none;
        a count of 0, that there are fewer texts or that none was asked for.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model.generate([[1, 2]], num_beams=3, max_new_tokens=4, eos_token_id=None).shape
        TensorShape([1, 6])
    """
    state = start(model, ids, mask, request, room, beams=beams, in_place=in_place)

    def body(state: State) -> tuple[State]:
        cache = reorder(state.cache, state.parent)
        token = tf.reshape(state.token, [-1, 1])  # [B * K, 1]
        valid = tf.ones_like(token, tf.bool)
        logits, cache = model.decode_step(token, valid, cache, in_place=in_place)
        return (_choose(state._replace(cache=cache), logits[:, 0], request),)

    (state,) = tf.while_loop(lambda state: tf.reduce_any(state.open), body, (state,))
    return _finish(state)


def start(
    model: LanguageModel,
    ids: tf.Tensor,
    mask: tf.Tensor,
    request: BeamRequest,
    room: tf.Tensor,
    *,
    beams: int,
    in_place: bool,
) -> State:
    """Reads the prompts, one row each, and chooses the first tokens; see `decode`."""
    rows, size = tf.unstack(tf.shape(room))
    logits, cache = model.prefill(ids, mask, columns=tf.shape(ids)[1] + size, in_place=in_place)
    limit = tf.minimum(request.row.max_new_tokens, size)  # [B]
    absent = tf.tile(tf.constant([[0.0] + [_ABSENT] * (beams - 1)]), [rows, 1])  # [B, K]
    none = Beams(
        score=absent,
        tokens=tf.zeros([rows, beams, size], tf.int32),
        logprobs=tf.zeros([rows, beams, size], tf.float32),
        count=tf.zeros([rows, beams], tf.int32),
        reason=tf.fill([rows, beams], stopping.RUNNING),
    )
    seen = seen_tokens(ids, mask, logits.shape[-1])  # [B, V]
    state = State(
        step=tf.constant(0),
        limit=limit,
        open=limit > 0,
        running=none,
        ended=none._replace(score=tf.fill([rows, beams], NEVER)),
        token=none.count,
        parent=none.count,
        seen=tf.tile(seen[:, None], [1, beams, 1]),  # [B, K, V]
        cache=expand(cache, beams),
    )
    return _choose(state, tf.repeat(logits, beams, axis=0), request)


def expand(cache: Any, beams: int) -> Any:
    """Gives each beam the memory of its row: `[B, ...]` -> `[B * K, ...]`."""
    return tf.nest.map_structure(
        lambda x: tf.repeat(x, beams, axis=0) if x.shape.rank else x, cache
    )


def reorder(cache: Any, parent: tf.Tensor) -> Any:
    """Hands each beam the memory of its parent.

    Args:
        cache: Tensors `[B * K, ...]`; those without an axis are shared by all rows.
        parent: int32 `[B, K]`, in `[0, K)`.
    """
    first = tf.range(tf.shape(parent)[0])[:, None] * parent.shape[1]  # [B, 1]
    index = tf.reshape(first + parent, [-1])  # [B * K]
    return tf.nest.map_structure(
        lambda x: tf.ensure_shape(tf.gather(x, index), x.shape) if x.shape.rank else x, cache
    )


def _choose(state: State, logits: tf.Tensor, request: BeamRequest) -> State:
    """Chooses the continuations of all texts from the logits `[B * K, V]` and records them."""
    beams, vocabulary = state.seen.shape[1:]
    total = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)  # [B * K, 1]
    broken = tf.reshape(~tf.math.is_finite(total), [-1, beams])  # [B, K]
    logprobs = logits - total  # [B * K, V]
    scores = tf.reshape(_process(logprobs, state, request.row), [-1, beams, vocabulary])
    scores = tf.reshape(scores + state.running.score[..., None], [-1, beams * vocabulary])
    index = _best(scores, state.step, request.row, beams)  # [B, M]
    parent, token = index // vocabulary, index % vocabulary  # [B, M]
    found = _extend(
        state,
        request.row,
        parent,
        token,
        score=tf.gather(scores, index, batch_dims=1),
        logprob=tf.gather(tf.reshape(logprobs, [-1, beams * vocabulary]), index, batch_dims=1),
    )
    # A text that has ended does not go on, not even where there are fewer than `K` that do.
    goes_on = found._replace(score=tf.where(found.reason == stopping.RUNNING, found.score, NEVER))
    order = tf.math.top_k(goes_on.score, beams).indices  # [B, K]
    running, parent, token = _take((goes_on, parent, token), order)  # [B, K]
    # A model whose scores are no numbers ends the row's search, and the result says so.
    score = tf.where(tf.reduce_any(broken, axis=1, keepdims=True), float("nan"), running.score)
    step = state.step + 1
    state = state._replace(
        step=step,
        running=running._replace(score=score),
        ended=_keep(state, found, request),
        token=token,
        parent=parent,
        seen=_take(state.seen, parent) | tf.one_hot(token, vocabulary, True, False),  # [B, K, V]
    )
    return state._replace(open=state.open & (step < state.limit) & _can_improve(state, request))


def _process(logprobs: tf.Tensor, state: State, row: Request) -> tf.Tensor:
    """What is done to log-probabilities `[B * K, V]` before scores are added up."""
    beams, vocabulary = state.seen.shape[1:]
    row = tf.nest.map_structure(lambda x: tf.repeat(x, beams, axis=0), row)  # [B * K, ...]
    scores = tf.cond(
        tf.reduce_any(row.repetition_penalty != 1),
        lambda: penalize_repetition(
            logprobs, tf.reshape(state.seen, [-1, vocabulary]), row.repetition_penalty
        ),
        lambda: logprobs,
    )
    ends = any_of(row.eos, vocabulary)  # [B * K, V]
    scores = forbid(scores, ends, state.step < row.min_new_tokens)
    return tf.cond(tf.reduce_any(row.temperature > 0), lambda: _warp(scores, row), lambda: scores)


def _warp(scores: tf.Tensor, row: Request) -> tf.Tensor:
    """Temperature and filters; so many tokens stay that a beam can go on when it may end, too.

    Source: transformers 4.57, `generation/utils.py::_get_logits_processor`, `min_tokens_to_keep`.
    """
    least = tf.maximum(2, 1 + tf.reduce_sum(tf.cast(row.eos >= 0, tf.int32), axis=1))  # [B * K]
    hot = scores / tf.maximum(row.temperature, _COLDEST)[:, None]  # [B * K, V]
    top_k = tf.where(row.top_k > 0, tf.maximum(row.top_k, least), 0)
    hot = tf.where(keep_top_k(hot, top_k), hot, NEVER)
    for keep, setting in ((keep_top_p, row.top_p), (keep_min_p, row.min_p)):
        hot = tf.where(keep(hot, setting) | keep_top_k(hot, least), hot, NEVER)
    return tf.where((row.temperature > 0)[:, None], hot, scores)


def _best(scores: tf.Tensor, step: tf.Tensor, row: Request, beams: int) -> tf.Tensor:
    """Finds, or draws, the continuations to look at: scores `[B, K * V]` -> places `[B, M]`.

    `M` is large enough that `K` texts go on even when every end token of every beam is among
    them. The `M` largest of score + Gumbel noise are `M` draws without replacement.

    Source: Kool et al. 2019, "Stochastic Beams and Where to Find Them", section 2.3.
    """
    sampled, size = row.temperature > 0, scores.shape[-1]  # [B]
    scores = tf.cond(
        tf.reduce_any(sampled),
        lambda: tf.where(sampled[:, None], scores + gumbel(row.seed, step, size), scores),
        lambda: scores,
    )
    count = tf.minimum(beams * tf.maximum(2, 1 + tf.shape(row.eos)[1]), size)
    return tf.math.top_k(scores, count).indices


def _extend(
    state: State,
    row: Request,
    parent: tf.Tensor,
    token: tf.Tensor,
    *,
    score: tf.Tensor,
    logprob: tf.Tensor,
) -> Beams:
    """Appends tokens to running texts: everything `[B, M]` -> texts `[B, M]`."""
    texts = _take(state.running, parent)
    here = tf.range(tf.shape(texts.tokens)[2])[None, None] == state.step  # [1, 1, T]
    last = (state.step + 1 >= state.limit)[:, None]  # [B, 1]
    reason = tf.where(last, stopping.LENGTH, tf.fill(tf.shape(token), stopping.RUNNING))
    end = tf.reduce_any(row.eos[:, None] == token[..., None], axis=-1)  # [B, M]
    return Beams(
        score=score,
        tokens=tf.where(here, token[..., None], texts.tokens),
        logprobs=tf.where(here, logprob[..., None], texts.logprobs),
        count=texts.count + 1,
        reason=tf.where(end, stopping.EOS, reason),
    )


def _keep(state: State, found: Beams, request: BeamRequest) -> Beams:
    """Keeps the best texts that have ended; only the `K` best continuations are considered."""
    beams = state.ended.score.shape[1]
    first = tf.range(tf.shape(found.score)[1])[None] < beams  # [1, M]
    real = found.score > _ABSENT / 2
    new = (found.reason != stopping.RUNNING) & first & real & state.open[:, None]  # [B, M]
    length = tf.cast(found.count, tf.float32) ** request.length_penalty[:, None]  # [B, M]
    found = found._replace(
        score=tf.where(new, found.score / length, NEVER),
        reason=tf.where(new, found.reason, stopping.RUNNING),
        count=tf.where(new, found.count, 0),
    )
    both = tf.nest.map_structure(lambda *x: tf.concat(x, axis=1), state.ended, found)
    return _take(both, tf.math.top_k(both.score, beams).indices)


def _can_improve(state: State, request: BeamRequest) -> tf.Tensor:
    """Says which rows' running texts may still beat one that has ended: bool `[B]`.

    Source: transformers 4.57, `generation/utils.py::_check_early_stop_heuristic`.
    """
    best = state.running.score[:, 0]  # [B]
    longest = (request.early_stopping == EXACT) & (request.length_penalty > 0)
    length = tf.cast(tf.where(longest, state.limit, state.step), tf.float32)
    worst = tf.reduce_min(state.ended.score, axis=1)  # [B]
    full = tf.reduce_all(state.ended.reason != stopping.RUNNING, axis=1)
    done = full & (request.early_stopping == FULL)
    better = ~full | (best / length**request.length_penalty > worst)
    return (best > _ABSENT / 2) & better & ~done


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
    )


def _take(tree: Any, index: tf.Tensor) -> Any:
    """Selects texts of each row: tensors `[B, K, ...]` at int32 `[B, M]` -> `[B, M, ...]`."""
    return tf.nest.map_structure(lambda x: tf.gather(x, index, batch_dims=1), tree)

"""What beam search is asked, what it carries from step to step, and what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.logits.base import Ends, Process
from tfgpt2.generation.request import Request
from tfgpt2.generation.stopping import StopState, TokenBytes

# Values of `BeamRequest.early_stopping`.
HEURISTIC, FULL, EXACT = 0, 1, 2  # False, True, "never" of transformers

# The score of a beam that does not exist yet: at first all beams are copies of one.
ABSENT = -1e9


class BeamRequest(NamedTuple):
    """What is asked of beam search, one value per row.

    Attributes:
        row: The settings that every strategy knows. `temperature` 0 takes the best continuations,
            more draws them.
        length_penalty: float32 `[B]`; a text's score is divided by its tokens to this power, so
            above 0 favours long ones.
        early_stopping: int32 `[B]`: `FULL` stops with `K` ended texts; `HEURISTIC` when the best
            open text, as long as it is now, is no better than the worst ended one; `EXACT` when
            no open text can become better, as long as it may get.
        diversity_penalty: float32 `[B]`, 0 or more, of groups only: nats that a token costs for
            each beam of an earlier group that has chosen it in the same step.
        pad: int32 `[B]`, of groups only: the token that a group which has ended counts as having
            chosen, -1 for none.
    """

    row: Request
    length_penalty: tf.Tensor
    early_stopping: tf.Tensor
    diversity_penalty: tf.Tensor | tuple[()] = ()
    pad: tf.Tensor | tuple[()] = ()


class Beams(NamedTuple):
    """Texts of each row, best first.

    Attributes:
        score: float32 `[B, K]`, the sum of log-probabilities; ended texts: after length penalty.
        tokens: int32 `[B, K, T]`, 0 after the end.
        logprobs: float32 `[B, K, T]`, nats of each token under the model's own distribution.
        count: int32 `[B, K]`, tokens.
        reason: int32 `[B, K]`, a code of `tfgpt2.generation.stopping`; RUNNING among ended texts
            is a place where there is none yet.
        beam_indices: int32 `[B, K, T]`, the running text, of the `B * K` of all rows, to which
            each token was appended; -1 after the end.
        cut: int32 `[B, K]`, bytes of text before a stop string; -1 without one.
    """

    score: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    beam_indices: tf.Tensor
    cut: tf.Tensor


class State(NamedTuple):
    """What the search carries from step to step; with groups, each group is a row.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        limit: int32 `[B]`, most tokens of each row.
        open: bool `[B]`, rows that still search.
        running: Texts that go on.
        ended: The best texts that have ended.
        token: int32 `[B, K]`, the last token of each running text.
        parent: int32 `[B, K]`, the beam whose memory each running text continues.
        stop: What stop strings have matched in each running text, `[B, K, ...]`; an empty tuple
            when the program matches none.
        cache: The model's, with `B * K` rows.
    """

    step: tf.Tensor
    limit: tf.Tensor
    open: tf.Tensor
    running: Beams
    ended: Beams
    token: tf.Tensor
    parent: tf.Tensor
    stop: StopState | tuple[()]
    cache: Any


class Search(NamedTuple):
    """What is the same for all steps of a search.

    Attributes:
        ids: int32 `[B, P]`, the prompts.
        mask: int32 `[B, P]`.
        request: The settings of each row.
        groups: `G`, groups of beams; 1 is none.
        process: What is done to log-probabilities; None for repetition penalty and least length.
        vocabulary: Bytes of every token, where there are stop strings.
        ends: What else ends a text; None for nothing.
    """

    ids: tf.Tensor
    mask: tf.Tensor
    request: BeamRequest
    groups: int
    process: Process | None
    vocabulary: TokenBytes | None
    ends: Ends | None = None


def no_texts(rows: tf.Tensor, beams: int, size: tf.Tensor, score: tf.Tensor) -> Beams:
    """Empty texts `[B, K]` with room for `size` tokens."""
    return Beams(
        score=score,
        tokens=tf.zeros([rows, beams, size], tf.int32),
        logprobs=tf.zeros([rows, beams, size], tf.float32),
        count=tf.zeros([rows, beams], tf.int32),
        reason=tf.zeros([rows, beams], tf.int32),
        beam_indices=tf.fill([rows, beams, size], -1),
        cut=tf.fill([rows, beams], -1),
    )


def take(tree: Any, index: tf.Tensor) -> Any:
    """Selects texts of each row: tensors `[B, K, ...]` at int32 `[B, M]` -> `[B, M, ...]`."""
    return tf.nest.map_structure(lambda x: tf.gather(x, index, batch_dims=1), tree)

"""The hypotheses of beam search and the loop variables around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.options import Option
from tfgpt2.generation.stopping import StopState

# Codes of `early_stopping`: False, True and "never" of transformers.
HEURISTIC, FULL, EXACT = 0, 1, 2

# The score of a beam that does not exist yet: at first all beams are copies of one.
NO_BEAM = -1e9

LENGTH_PENALTY = Option(
    "length_penalty", 1.0, "yes, per row", "float32", 1.0, -10, 10, "a number in [-10, 10]"
)
EARLY_STOPPING = Option(
    "early_stopping", False, 'yes: True, False, `"never"`, per row',
    "int32", 0, 0, 2, "True, False or 'never'",
)  # fmt: skip


class Beams(NamedTuple):
    """Hypotheses of each row, best first.

    Attributes:
        score: float32 `[B, K]`, the sum of log-probabilities; finished ones: after length penalty.
        tokens: int32 `[B, K, T]`, 0 after the end.
        logprobs: float32 `[B, K, T]`, nats of each token under the model's own distribution.
        count: int32 `[B, K]`, tokens.
        reason: int32 `[B, K]`, a code of `tfgpt2.generation.stopping`; RUNNING among finished
            hypotheses is an empty place.
        beam_indices: int32 `[B, K, T]`, the beam, of the `B * K` of all rows, to which each token
            was appended; -1 after the end.
        cut: int32 `[B, K]`, bytes of text before a stop string; -1 without one.
    """

    score: tf.Tensor
    tokens: tf.Tensor
    logprobs: tf.Tensor
    count: tf.Tensor
    reason: tf.Tensor
    beam_indices: tf.Tensor
    cut: tf.Tensor


class BeamState(NamedTuple):
    """Loop variables of beam search; with groups, each group is a row.

    Attributes:
        step: int32 `[]`, tokens chosen so far.
        limit: int32 `[B]`, most tokens of each row.
        searching: bool `[B]`, rows that still search.
        running: Beams that continue.
        finished: The best finished hypotheses.
        token: int32 `[B, K]`, the last token of each beam.
        parent: int32 `[B, K]`, the beam whose cache each beam continues.
        stop: State of the stop strings of each beam, `[B, K, ...]`; an empty tuple when the
            program matches none.
        scores: float32 `[B, K, T, V]`, the processed scores that each step chose from, where
            results hold them.
        logits: float32 `[B, K, T, V]`, likewise.
        cache: The model's, with `B * K` rows.
    """

    step: tf.Tensor
    limit: tf.Tensor
    searching: tf.Tensor
    running: Beams
    finished: Beams
    token: tf.Tensor
    parent: tf.Tensor
    stop: StopState | tuple[()]
    scores: tf.Tensor | tuple[()]
    logits: tf.Tensor | tuple[()]
    cache: Any


def empty_beams(rows: tf.Tensor, beams: int, size: tf.Tensor, score: tf.Tensor) -> Beams:
    """Hypotheses `[B, K]` without tokens, in buffers of `size` tokens."""
    return Beams(
        score=score,
        tokens=tf.zeros([rows, beams, size], tf.int32),
        logprobs=tf.zeros([rows, beams, size], tf.float32),
        count=tf.zeros([rows, beams], tf.int32),
        reason=tf.zeros([rows, beams], tf.int32),
        beam_indices=tf.fill([rows, beams, size], -1),
        cut=tf.fill([rows, beams], -1),
    )


def gather_beams(tree: Any, index: tf.Tensor) -> Any:
    """Selects beams of each row: tensors `[B, K, ...]` at int32 `[B, M]` -> `[B, M, ...]`."""
    return tf.nest.map_structure(lambda x: tf.gather(x, index, batch_dims=1), tree)


def flatten_beams(x: tf.Tensor) -> tf.Tensor:
    """`[B, K, ...]` -> `[B * K, ...]`."""
    return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))

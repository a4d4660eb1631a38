"""Constrained decoding inside the graph: token DFAs as tensors.

The host compiles a constraint and a vocabulary to a token DFA (`compile`, `token_dfa`) and the
DFAs of a batch to tensors (`batch_dfas`). In the graph each row has a state number: `mask_logits`
masks its logits, `advance` follows its token, and `is_complete` tells whether it has to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.generation.constraints.token_dfa import TokenDFA
from tfgpt2.nn.attention import MASK_VALUE

FREE = 0  # the state of a row without a constraint
_FAR = 2**30  # above every distance
_MOST_ENTRIES = 2**27  # of the table of a batch, 512 MiB
# Sizes to which tables are padded: a program is compiled for each that occurs.
_TABLE_SIZES = tuple(4**power for power in range(3, 14))
_DFA_COUNTS = tuple(4**power for power in range(9))


class Constraint(NamedTuple):
    """The token DFAs of a batch, as tensors.

    State 0 is that of free rows; the states of all DFAs follow. Tables are padded to a few sizes,
    so that constraints share compiled programs.

    Attributes:
        next_state: int32 `[A, C]`, the state after a token of a class; -1 is forbidden.
        token_class: int32 `[G, V]`, the class of each token in each DFA.
        class_size: int32 `[G, C]`, the number of tokens of each class.
        dfa: int32 `[A]`, the DFA that a state belongs to.
        accepting: bool `[A]`, True where an end token is allowed.
        distance: int32 `[A]`, the fewest tokens from here to an accepting state.
        next_distance: int32 `[A]`, the same with at least one token; large where none is allowed.
        start: int32 `[B]`, the start state of each row.
    """

    next_state: tf.Tensor
    token_class: tf.Tensor
    class_size: tf.Tensor
    dfa: tf.Tensor
    accepting: tf.Tensor
    distance: tf.Tensor
    next_distance: tf.Tensor
    start: tf.Tensor


def batch_dfas(dfas: Sequence[TokenDFA | None], vocab_size: int) -> Constraint:
    """Converts the token DFAs of a batch to tensors.

    Args:
        dfas: One per row; `None` leaves the row free. Equal ones are stored once.
        vocab_size: `V`, the model's; ids beyond a DFA's vocabulary are forbidden.

    Raises:
        ValueError: There is no row, a DFA's vocabulary is larger than the model's, or the table
            would be too large.

    Example:
        >>> batch_dfas([None, None], 5).start.numpy().tolist()
        [0, 0]
    """
    if not dfas or any(dfa and len(dfa.token_class) > vocab_size for dfa in dfas):
        raise value_error(
            "`dfas` must have one item per row, at least one, for a vocabulary of `vocab_size`.",
            fix="Compile the constraint for this model's tokens.",
            rows=len(dfas),
            vocab_size=vocab_size,
        )
    distinct: list[TokenDFA] = []
    rows = [_number_of(dfa, distinct) for dfa in dfas]
    offsets = 1 + np.cumsum([0, *(len(dfa.accepting) for dfa in distinct)])
    states = _padded(int(offsets[-1]), _TABLE_SIZES)
    classes = _padded(max([1, *(dfa.next_state.shape[1] for dfa in distinct)]), _TABLE_SIZES)
    if states * classes > _MOST_ENTRIES:
        raise value_error(
            f"These constraints' transition table would have more than {_MOST_ENTRIES} entries.",
            fix="Use smaller constraints, or run the rows one by one.",
            states=states,
            token_classes=classes,
        )
    next_state = np.full([states, classes], -1, np.int32)
    next_state[FREE] = FREE
    token_class = np.zeros([_padded(max(1, len(distinct)), _DFA_COUNTS), vocab_size], np.int32)
    class_size = np.zeros([len(token_class), classes], np.int32)
    dfa_of, distance = np.zeros(states, np.int32), np.full(states, _FAR, np.int32)
    accepting, next_distance = np.zeros(states, bool), np.full(states, _FAR, np.int32)
    distance[FREE] = next_distance[FREE] = 0
    for number, (dfa, offset) in enumerate(zip(distinct, offsets[:-1], strict=True)):
        span, allowed = slice(offset, offsets[number + 1]), dfa.next_state >= 0
        next_state[span, : allowed.shape[1]] = np.where(allowed, dfa.next_state + offset, -1)
        token_class[number, : len(dfa.token_class)] = dfa.token_class
        class_size[number] = np.bincount(token_class[number], minlength=classes)
        dfa_of[span], accepting[span], distance[span] = number, dfa.accepting, dfa.distance
        after = np.where(allowed, dfa.distance[dfa.next_state], _FAR - 1)
        next_distance[span] = 1 + after.min(1)
    start = np.array([FREE if row < 0 else offsets[row] for row in rows], np.int32)
    tables = (next_state, token_class, class_size, dfa_of, accepting, distance, next_distance)
    return Constraint(*map(tf.constant, (*tables, start)))


def _number_of(dfa: TokenDFA | None, distinct: list[TokenDFA]) -> int:
    """Returns the index of a DFA in a list, to which it is added when new; -1 for None."""
    if dfa is None:
        return -1
    for number, other in enumerate(distinct):
        if dfa is other or all(map(np.array_equal, dfa, other)):
            return number
    distinct.append(dfa)
    return len(distinct) - 1


def _padded(size: int, sizes: Sequence[int]) -> int:
    return next((padded for padded in sizes if padded >= size), size)


def mask_logits(
    logits: tf.Tensor,
    constraint: Constraint,
    state: tf.Tensor,
    eos: tf.Tensor,
    remaining: tf.Tensor,
) -> tf.Tensor:
    """Masks the tokens after which the row's output could not become a full match any more.

    An end token is allowed exactly where the text so far is a full match. Any other token is
    allowed if an accepting state can be reached with the tokens that remain after it. Where the
    limit was too tight from the start, the tokens of a shortest path are allowed, and the output
    is cut. A row where nothing would be allowed, because it is complete and has no end token,
    keeps its logits.

    Args:
        logits: float32 `[B, V]`.
        constraint: The batch's token DFAs.
        state: int32 `[B]`, the state of each row.
        eos: int32 `[B, E]`, the end tokens of each row; -1 is padding.
        remaining: int32 `[B]`, tokens that the row may still generate, this one included.

    Returns:
        float32 `[B, V]`, `MASK_VALUE` where a token is not allowed.
    """
    after = tf.gather(constraint.next_state, state)  # [B, C]
    distance = tf.where(after >= 0, tf.gather(constraint.distance, tf.maximum(after, 0)), _FAR)
    accepting = tf.gather(constraint.accepting, state)  # [B]
    needed = tf.where(accepting, 0, tf.gather(constraint.next_distance, state))
    budget = tf.minimum(tf.maximum(remaining, needed), _FAR) - 1  # [B]
    allowed_classes = distance <= budget[:, None]  # [B, C]
    # An end token that is also text may be the only way on; then it is text.
    can_end = accepting & tf.reduce_any((eos >= 0) & (eos < tf.shape(logits)[1]), axis=1)  # [B]
    eos_ends = can_end | _has_text_token(constraint, state, allowed_classes, eos)
    free = (state == FREE) | ~(can_end | tf.reduce_any(allowed_classes, axis=1))
    # Over the whole vocabulary: one gather, and one comparison with each end token.
    classes = tf.gather(constraint.token_class, tf.gather(constraint.dfa, state))  # [B, V]
    allowed = tf.gather(allowed_classes | free[:, None], classes, batch_dims=1)  # [B, V]
    token = tf.range(tf.shape(logits)[1])[None, None]  # [1, 1, V]
    is_eos = tf.reduce_any(token == eos[:, :, None], axis=1)  # [B, V]
    allowed = tf.where(is_eos & (eos_ends & ~free)[:, None], accepting[:, None], allowed)
    return tf.where(allowed, logits, MASK_VALUE)


def _has_text_token(
    constraint: Constraint, state: tf.Tensor, allowed_classes: tf.Tensor, eos: tf.Tensor
) -> tf.Tensor:
    """Tells which rows have an allowed token that is not an end token; bool `[B]`.

    It counts, since a reduction over the vocabulary would cost as much as the mask itself.
    """
    dfa = tf.gather(constraint.dfa, state)  # [B]
    sizes = tf.gather(constraint.class_size, dfa)  # [B, C]
    tokens = tf.reduce_sum(tf.where(allowed_classes, sizes, 0), axis=1)  # [B]
    vocab_size = tf.shape(constraint.token_class)[1]
    valid = (eos >= 0) & (eos < vocab_size)  # [B, E]
    indices = tf.stack([tf.broadcast_to(dfa[:, None], tf.shape(eos)),
                        tf.where(valid, eos, 0)], axis=-1)  # [B, E, 2]  # fmt: skip
    classes = tf.gather_nd(constraint.token_class, indices)  # [B, E]
    counted = valid & tf.gather(allowed_classes, classes, batch_dims=1)
    # An id that is listed twice counts once.
    order = tf.range(tf.shape(eos)[1])
    repeated = (eos[:, :, None] == eos[:, None]) & (order[:, None] > order)  # [B, E, E]
    counted &= ~tf.reduce_any(repeated, axis=2)
    return tokens > tf.reduce_sum(tf.cast(counted, tf.int32), axis=1)


def advance(constraint: Constraint, state: tf.Tensor, token: tf.Tensor) -> tf.Tensor:
    """Returns the state of each row after one token.

    Args:
        constraint: The batch's token DFAs.
        state: int32 `[B]`.
        token: int32 `[B]`; a forbidden one, such as an end token, keeps the state.

    Returns:
        int32 `[B]`.
    """
    dfa = tf.gather(constraint.dfa, state)
    token_class = tf.gather_nd(constraint.token_class, tf.stack([dfa, token], axis=1))  # [B]
    after = tf.gather_nd(constraint.next_state, tf.stack([state, token_class], axis=1))  # [B]
    return tf.where(after >= 0, after, state)


def is_complete(constraint: Constraint, state: tf.Tensor, remaining: tf.Tensor) -> tf.Tensor:
    """Tells which rows are a full match that cannot become a longer one within their limit.

    Such a row ends, with an end token or without one.

    Args:
        constraint: The batch's token DFAs.
        state: int32 `[B]`.
        remaining: int32 `[B]`, tokens that the row may still generate.

    Returns:
        bool `[B]`; False for free rows.
    """
    accepting = tf.gather(constraint.accepting, state)
    next_distance = tf.gather(constraint.next_distance, state)
    return accepting & (next_distance > tf.minimum(remaining, _FAR - 1))

"""Constrained output inside the graph: automata over tokens, held as tensors.

The host turns a constraint and a vocabulary into a table of tokens (`constraints`, `token_table`)
and the tables of a batch into tensors (`join`). In the graph a row is a state number: `allow` masks
its logits, `advance` reads its token, `complete` says that nothing longer can follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.constraints.token_dfa import TokenAutomaton
from tfgpt2.nn.attention import MASK_VALUE

FREE = 0  # the state of a row without a constraint
_FAR = 2**30  # steps from a state that only fills a table up
# Sizes to which tables are padded: a program is compiled for each that occurs.
_SIZES = tuple(4**power for power in range(3, 14))
_GROUPS = tuple(4**power for power in range(9))


class Constraint(NamedTuple):
    """The automata of a batch, as tensors; a row is free or in a state of one of them.

    State 0 is that of free rows. Sizes are padded to a few, so that constraints share programs.

    Attributes:
        next: int32 `[A, C]`, the state after a token of a class; -1 is forbidden.
        token_class: int32 `[G, V]`, the classes of each automaton's tokens.
        class_size: int32 `[G, C]`, how many tokens are of a class.
        group: int32 `[A]`, the automaton that a state belongs to.
        final: bool `[A]`, an end token is allowed here.
        steps: int32 `[A]`, the fewest tokens from here to a final state.
        onward: int32 `[A]`, the same with one token at least; large where no token can follow.
        start: int32 `[B]`, each row's state before any token.
    """

    next: tf.Tensor
    token_class: tf.Tensor
    class_size: tf.Tensor
    group: tf.Tensor
    final: tf.Tensor
    steps: tf.Tensor
    onward: tf.Tensor
    start: tf.Tensor


def join(automata: Sequence[TokenAutomaton | None], vocab_size: int) -> Constraint:
    """Lays out the automata of a batch as tensors.

    Args:
        automata: One per row; `None` leaves the row free. Equal ones are stored once.
        vocab_size: `V`, the model's; ids that an automaton does not know are forbidden.

    Raises:
        ValueError: There is no row, or an automaton knows more ids than the model.

    Example:
        >>> join([None, None], 5).start.numpy().tolist()
        [0, 0]
    """
    if not automata or any(one and len(one.token_class) > vocab_size for one in automata):
        raise ValueError(
            explain(
                "`automata` must be one per row, at least one, for a vocabulary of `vocab_size`.",
                fix="Compile the constraint for this model's tokens.",
                rows=len(automata),
                vocab_size=vocab_size,
            )
        )
    groups: list[TokenAutomaton] = []
    rows = [_number_of(one, groups) for one in automata]
    sizes = [len(group.final) for group in groups]
    offsets = 1 + np.cumsum([0, *sizes])
    states = _padded(int(offsets[-1]), _SIZES)
    classes = _padded(max([1, *(group.next.shape[1] for group in groups)]), _SIZES)
    next_state = np.full([states, classes], -1, np.int32)
    next_state[FREE] = FREE
    token_class = np.zeros([_padded(max(1, len(groups)), _GROUPS), vocab_size], np.int32)
    class_size = np.zeros([len(token_class), classes], np.int32)
    group_of, steps = np.zeros(states, np.int32), np.full(states, _FAR, np.int32)
    final, onward = np.zeros(states, bool), np.full(states, _FAR, np.int32)
    steps[FREE] = onward[FREE] = 0
    for number, (group, offset) in enumerate(zip(groups, offsets[:-1], strict=True)):
        span = slice(offset, offset + sizes[number])
        next_state[span, : group.next.shape[1]] = np.where(group.next < 0, -1, group.next + offset)
        token_class[number, : len(group.token_class)] = group.token_class
        class_size[number] = np.bincount(token_class[number], minlength=classes)
        group_of[span], final[span], steps[span] = number, group.final, group.steps
        after = np.where(group.next < 0, _FAR - 1, group.steps[group.next])
        onward[span] = 1 + after.min(1)
    start = [FREE if row < 0 else offsets[row] + groups[row].start for row in rows]
    return Constraint(
        *map(tf.constant, (next_state, token_class, class_size, group_of, final, steps, onward)),
        start=tf.constant(np.array(start, np.int32)),
    )


def _number_of(one: TokenAutomaton | None, groups: list[TokenAutomaton]) -> int:
    """Finds an automaton in a list, or adds it; -1 for none."""
    if one is None:
        return -1
    for number, group in enumerate(groups):
        if one is group or all(map(np.array_equal, one, group)):
            return number
    groups.append(one)
    return len(groups) - 1


def _padded(size: int, sizes: Sequence[int]) -> int:
    return next((one for one in sizes if one >= size), size)


def allow(
    logits: tf.Tensor,
    constraint: Constraint,
    state: tf.Tensor,
    eos: tf.Tensor,
    remaining: tf.Tensor,
) -> tf.Tensor:
    """Rules out tokens after which the row's output could not become a whole match any more.

    An end token stays exactly where the text so far is a match. Any other token stays if a final
    state can be reached in the tokens that remain after it. Where the limit was too tight from the
    start, the tokens on a shortest way stay, and the output is cut. A row where nothing at all
    would stay, because it is `complete` and has no end token, keeps its logits.

    Args:
        logits: float32 `[B, V]`.
        constraint: The automata.
        state: int32 `[B]`, each row's state.
        eos: int32 `[B, E]`, end tokens of each row; -1 is none.
        remaining: int32 `[B]`, tokens that the row may still draw, this one included.

    Returns:
        float32 `[B, V]`, finite where the logits are.
    """
    after = tf.gather(constraint.next, state)  # [B, C]
    steps = tf.where(after >= 0, tf.gather(constraint.steps, tf.maximum(after, 0)), _FAR)
    final = tf.gather(constraint.final, state)  # [B]
    late = tf.where(final, 0, tf.gather(constraint.onward, state))
    budget = tf.minimum(tf.maximum(remaining, late), _FAR) - 1  # [B]
    open_classes = steps <= budget[:, None]  # [B, C]
    # An end token that is also text may be the only way on; then it is read as text.
    can_end = final & tf.reduce_any((eos >= 0) & (eos < tf.shape(logits)[1]), axis=1)  # [B]
    obey = can_end | _goes_on_without(constraint, state, open_classes, eos)
    free = (state == FREE) | ~(can_end | tf.reduce_any(open_classes, axis=1))
    # What needs the whole vocabulary: one gather, one comparison with each end token.
    classes = tf.gather(constraint.token_class, tf.gather(constraint.group, state))  # [B, V]
    kept = tf.gather(open_classes | free[:, None], classes, batch_dims=1)  # [B, V]
    token = tf.range(tf.shape(logits)[1])[None, None]  # [1, 1, V]
    ends = tf.reduce_any(token == eos[:, :, None], axis=1)  # [B, V]
    kept = tf.where(ends & (obey & ~free)[:, None], final[:, None], kept)
    return tf.where(kept, logits, MASK_VALUE)


def _goes_on_without(
    constraint: Constraint, state: tf.Tensor, open_classes: tf.Tensor, eos: tf.Tensor
) -> tf.Tensor:
    """Says which rows have a token to draw that is no end token; bool `[B]`.

    It counts, since a reduction over the vocabulary would cost as much as the mask itself.
    """
    group = tf.gather(constraint.group, state)  # [B]
    sizes = tf.gather(constraint.class_size, group)  # [B, C]
    tokens = tf.reduce_sum(tf.where(open_classes, sizes, 0), axis=1)  # [B]
    limit = tf.shape(constraint.token_class)[1]
    known = (eos >= 0) & (eos < limit)  # [B, E]
    place = tf.stack([tf.broadcast_to(group[:, None], tf.shape(eos)),
                      tf.where(known, eos, 0)], axis=-1)  # [B, E, 2]  # fmt: skip
    classes = tf.gather_nd(constraint.token_class, place)  # [B, E]
    found = known & tf.gather(open_classes, classes, batch_dims=1)
    # An id that is listed twice counts once.
    order = tf.range(tf.shape(eos)[1])
    again = (eos[:, :, None] == eos[:, None]) & (order[:, None] > order)  # [B, E, E]
    found &= ~tf.reduce_any(again, axis=2)
    return tokens > tf.reduce_sum(tf.cast(found, tf.int32), axis=1)


def advance(constraint: Constraint, state: tf.Tensor, token: tf.Tensor) -> tf.Tensor:
    """Reads one token of each row.

    Args:
        constraint: The automata.
        state: int32 `[B]`.
        token: int32 `[B]`; after a forbidden one, such as an end token, the state stays.

    Returns:
        int32 `[B]`.
    """
    group = tf.gather(constraint.group, state)
    which = tf.gather_nd(constraint.token_class, tf.stack([group, token], axis=1))  # [B]
    after = tf.gather_nd(constraint.next, tf.stack([state, which], axis=1))  # [B]
    return tf.where(after >= 0, after, state)


def complete(constraint: Constraint, state: tf.Tensor, remaining: tf.Tensor) -> tf.Tensor:
    """Says which rows hold a whole match that nothing longer can follow within their limit.

    Such a row ends, with an end token or without one.

    Args:
        constraint: The automata.
        state: int32 `[B]`.
        remaining: int32 `[B]`, tokens that the row may still draw.

    Returns:
        bool `[B]`; False for free rows.
    """
    final, onward = tf.gather(constraint.final, state), tf.gather(constraint.onward, state)
    return final & (onward > tf.minimum(remaining, _FAR - 1))

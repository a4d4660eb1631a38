"""Operations between lists of token ids and the vocabulary."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.nn.attention import MASK_VALUE

# A score below it was ruled out, whatever else was done to it.
RULED_OUT = MASK_VALUE / 1e9


def mark_ids(ids: tf.Tensor, size: int) -> tf.Tensor:
    """Ids int32 `[B, U]` -> bool `[B, size]`, True at each id; others, such as -1, are ignored.

    Example:
        >>> mark_ids(tf.constant([[2, -1, 2]]), 4).numpy().tolist()
        [[False, False, True, False]]
    """
    return count_ids(ids, size) > 0


def count_ids(ids: tf.Tensor, size: int) -> tf.Tensor:
    """Ids int32 `[B, U]` -> int32 `[B, size]`, how often each occurs; -1 is ignored.

    Example:
        >>> count_ids(tf.constant([[2, -1, 2]]), 4).numpy().tolist()
        [[0, 0, 2, 0]]
    """
    return sum_by_id(ids, tf.ones_like(ids), size)


def sum_by_id(ids: tf.Tensor, values: tf.Tensor, size: int) -> tf.Tensor:
    """Adds up values by id: ids int32 `[B, U]`, values `[B, U]` -> `[B, size]`.

    A scatter: comparing each id with the vocabulary costs 16 times as much at 1024 ids.

    Args:
        ids: int32 `[B, U]`; those outside `[0, size)` are left out.
        values: Any number type, `[B, U]`.
        size: `V`.
    """
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))  # [B, U]
    # Ids to leave out go into a column of their own that is then cut off.
    column = tf.where((ids >= 0) & (ids < size), ids, size)
    sums = tf.zeros([tf.shape(ids)[0], size + 1], values.dtype)  # [B, V + 1]
    sums = tf.tensor_scatter_nd_add(sums, tf.stack([rows, column], axis=-1), values)
    return sums[:, :size]  # [B, V]


def argmax(scores: tf.Tensor) -> tf.Tensor:
    """Returns the first index of each row's largest score; see `best_token`."""
    return best_token(scores)[0]


def best_token(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first index of each row's largest score, and that score.

    Two plain reductions: XLA vectorises those on a CPU, and its own argmax not.

    Args:
        scores: Float `[B, V]`.

    Returns:
        int32 `[B]`, in `[0, V)` even where a row holds NaN, and `[B]`.

    Example:
        >>> index, score = best_token(tf.constant([[1.0, 3.0, 3.0]]))
        >>> index.numpy().tolist(), score.numpy().tolist()
        ([1], [3.0])
    """
    best = tf.reduce_max(scores, axis=-1, keepdims=True)  # [B, 1]
    last = tf.shape(scores)[-1] - 1
    index = tf.range(last + 1)[None]  # [1, V]
    token = tf.reduce_min(tf.where(scores == best, index, last), axis=-1)  # [B]
    return token, best[:, 0]

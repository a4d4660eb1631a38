"""Random numbers that every mode of execution agrees on: Threefry bits and Gumbel noise.

Integer arithmetic and elementwise float operations only, so a compiled program, a graph and eager
execution draw the same token.
"""

from __future__ import annotations

import tensorflow as tf

# Rotations of Threefry-2x32 and the constant of its key schedule.
# Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", section 3.3.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(
    key: tuple[tf.Tensor, tf.Tensor], counter: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32 with 20 rounds: two random words for each key and counter.

    Args:
        key: Two uint32 tensors.
        counter: Two uint32 tensors; all four broadcast against each other.

    Returns:
        Two uint32 tensors of the common shape.

    Source: Salmon et al. 2011, section 3.3; known answers from the authors' Random123 library.

    Example:
        >>> zero = tf.constant(0, tf.uint32)
        >>> [hex(int(word)) for word in threefry((zero, zero), (zero, zero))]
        ['0x6b200159', '0x99ba4efe']
    """
    schedule = (*key, key[0] ^ key[1] ^ tf.constant(_PARITY, tf.uint32))
    first, second = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = _rotate(second, distance) ^ first
        first = first + schedule[(group + 1) % 3]
        second = second + schedule[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return first, second


def gumbel(seed: tf.Tensor, step: tf.Tensor, count: int) -> tf.Tensor:
    """Draws standard Gumbel noise; the numbers depend on nothing but the row's seed and the step.

    Args:
        seed: int64 `[B]`.
        step: int32 `[B]`, how many tokens the row drew before; `[]` is one number for all rows.
        count: Numbers per row.

    Returns:
        float32 `[B, count]`, finite.
    """
    half = (count + 1) // 2  # one call gives two words: for token i and for token half + i
    low = tf.bitcast(tf.cast(seed & 0xFFFFFFFF, tf.int64), tf.uint32)[:, 0]  # [B]
    high = tf.bitcast(seed, tf.uint32)[:, 1]  # [B]
    key = (low[:, None], high[:, None])  # [B, 1]
    counter = (tf.range(half, dtype=tf.int32)[None], tf.reshape(step, [-1, 1]))  # [1, V/2], [B, 1]
    words = threefry(key, tuple(tf.bitcast(part, tf.uint32) for part in counter))
    bits = tf.concat(words, axis=1)[:, :count]  # [B, count]
    # 23 bits in the middle of their cells: never 0 and never 1, so both logarithms are finite.
    uniform = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)
    uniform = (uniform + 0.5) * 2.0**-23
    return -tf.math.log(-tf.math.log(uniform))


def add_gumbel_noise(
    scores: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, step: tf.Tensor
) -> tf.Tensor:
    """Adds noise where tokens are drawn: the largest sum is a draw from the softmax.

    Args:
        scores: float32 `[B, N]`, the warped scores.
        temperature: float32 `[B]`; rows of temperature 0 stay as they are.
        seed: int64 `[B]`.
        step: int32 `[B]` or `[]`, how many tokens the row drew before.
    """
    sampled = temperature > 0  # [B]
    return tf.cond(
        tf.reduce_any(sampled),
        lambda: tf.where(sampled[:, None], scores + gumbel(seed, step, scores.shape[-1]), scores),
        lambda: scores,
    )


def _rotate(word: tf.Tensor, distance: int) -> tf.Tensor:
    """Rotates 32-bit words to the left."""
    left, right = tf.constant(distance, tf.uint32), tf.constant(32 - distance, tf.uint32)
    return tf.bitwise.left_shift(word, left) | tf.bitwise.right_shift(word, right)

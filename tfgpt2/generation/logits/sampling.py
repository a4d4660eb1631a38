"""Drawing a token: random numbers that any mode of execution agrees on, and the filters.

All functions are pure, take one value per row, and treat "off" as a value. They use integer
arithmetic and elementwise float operations only, so a compiled program, a graph and eager
execution choose the same token.
"""

from __future__ import annotations

from collections.abc import Callable

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


def argmax(scores: tf.Tensor) -> tf.Tensor:
    """Returns the first index of each row's largest score.

    Two plain reductions: XLA vectorises those on a CPU, and its own argmax not.

    Args:
        scores: Float `[B, V]`.

    Returns:
        int32 `[B]`, in `[0, V)` even where a row holds NaN.

    Example:
        >>> argmax(tf.constant([[1.0, 3.0, 3.0]])).numpy().tolist()
        [1]
    """
    best = tf.reduce_max(scores, axis=-1, keepdims=True)  # [B, 1]
    last = tf.shape(scores)[-1] - 1
    index = tf.range(last + 1)[None]  # [1, V]
    return tf.reduce_min(tf.where(scores == best, index, last), axis=-1)  # [B]


def keep_top_k(scores: tf.Tensor, k: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which scores are among a row's `k` largest; ties at the edge all stay.

    Args:
        scores: float32 `[B, V]`.
        k: int32 `[B]`; 0 keeps everything.
        least: int32 `[B]` or `[]`, tokens that stay whatever `k` is, 1 or more.

    Returns:
        bool `[B, V]`.

    Source: Fan et al. 2018, section 5.4; transformers' `TopKLogitsWarper`.

    Example:
        >>> keep_top_k(tf.constant([[0.1, 0.5, 0.4]]), tf.constant([2])).numpy().tolist()
        [[False, True, True]]
    """
    size = tf.shape(scores)[-1]
    wanted = tf.where(k > 0, tf.minimum(tf.maximum(k, least), size), size)  # [B]
    keys = _ordered(scores)
    edge = _largest_edge(
        keys,
        lambda edge: tf.reduce_sum(tf.cast(keys >= edge[:, None], tf.int32), axis=-1) >= wanted,
    )
    return keys >= edge[:, None]


def keep_top_p(scores: tf.Tensor, p: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which tokens make up the smallest set whose probability reaches `p`.

    Args:
        scores: float32 `[B, V]`, logits.
        p: float32 `[B]` in [0, 1]; 1 keeps everything, 0 only the most likely token.
        least: int32 `[B]` or `[]`, how many of the most likely tokens stay in any case.

    Returns:
        bool `[B, V]`; ties at the edge all stay, and the most likely token always.

    Source: Holtzman et al. 2019, section 3.1; transformers' `TopPLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_top_p(scores, tf.constant([0.8])).numpy().tolist()
        [[False, True, True]]
    """
    return _smallest_set(scores, tf.nn.softmax(scores), p, least)


def keep_min_p(scores: tf.Tensor, p: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which tokens are at least `p` times as likely as the most likely one.

    Args:
        scores: float32 `[B, V]`, logits.
        p: float32 `[B]` in [0, 1]; 0 keeps everything.
        least: int32 `[B]` or `[]`, how many of the most likely tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Nguyen et al. 2024, section 3; transformers' `MinPLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_min_p(scores, tf.constant([0.4])).numpy().tolist()
        [[False, True, True]]
    """
    best = tf.reduce_max(scores, axis=-1, keepdims=True)  # [B, 1]
    ratio = tf.exp(scores - best)
    return (ratio >= p[:, None]) | _best(scores, least)


def keep_typical(scores: tf.Tensor, mass: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which tokens make up the smallest set of typical ones whose probability reaches `mass`.

    A token is typical when its surprise, `-log p`, is near the distribution's entropy, so the most
    likely token may go.

    Args:
        scores: float32 `[B, V]`, logits.
        mass: float32 `[B]` in [0, 1]; 1 keeps everything, 0 only the most typical token.
        least: int32 `[B]` or `[]`, how many of the most typical tokens stay in any case.

    Returns:
        bool `[B, V]`; ties at the edge all stay, and the most typical token always.

    Source: Meister et al. 2022, "Locally Typical Sampling"; transformers'
        `TypicalLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_typical(scores, tf.constant([0.2])).numpy().tolist()
        [[False, False, True]]
    """
    logprobs, probabilities, entropy = _distribution(scores)
    typical = -tf.abs(logprobs + entropy[:, None])  # [B, V], 0 at the entropy, negative elsewhere
    return _smallest_set(typical, probabilities, mass, least)


def keep_epsilon(scores: tf.Tensor, cutoff: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which tokens are at least as likely as `cutoff`.

    Args:
        scores: float32 `[B, V]`, logits.
        cutoff: float32 `[B]` in [0, 1]; 0 keeps everything.
        least: int32 `[B]` or `[]`, how many of the most likely tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing";
        transformers' `EpsilonLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_epsilon(scores, tf.constant([0.2])).numpy().tolist()
        [[False, True, True]]
    """
    return (tf.nn.softmax(scores) >= cutoff[:, None]) | _best(scores, least)


def keep_eta(scores: tf.Tensor, cutoff: tf.Tensor, least: tf.Tensor | int = 1) -> tf.Tensor:
    """Says which tokens are likely enough for the distribution: the flatter, the lower the bar.

    The bar is `min(cutoff, sqrt(cutoff) * exp(-entropy))`, the entropy in nats.

    Args:
        scores: float32 `[B, V]`, logits.
        cutoff: float32 `[B]` in [0, 1]; 0 keeps everything.
        least: int32 `[B]` or `[]`, how many of the most likely tokens stay in any case.

    Returns:
        bool `[B, V]`.

    Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing";
        transformers' `EtaLogitsWarper`.

    Example:
        >>> scores = tf.math.log(tf.constant([[0.1, 0.6, 0.3]]))
        >>> keep_eta(scores, tf.constant([0.2])).numpy().tolist()
        [[False, True, True]]
    """
    _, probabilities, entropy = _distribution(scores)
    bar = tf.minimum(cutoff, tf.sqrt(cutoff) * tf.exp(-entropy))  # [B]
    return (probabilities >= bar[:, None]) | _best(scores, least)


def _distribution(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Logits `[B, V]` -> log-probabilities and probabilities `[B, V]`, entropy `[B]` in nats."""
    logprobs = tf.nn.log_softmax(scores)
    probabilities = tf.exp(logprobs)
    # A token without probability adds nothing, however far below its logit lies.
    terms = tf.where(probabilities > 0, probabilities * logprobs, 0.0)
    return logprobs, probabilities, -tf.reduce_sum(terms, axis=-1)


def _smallest_set(
    order: tf.Tensor, probabilities: tf.Tensor, mass: tf.Tensor, least: tf.Tensor | int
) -> tf.Tensor:
    """Marks the first tokens in an order that together reach a mass.

    Args:
        order: float32 `[B, V]`; the largest come first, and ties come together.
        probabilities: float32 `[B, V]`.
        mass: float32 `[B]`; 1 marks everything.
        least: int32 `[B]` or `[]`, how many are marked in any case.

    Returns:
        bool `[B, V]`.
    """
    keys = _ordered(order)

    def enough(edge: tf.Tensor) -> tf.Tensor:
        kept = tf.where(keys >= edge[:, None], probabilities, 0.0)  # [B, V]
        return tf.reduce_sum(kept, axis=-1) >= mass

    edge = _largest_edge(keys, enough)
    return (keys >= edge[:, None]) | (mass >= 1)[:, None] | _best(order, least)


def _best(scores: tf.Tensor, least: tf.Tensor | int) -> tf.Tensor:
    """Marks each row's `least` largest scores: bool `[B, V]`; one needs no search."""
    if isinstance(least, int) and least == 1:
        return scores >= tf.reduce_max(scores, axis=-1, keepdims=True)
    rows = tf.shape(scores)[0]
    return keep_top_k(scores, tf.broadcast_to(tf.maximum(least, 1), [rows]))


def _rotate(word: tf.Tensor, distance: int) -> tf.Tensor:
    """Rotates 32-bit words to the left."""
    left, right = tf.constant(distance, tf.uint32), tf.constant(32 - distance, tf.uint32)
    return tf.bitwise.left_shift(word, left) | tf.bitwise.right_shift(word, right)


def _ordered(scores: tf.Tensor) -> tf.Tensor:
    """Maps float32 to int32 so that the order stays: a search over integers is exact."""
    bits = tf.bitcast(scores + 0.0, tf.int32)  # -0.0 becomes 0.0
    return tf.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _largest_edge(keys: tf.Tensor, enough: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Bisects for the largest edge that is low enough, without sorting the vocabulary.

    Args:
        keys: int32 `[B, V]`.
        enough: From edges `[B]` to bool `[B]`: whether the keys from that edge up suffice. True
            below some edge and False above it.

    Returns:
        int32 `[B]`; the smallest key where nothing is ever enough.
    """
    low, high = tf.reduce_min(keys, axis=-1), tf.reduce_max(keys, axis=-1)  # [B]

    def narrow(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The upper middle, without overflow: ceil((low + high) / 2).
        middle = (low | high) - tf.bitwise.right_shift(low ^ high, 1)
        fits = enough(middle)
        return tf.where(fits, middle, low), tf.where(fits, high, middle - 1)

    low, _ = tf.while_loop(
        lambda low, high: tf.reduce_any(low < high), narrow, (low, high), maximum_iterations=34
    )
    return low

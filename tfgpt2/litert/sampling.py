"""The choice of the next token in NumPy: what `tfgpt2.generation` does, without TensorFlow.

The noise is that of `generation.logits.random`, number for number, so equal logits and an equal
seed give equal tokens.
"""

from __future__ import annotations

import numpy as np

_MASK_VALUE = np.float32(-1e30)  # `nn.attention.MASK_VALUE`, `vocab_ops.RULED_OUT`
_RULED_OUT = np.float32(-1e21)
_LOWEST_TEMPERATURE = np.float32(1e-6)
_NOISE_RANGE = np.float32(20)  # the noise is between -2.9 and 16.7
_LIKELY = 1024  # tokens among which `top_p` is looked for first
# See `generation.logits.random`.
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry(
    key: tuple[np.uint32, np.uint32], counter: tuple[np.ndarray, np.uint32]
) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 20 rounds; see `tfgpt2.generation.logits.random.threefry`.

    Args:
        key: Two words.
        counter: Words `[n]`, and one word.

    Returns:
        Two arrays of words `[n]`.

    Source: Salmon et al. 2011, section 3.3.

    Example:
        >>> zero = np.uint32(0)
        >>> [hex(word[0]) for word in threefry((zero, zero), (np.zeros(1, np.uint32), zero))]
        ['0x6b200159', '0x99ba4efe']
    """
    with np.errstate(over="ignore"):  # words wrap around
        schedule = (*key, key[0] ^ key[1] ^ _PARITY)
        first = counter[0] + schedule[0]
        second = np.full_like(first, counter[1] + schedule[1])
        high = np.empty_like(first)
        for group in range(5):
            for distance in _ROTATIONS[group % 2]:  # in place: half of the time is memory
                first += second
                np.left_shift(second, np.uint32(distance), out=high)
                second >>= np.uint32(32 - distance)
                second |= high
                second ^= first
            first += schedule[(group + 1) % 3]
            second += schedule[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def gumbel(seed: int, step: int, ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """The Gumbel noise of some tokens; see `tfgpt2.generation.logits.random.gumbel`.

    Args:
        seed: The row's seed, 0 or more.
        step: How many tokens the row drew before.
        ids: int `[n]`, the tokens, ascending.
        vocab_size: `V`.

    Returns:
        float32 `[n]`.
    """
    half = (vocab_size + 1) // 2  # one call gives two words: for token i and for token half + i
    key = (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32))
    if len(ids) == vocab_size:  # all of them: each word is used
        first, second = threefry(key, (np.arange(half, dtype=np.uint32), np.uint32(step)))
        bits = np.concatenate([first, second[: vocab_size - half]])
    else:
        words = threefry(key, ((ids % half).astype(np.uint32), np.uint32(step)))
        bits = np.where(ids < half, *words)
    uniform = ((bits >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    for _ in range(2):
        np.log(uniform, out=uniform)
        np.negative(uniform, out=uniform)
    return uniform


def penalize_repetition(scores: np.ndarray, seen: np.ndarray, penalty: np.float32) -> None:
    """Makes tokens that a row holds less likely, in place.

    Args:
        scores: float32 `[V]`.
        seen: int `[n]`, distinct ids.
        penalty: Above 0; 1 is off.
    """
    old = scores[seen]
    scores[seen] = np.where(old > 0, old / penalty, old * penalty)


def warp(
    scores: np.ndarray,
    *,
    temperature: np.float32,
    top_k: int,
    top_p: np.float32,
    min_p: np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Applies temperature and filters: the scores that stay and their ids.

    Each filter sees what the ones before left; ties at its edge all stay.

    Args:
        scores: float32 `[V]`.
        temperature: Above 0.
        top_k: 0 is off.
        top_p: 1 is off.
        min_p: 0 is off.

    Returns:
        float32 `[n]` and int `[n]`, in ascending order of ids.

    Example:
        >>> scores = np.log(np.array([0.1, 0.6, 0.3], np.float32))
        >>> warp(scores, temperature=np.float32(1), top_k=0, top_p=np.float32(0.8), min_p=0)[1]
        array([1, 2])
    """
    divisor = np.maximum(temperature, _LOWEST_TEMPERATURE)
    with np.errstate(over="ignore"):
        kept = np.maximum(scores / divisor, np.finfo(np.float32).min)
    ids = np.arange(len(kept))
    if 0 < top_k < len(kept):
        stay = kept >= np.partition(kept, -top_k)[-top_k]
        kept, ids = kept[stay], ids[stay]
    if top_p < 1:
        stay = kept >= _nucleus_edge(kept, top_p)
        kept, ids = kept[stay], ids[stay]
    if min_p > 0:
        stay = np.exp(kept - kept.max()) >= min_p
        stay[np.argmax(kept)] = True
        kept, ids = kept[stay], ids[stay]
    return kept, ids


def _nucleus_edge(scores: np.ndarray, top_p: np.float32) -> np.float32:
    """The lowest score of the likeliest tokens that together have the probability `top_p`."""
    needed = np.float64(top_p) * np.sum(np.exp(scores - scores.max()), dtype=np.float64)
    count = min(_LIKELY, len(scores))
    while True:  # mostly, few tokens are enough, and all need not be sorted
        order = np.sort(np.partition(scores, -count)[-count:])[::-1]
        mass = np.cumsum(np.exp(order - order[0]), dtype=np.float64)
        if mass[-1] >= needed or count == len(scores):
            break
        count = min(16 * count, len(scores))
    return order[min(np.searchsorted(mass, needed), count - 1)]  # the first that reaches it


def choose_token(
    logits: np.ndarray,
    *,
    seen: np.ndarray,
    forbidden: np.ndarray,
    step: int,
    temperature: np.float32,
    top_k: int,
    top_p: np.float32,
    min_p: np.float32,
    repetition_penalty: np.float32,
    seed: int,
) -> int | None:
    """Chooses the next token of a row.

    Args:
        logits: float32 `[V]`.
        seen: int `[n]`, the distinct tokens of prompt and continuation.
        forbidden: int `[n]`, tokens that must not be chosen.
        step: Tokens generated so far.
        temperature: 0 takes the likeliest token.
        top_k: See `warp`, as for the next two.
        top_p: See there.
        min_p: See there.
        repetition_penalty: See `penalize_repetition`.
        seed: The row's seed.

    Returns:
        The token; None where all tokens are ruled out.
    """
    scores = logits
    if repetition_penalty != 1:
        scores = scores.copy()
        penalize_repetition(scores, seen, repetition_penalty)
    if len(forbidden):
        scores = scores.copy()
        scores[forbidden] = _MASK_VALUE
    if temperature == 0:
        token = int(np.argmax(scores))
        return None if scores[token] <= _RULED_OUT else token
    kept, ids = warp(scores, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    near = kept >= kept.max() - _NOISE_RANGE  # no other can win
    kept, ids = kept[near], ids[near]
    noisy = kept + gumbel(seed, step, ids, len(scores))
    best = int(np.argmax(noisy))
    ruled_out = noisy[best] * np.maximum(temperature, _LOWEST_TEMPERATURE) <= _RULED_OUT
    return None if ruled_out else int(ids[best])


def log_probability(logits: np.ndarray, token: int) -> float:
    """The log-probability of a token in nats, under the model's own distribution.

    Args:
        logits: float32 `[V]`.
        token: An id.

    Example:
        >>> round(log_probability(np.zeros(4, np.float32), 2), 4)
        -1.3863
    """
    best = logits.max()
    return float(logits[token] - best - np.log(np.sum(np.exp(logits - best))))

"""Streaming by repeated requests: what the client and the local server share."""

from __future__ import annotations

import codecs

_MASK = 2**64 - 1


def chunk_seed(seed: int, chunk: int) -> int:
    """Derives the seed of each request of a stream; the first keeps the seed, -1 stays -1.

    Source: the mixing function of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom
    number generators").

    Example:
        >>> chunk_seed(7, 0), chunk_seed(-1, 3)
        (7, -1)
    """
    if chunk == 0 or seed < 0:
        return seed
    word = (seed + chunk * 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return (word ^ (word >> 31)) >> 1  # 63 bits: a non-negative int64


def incomplete_suffix(text: bytes) -> int:
    """Counts the bytes of an incomplete UTF-8 character at the end.

    Example:
        >>> text = "né".encode()
        >>> incomplete_suffix(text[:-1]), incomplete_suffix(text), incomplete_suffix(bytes([255]))
        (1, 0, 0)
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(text[-4:])
    return len(decoder.getstate()[0])

"""Text piece by piece from a server that cannot stream: a few tokens at a time.

Each request sends the prompt and what was written so far. Therefore:
- A text that ends within a character is cut before it, and that character is asked for again.
- Stop strings are looked for here, in the joined text, because one may begin in one answer and end
  in the next; text that may be the beginning of one is held back.
- The noise of sampling counts steps from 0 in each request, so each gets a seed of its own.
- The text is tokenized anew each time. Mostly the tokens are those that the model chose; where
  they are not, a greedy text may differ from that of one request.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfgpt2.serving.client.records import Generation

_MOST_TOKENS = 64  # of one request, where a smaller one gave no whole character
_MASK = 2**64 - 1


def chunk_seed(seed: int, chunk: int) -> int:
    """Gives each request of a stream its seed; the first has the caller's, -1 stays -1.

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
    return (word ^ (word >> 31)) >> 1  # 63 bits: an int64 that is not negative


def unfinished(text: bytes) -> int:
    """Counts the bytes at the end that begin a character and do not end it.

    Example:
        >>> unfinished("né".encode()[:-1]), unfinished(b"n"), unfinished(bytes([255]))
        (1, 0, 0)
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(text[-4:])
    return len(decoder.getstate()[0])


def first_stop(text: bytes, stops: Sequence[bytes], start: int) -> int:
    """Finds where the stop string begins that is complete first; -1 is none.

    Args:
        text: What was written.
        stops: Stop strings, none of them empty.
        start: Where to begin to look.

    Example:
        >>> first_stop(b"abcdef", [b"abcdef", b"cd"], 0)
        2
    """
    found = [(text.find(stop, start), len(stop)) for stop in stops]
    ends = [(begin + size, begin) for begin, size in found if begin >= 0]
    return min(ends)[1] if ends else -1


class TextStream:
    """A text on its way: iterate over it for the pieces.

    A piece ends between two characters and never holds part of a stop string. After the last one
    the attributes say how it ended.

    Args:
        ask: Sends one request: prompt and settings -> what came.
        prompt: What to continue.
        settings: Settings of the whole text, checked; one value each.
        stops: Stop strings, none of them empty.
        chunk_tokens: Tokens of one request.

    Attributes:
        text: What was yielded so far.
        num_tokens: Tokens that the server wrote so far; a few may have been written twice, and
            those after a stop string count.
        finish_reason: As in `Generation`; None until the text has ended.
    """

    def __init__(
        self,
        ask: Callable[[bytes, Mapping[str, Any]], Generation],
        prompt: bytes,
        settings: Mapping[str, Any],
        stops: Sequence[bytes],
        chunk_tokens: int,
    ) -> None:
        self._ask, self._prompt, self._settings = ask, prompt, dict(settings)
        self._stops, self._size = list(stops), chunk_tokens
        self.text, self.num_tokens, self.finish_reason = "", 0, None
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(self) -> Iterator[str]:
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        longest = max([1, *(len(stop) for stop in self._stops)])
        written, done, size, chunk = b"", 0, self._size, 0
        while self.finish_reason is None:
            found = self._ask(self._prompt + written, self._next(size, chunk))
            before, chunk = len(written), chunk + 1
            written += found.text_bytes
            self.num_tokens += len(found.token_ids)
            reason = self._ending(found)
            cut = first_stop(written, self._stops, max(0, before - longest + 1))
            if cut >= 0:
                written, reason = written[:cut], "stop"
            if reason is None:
                written = written[: len(written) - unfinished(written)]
                size = self._size if len(written) > before else min(2 * size, _MOST_TOKENS)
            # The end of the text might be the beginning of a stop string.
            end = max(done, len(written) - (longest - 1 if reason is None else 0))
            piece = utf8.decode(written[done:end], final=reason is not None)
            done = end
            self.text += piece
            self.finish_reason = reason
            if piece:
                yield piece

    def _next(self, size: int, chunk: int) -> dict[str, Any]:
        """Settings of the next request."""
        left = self._settings["max_new_tokens"] - self.num_tokens
        return self._settings | {
            "max_new_tokens": min(size, left),
            "min_new_tokens": max(0, self._settings["min_new_tokens"] - self.num_tokens),
            "seed": chunk_seed(self._settings["seed"], chunk),
        }

    def _ending(self, found: Generation) -> str | None:
        """Says why there is no next request."""
        if found.finish_reason != "length":
            return found.finish_reason
        spent = self.num_tokens >= self._settings["max_new_tokens"]
        return "length" if spent or not found.token_ids else None

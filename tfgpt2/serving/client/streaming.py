"""Streaming from a server that cannot stream: a few tokens per request.

Each request sends the prompt and the text generated so far. Therefore:
- A text that ends within a character is cut before it, and that character is requested again.
- Stop strings are searched here, in the joined text, because one may begin in one answer and end
  in the next; text that may be the beginning of one is held back.
- The noise of sampling counts steps from 0 in each request, so each gets a seed of its own.
- Each request tokenizes the text again. Where its tokens are not those that the model chose, a
  greedy text may differ from that of a single request.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfgpt2.serving.chunks import chunk_seed, incomplete_suffix
from tfgpt2.serving.client.records import Generation

_MOST_TOKENS = 64  # of one request, where a smaller one gave no whole character


def first_stop(text: bytes, stops: Sequence[bytes], start: int) -> int:
    """Finds where the stop string that is complete first begins; -1 is none.

    Args:
        text: The text.
        stops: Stop strings, none of them empty.
        start: Where the search begins.

    Example:
        >>> first_stop(b"abcdef", [b"abcdef", b"cd"], 0)
        2
    """
    found = [(text.find(stop, start), len(stop)) for stop in stops]
    ends = [(begin + size, begin) for begin, size in found if begin >= 0]
    return min(ends)[1] if ends else -1


class TextStream:
    """Iterator over the pieces of a continuation.

    A piece ends between two characters and never holds part of a stop string. The attributes are
    complete after the last piece.

    Args:
        request: Sends one request: prompt and settings -> continuation.
        prompt: The text to continue.
        settings: Settings of the whole text, checked; one value each.
        stops: Stop strings, none of them empty.
        chunk_tokens: Tokens of one request.

    Attributes:
        text: The text yielded so far.
        num_tokens: Tokens that the server generated so far; those generated twice, and those
            after a stop string, count.
        finish_reason: As in `Generation`; None until the text has ended.
    """

    def __init__(
        self,
        request: Callable[[bytes, Mapping[str, Any]], Generation],
        prompt: bytes,
        settings: Mapping[str, Any],
        stops: Sequence[bytes],
        chunk_tokens: int,
    ) -> None:
        self._request, self._prompt, self._settings = request, prompt, dict(settings)
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
            found = self._request(self._prompt + written, self._next(size, chunk))
            before, chunk = len(written), chunk + 1
            written += found.text_bytes
            self.num_tokens += len(found.token_ids)
            reason = self._ending(found)
            cut = first_stop(written, self._stops, max(0, before - longest + 1))
            if cut >= 0:
                written, reason = written[:cut], "stop"
            if reason is None:
                written = written[: len(written) - incomplete_suffix(written)]
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
        """The reason why there is no next request; None where there is one."""
        if found.finish_reason != "length":
            return found.finish_reason
        spent = self.num_tokens >= self._settings["max_new_tokens"]
        return "length" if spent or not found.token_ids else None

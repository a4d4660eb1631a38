"""Requests that are generated together: the rows of one cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfgpt2.generation.written_text import TokenTexts
from tfgpt2.litert.engine import Engine, Texts
from tfgpt2.litert.request import Request
from tfgpt2.litert.texts import Continuation


class Group:
    """Requests whose prompts and continuations share the columns of a cache.

    Args:
        engine: The loaded model.
        requests: At most `batch_size`, which fit together; see `make_groups`.
        texts: The text of every id.

    Attributes:
        requests: As given.
        found: What each has written.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], texts: TokenTexts) -> None:
        self.requests, self.found = list(requests), [Continuation() for _ in requests]
        for request, text in zip(self.requests, self.found, strict=True):
            text.reason = "" if request.limit > 0 else "length"
        self._engine, self._texts = engine, texts
        self._reading: Texts | None = None
        self._logits: np.ndarray | None = None  # [B, V]

    @property
    def is_running(self) -> bool:
        """Whether a text goes on."""
        return not all(text.reason for text in self.found)

    def read(self) -> None:
        """Reads the prompts, where a text goes on."""
        if self.is_running:
            self._reading = Texts(self._engine, [request.ids for request in self.requests])
            self._logits = self._reading.read()

    def advance(self) -> None:
        """Generates a token for each text that goes on."""
        if self._logits is None:
            tokens = np.zeros(self._engine.contract.batch_size, np.int32)
            for row, text in enumerate(self.found):
                tokens[row] = text.tokens[-1] if text.tokens else 0
            self._logits = self._reading.step(tokens)
        ends = self._engine.contract.eos_token_ids
        for row, (request, text) in enumerate(zip(self.requests, self.found, strict=True)):
            if not text.reason:
                request.advance(self._logits[row], text, self._texts, ends)
        self._logits = None

    def close(self) -> None:
        """Gives the cache back."""
        if self._reading is not None:
            self._engine.release(self._reading.size, self._reading.cache)
            self._reading = None


def make_groups(engine: Engine, requests: Sequence[Request], texts: TokenTexts) -> list[Group]:
    """Divides requests into groups whose prompts and continuations share the columns.

    Args:
        engine: The loaded model; `batch_size` and `context` of its contract are the limits.
        requests: Any number, in their order.
        texts: The text of every id.
    """
    groups: list[list[Request]] = []
    contract = engine.contract
    for request in requests:
        more = [*groups[-1], request] if groups else []
        columns = max((len(one.ids) for one in more), default=0)
        columns += max((one.limit for one in more), default=0)
        if more and len(more) <= contract.batch_size and columns <= contract.context:
            groups[-1] = more
        else:
            groups.append([request])
    return [Group(engine, group, texts) for group in groups]

"""The texts of tokens, and where a continuation ends: end tokens and stop strings on bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfgpt2.generation.written_text import TokenTexts


@dataclasses.dataclass
class Continuation:
    """What a row has written so far.

    Attributes:
        tokens: Its tokens, an end token included.
        logprobs: Their log-probabilities in nats.
        written: Their bytes, special tokens written out.
        cut: Where the first stop string begins in those; -1 for none yet.
        reason: `"length"`, `"eos"`, `"stop"` or `"no_token"`; `""` while it runs.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    written: bytes = b""
    cut: int = -1
    reason: str = ""

    def append(
        self,
        token: int,
        logprob: float,
        texts: TokenTexts,
        *,
        limit: int,
        end_tokens: Sequence[int],
        stop: Sequence[bytes],
    ) -> None:
        """Adds a token, and ends the text where that is its last one.

        Args:
            token: The token.
            logprob: Its log-probability.
            texts: The text of every token.
            limit: The most tokens.
            end_tokens: Tokens that end the text.
            stop: Strings that end the text; empty ones are ignored.
        """
        before = len(self.written)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.written += texts.written[token]
        starts = [self.written.find(one, max(0, before - len(one) + 1)) for one in stop if one]
        self.cut = min((start for start in starts if start >= 0), default=-1)
        if self.cut >= 0:
            self.reason = "stop"
        elif token in end_tokens:
            self.reason = "eos"
        elif len(self.tokens) >= limit:
            self.reason = "length"

    def shown(self, texts: TokenTexts, held_back: int = 0) -> bytes:
        """The text as results show it: without special tokens, and cut at a stop string.

        Args:
            texts: The text of every token.
            held_back: Bytes at the end that a running text does not show yet.
        """
        end = self.cut if self.cut >= 0 else len(self.written) - held_back
        return texts.shown_before(self.tokens, end)

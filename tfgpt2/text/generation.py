"""The record of one continuation, and how a notebook shows it.

This module does not import TensorFlow, so that other runtimes can use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from html import escape

_CHARACTER = 4  # bytes of the longest one in UTF-8


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation.

    Attributes:
        text: The continuation as text; invalid UTF-8 is replaced by U+FFFD.
        text_bytes: The same as the model wrote it.
        token_ids: The tokens, an end token included.
        prompt_tokens: Tokens of the prompt that the model read.
        truncated: Tokens of the prompt that were dropped on the left.
        logprob: Log-probability of the continuation in nats, under the model's own distribution.
        token_logprobs: The same per token.
        finish_reason: `"length"`, `"eos"`, `"stop"`, `"time"`, or `"no_token"` where every token
            was ruled out.
        score: Of beam search: the sum of processed log-probabilities after length penalty.
        top_logprobs: With `top_logprobs`: for each token, the likeliest ids and their nats.
        tokens: The bytes of each token.
    """

    text: str
    text_bytes: bytes
    token_ids: list[int]
    prompt_tokens: int
    truncated: int
    logprob: float
    token_logprobs: list[float]
    finish_reason: str
    score: float | None = None
    top_logprobs: list[dict[int, float]] | None = None
    tokens: list[bytes] | None = dataclasses.field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        """The text in a notebook: the less likely a token was, the redder it is."""
        if self.tokens is None:
            shown = escape(self.text)
        else:
            parts = _characters(self.tokens, self.token_logprobs)
            shown = "".join(_span(piece, math.exp(logprob)) for piece, logprob in parts)
        count = len(self.token_ids)
        note = f"{count} tokens, {self.logprob:.2f} nats, ended by {self.finish_reason}"
        return (
            f'<div style="white-space:pre-wrap;line-height:1.7">{shown}</div>'
            f'<div style="opacity:.65;font-size:85%">{escape(note)}</div>'
        )


def _characters(tokens: Sequence[bytes], logprobs: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Whole characters with their log-probability; tokens that are parts of one are joined."""
    raw, total = b"", 0.0
    for token, logprob in zip(tokens, logprobs, strict=True):
        raw, total = raw + token, total + logprob
        text = raw.decode("utf-8", "replace")
        if text.endswith("\ufffd") and len(raw) < _CHARACTER:
            continue
        yield text, total
        raw, total = b"", 0.0
    if raw:
        yield raw.decode("utf-8", "replace"), total


def _span(text: str, probability: float) -> str:
    """A piece of text on a background that light and dark pages can have."""
    tint = f"rgba(214,84,48,{0.6 * (1 - probability):.2f})"
    return f'<span style="background:{tint}" title="{probability:.1%}">{escape(text)}</span>'

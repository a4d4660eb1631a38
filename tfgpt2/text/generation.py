"""The record of one continuation.

This module does not import TensorFlow, so that other runtimes can use it.
"""

from __future__ import annotations

import dataclasses


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

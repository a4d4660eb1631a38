"""Choices of a completion: outputs of `generate` in OpenAI's format."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfgpt2.serving.server.completion_inputs import PromptInput
from tfgpt2.serving.server.serving_error import invalid
from tfgpt2.serving.server.signature import Arrays


class Choice(NamedTuple):
    """A finished text.

    Attributes:
        prompt: The prompt.
        text: The continuation.
        text_bytes: The same as the model generated it.
        token_ids: int32 `[T]`, those of a stop string included.
        token_logprobs: float32 `[T]`, nats.
        prompt_tokens: Tokens of the prompt that were read.
        truncated: Tokens of the prompt that were dropped.
        finish_reason: That of the signature.
    """

    prompt: PromptInput
    text: str
    text_bytes: bytes
    token_ids: np.ndarray
    token_logprobs: np.ndarray
    prompt_tokens: int
    truncated: int
    finish_reason: str


def read_choice(outputs: Arrays, prompt: PromptInput) -> Choice:
    """Reads the outputs of one row.

    Raises:
        ServingError: See `check_finish_reason`.
    """
    reason = outputs["finish_reason"][0].decode()
    check_finish_reason(reason)
    count = int(outputs["num_tokens"][0])
    return Choice(
        prompt=prompt,
        text=outputs["text"][0].decode(),
        text_bytes=outputs["text_bytes"][0],
        token_ids=outputs["token_ids"][0, :count],
        token_logprobs=outputs["token_logprobs"][0, :count],
        prompt_tokens=int(outputs["prompt_tokens"][0]),
        truncated=int(outputs["truncated"][0]),
        finish_reason=reason,
    )


def check_finish_reason(reason: str | None) -> None:
    """Checks that the model could continue the prompt.

    Raises:
        ServingError: INVALID_ARGUMENT: the prompt is too long, empty, or has a token that the
            model lacks.
    """
    if reason == "prompt_too_long":
        raise invalid("The prompt leaves no room in the model's context.", param="prompt")
    if reason == "empty_prompt":
        raise invalid("The prompt has no token, and the model no start token.", param="prompt")
    if reason == "unknown_token":
        raise invalid(
            "The prompt or `logit_bias` has a token that the model does not have.", param="prompt"
        )


def best_choices(choices: list[Choice], n: int) -> list[Choice]:
    """Returns the `n` choices with the highest log-probability per token, best first."""
    if n == len(choices):
        return choices

    def mean_logprob(choice: Choice) -> float:
        return float(choice.token_logprobs.sum()) / max(1, len(choice.token_ids))

    return sorted(choices, key=mean_logprob, reverse=True)[:n]


def openai_finish_reason(reason: str | None) -> str | None:
    """Converts a finish reason of the signature to OpenAI's, which has no `"no_token"`."""
    return None if reason is None else "length" if reason == "length" else "stop"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Returns the token counts of a completion."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }

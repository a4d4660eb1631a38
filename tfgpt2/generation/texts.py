"""Python's side of the text border: prompts as bytes, results as records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.stopping import utf8


@dataclasses.dataclass(frozen=True)
class Generation:
    """One continuation and what is known of it.

    Attributes:
        text: The continuation as text; bytes that are no UTF-8 are replaced by U+FFFD.
        text_bytes: The same as the model wrote it.
        token_ids: The tokens, an end token included.
        prompt_tokens: Tokens of the prompt that the model read.
        truncated: Tokens of the prompt that were dropped on the left.
        logprob: Log-probability of the continuation in nats, under the model's own distribution.
        token_logprobs: The same per token.
        finish_reason: `"length"`, `"eos"` or `"stop"`.
    """

    text: str
    text_bytes: bytes
    token_ids: list[int]
    prompt_tokens: int
    truncated: int
    logprob: float
    token_logprobs: list[float]
    finish_reason: str


def as_bytes(prompts: Any) -> list[bytes]:
    """Returns prompts as bytes, whatever holds them."""
    if isinstance(prompts, (str, bytes)):
        prompts = [prompts]
    if isinstance(prompts, (tf.Tensor, np.ndarray)) and len(prompts.shape) == 1:
        prompts = np.asarray(prompts).tolist()
    if not isinstance(prompts, (list, tuple)) or not all(
        isinstance(prompt, (str, bytes)) for prompt in prompts
    ):
        raise TypeError(
            explain(
                "Prompts must be a string or a list of strings.",
                fix="For token ids, use model.generate(input_ids).",
                prompts=prompts,
            )
        )
    return [utf8(prompt) for prompt in prompts]


def check_numbers(logprobs: np.ndarray) -> None:
    """Refuses results of a model whose weights are broken.

    Raises:
        ValueError: A log-probability is no number.
    """
    if not np.all(np.isfinite(logprobs)):
        raise ValueError(
            explain(
                "The model's scores are not numbers: its weights or activations overflow.",
                fix="Check the weights for NaN and infinity, or use a wider dtype.",
                logprobs=logprobs[~np.isfinite(logprobs)][:3].tolist(),
            )
        )


def records(outputs: Mapping[str, tf.Tensor]) -> list[Generation]:
    """Makes one record per row of the pipeline's outputs.

    Raises:
        ValueError: The model's scores were not numbers.
    """
    if not outputs:
        return []
    rows = {name: value.numpy() for name, value in outputs.items()}
    check_numbers(rows["token_logprobs"])
    return [
        Generation(
            text=rows["text"][i].decode(),
            text_bytes=rows["text_bytes"][i],
            token_ids=rows["token_ids"][i, :count].tolist(),
            prompt_tokens=int(rows["prompt_tokens"][i]),
            truncated=int(rows["truncated"][i]),
            logprob=float(rows["logprob"][i]),
            token_logprobs=rows["token_logprobs"][i, :count].tolist(),
            finish_reason=rows["finish_reason"][i].decode(),
        )
        for i, count in enumerate(rows["num_tokens"])
    ]

"""Inputs of `generate` from a completion request.

A setting that the export does not take is an error unless its value has no effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.serving.chunks import chunk_seed
from tfgpt2.serving.server.completion_request import CompletionRequest
from tfgpt2.serving.server.request_size import check_bytes
from tfgpt2.serving.server.serving_error import ServingError, invalid
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.text_model import GENERATE_IDS, MAX_NEW_TOKENS, TextModel, write_ids

# Field of a request -> input of `generate`, and the value without effect.
_SETTINGS = {
    "max_tokens": (MAX_NEW_TOKENS, None),
    "min_tokens": ("min_new_tokens", 0),
    "temperature": ("temperature", None),
    "top_k": ("top_k", 0),
    "top_p": ("top_p", 1.0),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repetition_penalty", 1.0),
    "presence_penalty": ("presence_penalty", 0.0),
    "frequency_penalty": ("frequency_penalty", 0.0),
}
_NUM_SEEDS = 2**62


class PromptInput(NamedTuple):
    """A prompt as the model reads it.

    Attributes:
        text: Its bytes; those of ids without the special ones.
        ids: The ids; None where the request has a text.
    """

    text: bytes
    ids: tuple[int, ...] | None = None


async def prompt_inputs(
    model: TextModel, request: CompletionRequest, max_bytes: int
) -> list[PromptInput]:
    """Returns the prompts of a request.

    Args:
        model: Detokenizes.
        request: The request.
        max_bytes: Bytes of all prompts, each counted for every text that it begins.

    Raises:
        ServingError: INVALID_ARGUMENT: the prompts are too long, or are ids and the export does
            not take them.
    """
    prompts: list[PromptInput] = []
    size = 0
    for prompt in request.prompts:
        if isinstance(prompt, str):
            prompts.append(PromptInput(prompt.encode()))
            size += len(prompts[-1].text) * request.best_of
        else:
            for name in (GENERATE_IDS, "detokenize"):
                model.require(name, "prompt")
            text = await model.detokenize(np.array(prompt, np.int32))
            prompts.append(PromptInput(text, prompt))
            size += len(write_ids(prompt)) * request.best_of
        check_bytes(size, max_bytes)
    return prompts


def generate_inputs(
    signature: Signature, request: CompletionRequest, prompts: list[PromptInput]
) -> Arrays:
    """Makes the inputs of `generate`: those of the request, and the export's defaults.

    Args:
        signature: `generate`, or `generate_ids` where the prompts are ids.
        request: The request.
        prompts: One prompt for each row.

    Returns:
        All inputs, with a row for each prompt.

    Raises:
        ServingError: INVALID_ARGUMENT: the export does not take a setting; FAILED_PRECONDITION:
            it requires an input that completions do not have.
    """
    rows = len(prompts)
    texts = [one.text if one.ids is None else write_ids(one.ids) for one in prompts]
    given: dict[str, Any] = {
        "text" if "text" in signature.inputs else "ids": np.array(texts, object)
    }
    for field, (name, off) in _SETTINGS.items():
        value = getattr(request, field)
        if field == "min_tokens" and request.ignore_eos:
            field, value = "ignore_eos", request.max_tokens
        if name in signature.inputs:
            given[name] = np.full(rows, value, signature.inputs[name].dtype)
        elif value != off:
            raise _not_an_input(field)
    if "stop" in signature.inputs:
        stop_strings = [stop.encode() for stop in request.stop] or [b""]
        given["stop"] = np.repeat(np.array([stop_strings], object), rows, axis=0)  # [B, Q]
    elif request.stop:
        raise _not_an_input("stop")
    if "logit_bias" in signature.inputs:
        given["logit_bias"] = np.full(rows, _write_biases(request.logit_bias), object)
    elif request.logit_bias:
        raise _not_an_input("logit_bias")
    if "seed" in signature.inputs:
        # Derived, so that the rows of requests with seeds 1 and 2 are not the same draws.
        first = -1 if request.seed is None else request.seed % _NUM_SEEDS
        seeds = [chunk_seed(first, row) for row in range(rows)]
        given["seed"] = np.array(seeds, np.int64)
    elif request.seed is not None:
        raise _not_an_input("seed")
    missing = set(signature.inputs) - set(given) - set(signature.defaults)
    if missing:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"`generate` of this model needs {sorted(missing)}, which completions do not have.",
        )
    return {
        name: given[name] if name in given else np.repeat(signature.defaults[name], rows, axis=0)
        for name in signature.inputs
    }


def _write_biases(biases: Iterable[tuple[int, float]]) -> bytes:
    """Writes biases as `engine_start` reads them."""
    return " ".join(f"{token}:{bias:.9f}" for token, bias in biases if bias).encode()


def _not_an_input(field: str) -> ServingError:
    return invalid(
        f"`{field}` is not an input of this model's export. Leave it out, or serve an export that"
        " takes it.",
        param=field,
    )

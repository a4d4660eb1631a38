"""Log-probabilities in OpenAI's format: of each token, and of the most likely ones in its place.

The values of generated tokens come from `generate`. Alternatives, and the values of the prompt's
tokens, come from the signature `inspect`, which reads the text again: where it is tokenized into
other tokens than the generated ones, there are no alternatives (null).
"""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np

from tfgpt2.serving.server.completion_choice import Choice
from tfgpt2.serving.server.serving_error import invalid
from tfgpt2.serving.server.signature import Arrays
from tfgpt2.serving.server.text_model import TextModel


async def completion_logprobs(
    model: TextModel, choice: Choice, *, alternatives: int, echo: bool
) -> dict[str, Any]:
    """Returns the log-probabilities of one choice.

    Args:
        model: Runs the signatures.
        choice: The finished text; tokens after a stop string are left out.
        alternatives: How many alternatives to each token.
        echo: Whether the prompt's tokens come first.

    Returns:
        OpenAI's object: `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`.

    Raises:
        ServingError: The export lacks a signature, or returns fewer alternatives.
    """
    model.require("detokenize", "logprobs")
    if alternatives or echo:
        model.require("inspect", "logprobs")
    tokens = _tokens_before(len(choice.text_bytes), await model.token_bytes(choice.token_ids))
    logprobs = [_shortest(value) for value in choice.token_logprobs[: len(tokens)]]
    top_logprobs: list[dict[str, float] | None] = [None] * len(tokens)
    if alternatives or echo:
        outputs = await model.inspect(choice.prompt + choice.text_bytes)
        if echo and outputs["truncated"][0]:
            raise invalid("The text is longer than the model's context.", param="echo")
        read = outputs["token_bytes"][0, : int(outputs["num_tokens"][0])].tolist()
        start = len(read) - len(tokens)
        if alternatives:
            top_logprobs = _alternatives(outputs, start, tokens, alternatives)
        if echo:
            prompt_tokens = _tokens_before(len(choice.prompt), read)
            values = outputs["token_logprobs"][0, : len(prompt_tokens)]
            # The first token has no context and so no value.
            prompt_logprobs = [None, *map(_shortest, values[1:])][: len(prompt_tokens)]
            top_logprobs = _alternatives(outputs, 0, prompt_tokens, alternatives) + top_logprobs
            logprobs = prompt_logprobs + logprobs
            tokens = prompt_tokens + tokens
    return {
        "tokens": [_token_text(token) for token in tokens],
        "token_logprobs": logprobs,
        "top_logprobs": top_logprobs if alternatives else None,
        "text_offset": _text_offsets(tokens),
    }


def _tokens_before(size: int, tokens: list[bytes]) -> list[bytes]:
    """Returns the tokens that start within the first `size` bytes."""
    kept, position = [], 0
    for token in tokens:
        if position >= size:
            break
        kept.append(token)
        position += len(token)
    return kept


def _alternatives(
    outputs: Arrays, start: int, tokens: list[bytes], count: int
) -> list[dict[str, float] | None]:
    """Returns the most likely tokens in the place of each token.

    Args:
        outputs: Those of `inspect`.
        start: Position of the first token in `outputs`.
        tokens: The tokens.
        count: How many alternatives to each; 0 is none.
    """
    if not count:
        return [None] * len(tokens)
    available = outputs["top_bytes"].shape[2]
    if count > available:
        raise invalid(
            f"`logprobs` must be at most {available}, as this model was exported."
            f" Received: {count}.",
            param="logprobs",
        )
    positions = range(start, start + len(tokens))
    if start < 0 or [outputs["token_bytes"][0, position] for position in positions] != tokens:
        return [None] * len(tokens)
    top_logprobs = []
    for position in positions:
        probabilities = outputs["top_probabilities"][0, position, :count]
        names = map(_token_text, outputs["top_bytes"][0, position, :count])
        # The first token has no context and so no alternatives.
        top_logprobs.append(
            dict(zip(names, map(_finite_log, probabilities), strict=True))
            if probabilities[0] > 0
            else None
        )
    return top_logprobs


def _shortest(value: np.float32) -> float:
    """Converts to the float with the fewest digits that rounds to the same float32."""
    return float(str(value))


def _finite_log(probability: np.float32) -> float:
    """Returns nats; finite, because JSON has no infinity."""
    return float(np.log(max(probability, np.finfo(np.float32).tiny)))


def _text_offsets(tokens: list[bytes]) -> list[int]:
    """Returns where each token starts in the text, in characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    position, offsets = 0, []
    for token in tokens:
        offsets.append(position)
        position += len(decoder.decode(token))
    return offsets


def _token_text(token: bytes) -> str:
    """Returns the text of a token; the bytes of an incomplete character, as OpenAI shows them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)

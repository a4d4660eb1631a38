"""Log-probabilities in OpenAI's form: each token's text, its value, the likeliest in its place.

The tokens that were generated come with their own values from `generate`. Alternatives, and the
values of a prompt's tokens, come from the signature `inspect`, which reads the text anew: where its
tokens are not those that were generated, there are no alternatives (null).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfgpt2.serving.server.saved_model import Arrays
from tfgpt2.serving.server.service import Caller
from tfgpt2.serving.server.status import invalid
from tfgpt2.serving.server.streaming import token_bytes


async def describe(
    ask: Caller,
    prompt: bytes,
    raw: bytes,
    ids: np.ndarray,
    logprobs: np.ndarray,
    *,
    alternatives: int,
    echo: bool,
) -> dict[str, Any]:
    """Describes the tokens of one text.

    Args:
        ask: Runs signatures.
        prompt: The prompt.
        raw: The continuation, cut before a stop string.
        ids: int32 `[T]`, the tokens that were generated.
        logprobs: float32 `[T]`, nats.
        alternatives: How many alternatives to each token.
        echo: Whether the prompt's tokens come first.

    Returns:
        OpenAI's object: `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`.

    Raises:
        ServingError: The export lacks a signature, or gives fewer alternatives.
    """
    for name in ["detokenize"] + ["inspect"] * bool(alternatives or echo):
        if name not in ask.servable.signatures:
            raise invalid(
                f"`logprobs` needs the signature `{name}`, which this model was exported without.",
                param="logprobs",
            )
    tokens = _inside(await token_bytes(ask, ids), len(raw))
    values = [float(str(value)) for value in logprobs[: len(tokens)]]
    tops: list[dict[str, float] | None] = [None] * len(tokens)
    if alternatives or echo:
        read = await ask("inspect", {"text": np.array([prompt + raw], object)})
        if echo and read["truncated"][0]:
            raise invalid("The text is longer than the model's context.", param="echo")
        found = read["token_bytes"][0, : int(read["num_tokens"][0])].tolist()
        first = len(found) - len(tokens)
        if alternatives:
            tops = _alternatives(read, first, tokens, alternatives)
        if echo:
            # The prompt's own tokens, which end where its bytes end.
            own = _inside(found, len(prompt))
            before = [float(str(value)) for value in read["token_logprobs"][0, : len(own)]]
            tops = _alternatives(read, 0, own, alternatives) + tops
            values = [None, *before[1:]][: len(own)] + values  # nothing comes before the first
            tokens = own + tokens
    return {
        "tokens": [_text(token) for token in tokens],
        "token_logprobs": values,
        "top_logprobs": tops if alternatives else None,
        "text_offset": _offsets(tokens),
    }


def _inside(tokens: list[bytes], size: int) -> list[bytes]:
    """The tokens that begin before a number of bytes; special tokens have none and are left out."""
    kept, position = [], 0
    for token in tokens:
        if position >= size:
            break
        kept.append(token)
        position += len(token)
    return kept


def _alternatives(
    read: Arrays, first: int, tokens: list[bytes], count: int
) -> list[dict[str, float] | None]:
    """The likeliest tokens in the place of each token, from place `first` of what was read."""
    if not count:
        return [None] * len(tokens)
    offered = read["top_bytes"].shape[2]
    if count > offered:
        raise invalid(
            f"`logprobs` must be at most {offered}, as this model was exported. Received: {count}.",
            param="logprobs",
        )
    places = range(first, first + len(tokens))
    if first < 0 or [read["token_bytes"][0, place] for place in places] != tokens:
        return [None] * len(tokens)
    tops = []
    for place in places:
        chances = read["top_probabilities"][0, place, :count]
        names = read["top_bytes"][0, place, :count]
        # The first token follows nothing, and has no alternatives.
        tops.append(
            {_text(name): _log(chance) for name, chance in zip(names, chances, strict=True)}
            if chances[0] > 0
            else None
        )
    return tops


def _log(chance: np.float32) -> float:
    """Nats, finite: JSON has no infinity."""
    return float(np.log(max(chance, np.finfo(np.float32).tiny)))


def _offsets(tokens: list[bytes]) -> list[int]:
    """Where each token begins in the text, in characters."""
    joined, position, offsets = b"".join(tokens), 0, []
    for token in tokens:
        offsets.append(len(joined[:position].decode("utf-8", "ignore")))
        position += len(token)
    return offsets


def _text(token: bytes) -> str:
    """A token's text; one that is no whole character is shown by its bytes, as OpenAI does."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)

"""A request to `/v1/completions`: which fields there are, and what they may hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from tfgpt2.errors import explain, nearest
from tfgpt2.serving.server.status import ServingError, invalid

_MOST_CHOICES = 128
_MOST_STOPS, _LONGEST_STOP = 64, 256  # of the signature `generate`
MOST_ALTERNATIVES = 100


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """A checked request; names, defaults and meanings are those of OpenAI's API.

    `top_k`, `min_p`, `repetition_penalty` and `min_tokens` are no part of it; other servers take
    them under these names, and clients send them as `extra_body`.

    Attributes:
        model: A model of this server.
        prompts: Each a text, or a list of token ids.
        max_tokens: Limit of new tokens.
        temperature: 0 takes the likeliest token.
        top_p: Nucleus.
        n: Texts for each prompt.
        best_of: Texts that are written for each prompt; the `n` likeliest are returned.
        stop: Strings that end a text.
        seed: Same seed, same text; None draws one.
        logprobs: None, or how many alternatives to each token.
        echo: Whether the prompt is part of the text.
        presence_penalty: For tokens that were there.
        frequency_penalty: For each time that a token was there.
        stream: Whether the text comes in pieces.
        include_usage: Whether a stream ends with the token counts.
        top_k: 0 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
        min_tokens: No end token before that many.
    """

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    best_of: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    echo: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stream: bool = False
    include_usage: bool = False
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0


def parse(document: dict[str, Any]) -> CompletionRequest:
    """Checks a request.

    Args:
        document: The body, an object.

    Raises:
        ServingError: INVALID_ARGUMENT with the field's name; null stands for a field's default.

    Example:
        >>> parse({"model": "m", "prompt": "To be", "max_tokens": 4}).prompts
        ('To be',)
    """
    given = {name: value for name, value in document.items() if value is not None}
    for name in given:
        if name not in _READERS and name not in _IGNORED and name not in _NOT_OFFERED:
            raise invalid(
                explain(
                    f"Unrecognized request argument supplied: {name}.",
                    fix=nearest(name, _READERS),
                ),
                param=name,
            )
    for name, allowed in _NOT_OFFERED.items():
        if given.get(name, allowed) != allowed:
            raise invalid(f"`{name}` is not offered by this server. Leave it out.", param=name)
    for name in ("model", "prompt"):
        if name not in given:
            raise invalid(f"You must provide a {name} parameter.", param=name)
    values = {name: read(given[name], name) for name, read in _READERS.items() if name in given}
    return _combine(values)


def _combine(values: dict[str, Any]) -> CompletionRequest:
    """Checks what several fields say together."""
    options = values.pop("stream_options", {})
    if options and not values.get("stream"):
        raise invalid("`stream_options` needs `stream`: true.", param="stream_options")
    n = values.get("n", 1)
    best_of = values.get("best_of", n)
    if best_of < n:
        raise invalid(f"`best_of` must be at least `n`, {n}. Received: {best_of}.", param="best_of")
    if values.get("stream"):
        if best_of > n:
            raise invalid("`best_of` above `n` cannot be streamed.", param="best_of")
        for name in ("logprobs", "echo"):
            if values.get(name) not in (None, False):
                raise invalid(f"`{name}` cannot be streamed on this server.", param=name)
    prompts = values.pop("prompt")
    if len(prompts) * best_of > _MOST_CHOICES:  # one request must not fill everybody's queue
        raise invalid(
            f"A request may ask for {_MOST_CHOICES} texts. Received: {len(prompts)} prompts with"
            f" {best_of} each. Send several requests.",
            param="prompt",
        )
    return CompletionRequest(
        prompts=prompts,
        include_usage=options.get("include_usage", False),
        **(values | {"best_of": best_of}),
    )


def _integer(low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _out_of_range(value, name, f"an integer in [{low}, {high}]")
        return value

    return read


def _number(low: float, high: float) -> Callable[[Any, str], float]:
    def read(value: Any, name: str) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or math.isnan(value) or not low <= value <= high:
            raise _out_of_range(value, name, f"a number in [{low:g}, {high:g}]")
        return float(value)

    return read


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _out_of_range(value, name, "true or false")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _out_of_range(value, name, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _out_of_range(value, name, "valid Unicode: half a surrogate pair") from None
    return value


def _prompts(value: Any, name: str) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, a list of ids, or a list of lists of ids."""
    if isinstance(value, str):
        return (_text(value, name),)
    if isinstance(value, list) and value:
        if all(_is_id(one) for one in value):
            return (tuple(value),)
        if all(isinstance(one, str) for one in value):
            return tuple(_text(one, name) for one in value)
        if all(isinstance(one, list) and all(_is_id(i) for i in one) for one in value):
            return tuple(tuple(one) for one in value)
    raise _out_of_range(value, name, "a string, strings, token ids, or lists of token ids")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _stops(value: Any, name: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise _out_of_range(value, name, "a string or a list of strings")
    stops = tuple(_text(one, name) for one in texts)
    if len(stops) > _MOST_STOPS or any(
        not one or len(one.encode()) > _LONGEST_STOP for one in stops
    ):
        raise _out_of_range(
            value, name, f"at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} bytes"
        )
    return stops


def _stream_options(value: Any, name: str) -> dict[str, bool]:
    if not isinstance(value, dict) or set(value) - {"include_usage"}:
        raise _out_of_range(value, name, "an object with `include_usage`")
    return {key: _flag(one, f"{name}.{key}") for key, one in value.items()}


def _out_of_range(value: Any, name: str, wanted: str) -> ServingError:
    shown = repr(value)
    shown = shown if len(shown) < 100 else f"{shown[:100]}..."
    return invalid(f"`{name}` must be {wanted}. Received: {shown}.", param=name)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "model": _text,
    "prompt": _prompts,
    "max_tokens": _integer(0, 2**31 - 1),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "n": _integer(1, _MOST_CHOICES),
    "best_of": _integer(1, _MOST_CHOICES),
    "stop": _stops,
    "seed": _integer(-(2**63), 2**63 - 1),
    "logprobs": _integer(0, MOST_ALTERNATIVES),
    "echo": _flag,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "stream": _flag,
    "stream_options": _stream_options,
    "top_k": _integer(0, 2**31 - 1),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0.001, 1000),
    "min_tokens": _integer(0, 2**31 - 1),
}
# Whom a request is for changes nothing about the answer; OpenAI's own API says so of `user`.
_IGNORED = ("user",)
_NOT_OFFERED = {"suffix": "", "logit_bias": {}}  # with the value that asks for nothing

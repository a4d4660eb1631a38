"""Parsing and checking a request to `/v1/completions`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from tfgpt2.errors import explain, nearest, shorten
from tfgpt2.serving.server.serving_error import ServingError, cut, invalid

_MAX_CHOICES = 128
MAX_STOPS, _MAX_STOP_BYTES = 64, 256  # of the signature `generate`
_MAX_ALTERNATIVES = 100
_MAX_BIASES, _LARGEST_BIAS = 1024, 100
# These do not change the response, in the APIs that have them either.
_IGNORED = ("user", "metadata", "store", "service_tier", "request_id", "priority")
# Fields that this server does not have, with the values that ask for nothing.
_NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "stop_token_ids": ([],),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),  # no special token is in a text
    "add_special_tokens": (True, False),  # GPT-2 adds none to a prompt
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "typical_p": (1,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}
_UNLIMITED = -1  # of `max_tokens` and `top_k`, as other servers have it


class StreamOptions(NamedTuple):
    """What a stream says of the number of tokens.

    Attributes:
        include_usage: Whether it ends with them.
        continuous_usage_stats: Whether each chunk has those so far.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False


def _integer(low: int, high: int) -> Callable[[Any, str], int]:
    def parse(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong_value(value, name, f"an integer in [{low}, {high}]")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[Any, str], float]:
    def parse(value: Any, name: str) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # nor is NaN
            raise _wrong_value(value, name, f"a number in [{low:g}, {high:g}]")
        return float(value)

    return parse


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_value(value, name, "true or false")
    return value


def parse_text(value: Any, name: str) -> str:
    """Parses a text.

    Raises:
        ServingError: INVALID_ARGUMENT: it is none, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise _wrong_value(value, name, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong_value(value, name, "valid Unicode, without lone surrogates") from None
    return value


def _prompts(value: Any, name: str) -> tuple[str | tuple[int, ...], ...]:
    """Parses a text, a list of texts, a list of ids, or a list of lists of ids."""
    if isinstance(value, str):
        return (parse_text(value, name),)
    if isinstance(value, list) and value:
        if all(_is_id(one) for one in value):
            return (tuple(value),)
        if all(isinstance(one, str) for one in value):
            return tuple(parse_text(one, name) for one in value)
        if all(isinstance(one, list) and one and all(map(_is_id, one)) for one in value):
            return tuple(tuple(one) for one in value)
    raise _wrong_value(value, name, "a string, strings, token ids, or lists of token ids")


def parse_ids(value: Any, name: str) -> tuple[int, ...]:
    """Parses a list of token ids.

    Raises:
        ServingError: INVALID_ARGUMENT: it is none.
    """
    if not isinstance(value, list) or not all(map(_is_id, value)):
        raise _wrong_value(value, name, "a list of token ids")
    return tuple(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def parse_stops(value: Any, name: str, most: int = MAX_STOPS) -> tuple[str, ...]:
    """Parses a stop string or a list of them; empty ones are left out.

    Args:
        value: The field.
        name: Its name.
        most: How many strings there may be.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise _wrong_value(value, name, "a string or a list of strings")
    stops = tuple(filter(None, (parse_text(one, name) for one in texts)))
    if len(stops) > most or any(len(one.encode()) > _MAX_STOP_BYTES for one in stops):
        raise _wrong_value(value, name, f"at most {most} strings of {_MAX_STOP_BYTES} bytes")
    return stops


def _stream_options(value: Any, name: str) -> StreamOptions | None:
    """Parses an object of flags; None if it is empty."""
    known = (*StreamOptions._fields, "include_obfuscation")  # filling bytes; this server sends none
    if not isinstance(value, dict) or set(value) - set(known):
        raise _wrong_value(value, name, f"an object with {', '.join(known)}")
    flags = {key: _boolean(on, f"{name}.{key}") for key, on in value.items() if on is not None}
    flags.pop("include_obfuscation", None)
    return StreamOptions(**flags) if value else None


def _logprobs(value: Any, name: str) -> int | None:
    """Parses a number of alternatives; clients of chats send false for none."""
    return None if value is False else _integer(0, _MAX_ALTERNATIVES)(value, name)


def _biases(value: Any, name: str) -> tuple[tuple[int, float], ...]:
    """Parses an object from ids, as strings, to biases."""
    expected = f"an object from token ids to numbers in [-{_LARGEST_BIAS}, {_LARGEST_BIAS}]"
    if not isinstance(value, dict) or not all(
        key.isascii() and key.isdigit() and len(key) < 10 for key in value
    ):
        raise _wrong_value(value, name, expected)
    if len(value) > _MAX_BIASES:
        raise _wrong_value(value, name, f"an object with at most {_MAX_BIASES} tokens")
    read = _number(-_LARGEST_BIAS, _LARGEST_BIAS)
    return tuple((int(key), read(bias, f"{name}.{key}")) for key, bias in value.items())


def _limit(value: Any, name: str) -> int:
    """Parses a limit of tokens; other servers take -1 for none."""
    return _UNLIMITED if value == _UNLIMITED else _integer(0, 2**31 - 1)(value, name)


def _top_k(value: Any, name: str) -> int:
    """Parses a number of tokens; 0 and -1 are off."""
    return 0 if value == _UNLIMITED else _integer(0, 2**31 - 1)(value, name)


def _wrong_value(value: Any, name: str, expected: str) -> ServingError:
    return invalid(f"`{name}` must be {expected}. Received: {shorten(value, 100)}.", param=name)


def _field(
    parse: Callable[[Any, str], Any], default: Any = dataclasses.MISSING, name: str = ""
) -> Any:
    """A field that is parsed from the field `name` of the body, by default its own name."""
    return dataclasses.field(default=default, metadata={"parse": parse, "name": name})


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """A checked request; names, defaults and meanings are those of OpenAI's API.

    `top_k`, `min_p`, `repetition_penalty`, `min_tokens` and `ignore_eos` are not part of it; other
    servers accept them under these names, and clients send them as `extra_body`.

    Attributes:
        model: A model of this server.
        prompts: Each a text or token ids.
        max_tokens: Limit of new tokens; -1 is that of the server.
        temperature: 0 is greedy.
        top_p: 1 is off.
        n: Texts for each prompt.
        best_of: Texts generated for each prompt; the `n` most likely are returned.
        stop: Strings that end a text.
        seed: Makes the text repeatable; None is random.
        logprobs: None, or how many alternatives to each token.
        echo: Whether the prompt is part of the text.
        presence_penalty: Subtracted from the logits of generated tokens.
        frequency_penalty: The same for each time that a token was generated.
        logit_bias: Ids of tokens, and what is added to their logits.
        stream: Whether the text is sent in chunks.
        stream_options: What a stream says of the number of tokens.
        top_k: 0 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
        min_tokens: No end token before that many tokens.
        ignore_eos: No end token before `max_tokens`.
    """

    model: str = _field(parse_text)
    prompts: tuple[str | tuple[int, ...], ...] = _field(_prompts, name="prompt")
    max_tokens: int = _field(_limit, 16)
    temperature: float = _field(_number(0, 100), 1.0)
    top_p: float = _field(_number(0, 1), 1.0)
    n: int = _field(_integer(1, _MAX_CHOICES), 1)
    best_of: int = _field(_integer(1, _MAX_CHOICES), 1)
    stop: tuple[str, ...] = _field(parse_stops, ())
    seed: int | None = _field(_integer(-(2**63), 2**63 - 1), None)
    logprobs: int | None = _field(_logprobs, None)
    echo: bool = _field(_boolean, False)
    presence_penalty: float = _field(_number(-2, 2), 0.0)
    frequency_penalty: float = _field(_number(-2, 2), 0.0)
    logit_bias: tuple[tuple[int, float], ...] = _field(_biases, ())
    stream: bool = _field(_boolean, False)
    stream_options: StreamOptions = _field(_stream_options, StreamOptions())
    top_k: int = _field(_top_k, 0)
    min_p: float = _field(_number(0, 1), 0.0)
    repetition_penalty: float = _field(_number(0.001, 1000), 1.0)
    min_tokens: int = _field(_integer(0, 2**31 - 1), 0)
    ignore_eos: bool = _field(_boolean, False)


_FIELDS = {one.metadata["name"] or one.name: one for one in dataclasses.fields(CompletionRequest)}


def parse(document: dict[str, Any]) -> CompletionRequest:
    """Parses and checks a request.

    Args:
        document: The body, an object.

    Raises:
        ServingError: INVALID_ARGUMENT with the field's name; null stands for a field's default.

    Example:
        >>> parse({"model": "m", "prompt": "To be", "max_tokens": 4}).prompts
        ('To be',)
    """
    given = {name: value for name, value in document.items() if value is not None}
    newer = "max_completion_tokens"  # in chats
    if newer in given:
        given.setdefault("max_tokens", _limit(given.pop(newer), newer))
    for name in given:
        if name not in _FIELDS and name not in _IGNORED and name not in _NOT_SUPPORTED:
            raise invalid(
                explain(
                    f"Unrecognized request argument supplied: {cut(name)}.",
                    fix=nearest(name, _FIELDS),
                ),
                param=name,
            )
    for name, allowed in _NOT_SUPPORTED.items():
        if name in given and given[name] not in allowed:
            raise invalid(f"`{name}` is not supported by this server. Leave it out.", param=name)
    for name in ("model", "prompt"):
        if name not in given:
            raise invalid(f"You must provide a {name} parameter.", param=name)
    return _make_request(
        {
            field.name: field.metadata["parse"](given[name], name)
            for name, field in _FIELDS.items()
            if name in given
        }
    )


def _make_request(values: dict[str, Any]) -> CompletionRequest:
    """Makes a request; raises for values that do not fit together."""
    if values.get("stream_options") is None:
        values.pop("stream_options", None)
    elif not values.get("stream"):
        raise invalid("`stream_options` needs `stream`: true.", param="stream_options")
    n = values.get("n", 1)
    best_of = values.get("best_of", n)
    if best_of < n:
        raise invalid(f"`best_of` must be at least `n`, {n}. Received: {best_of}.", param="best_of")
    if values.get("stream") and best_of > n:
        raise invalid("`best_of` above `n` cannot be streamed.", param="best_of")
    prompts = len(values["prompts"])
    if prompts * best_of > _MAX_CHOICES:  # one request must not fill the queue
        raise invalid(
            f"A request may ask for {_MAX_CHOICES} texts. Received: {prompts} prompts with"
            f" {best_of} each. Send several requests.",
            param="prompt",
        )
    return CompletionRequest(**values | {"best_of": best_of})

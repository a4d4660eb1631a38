"""Log-probabilities in OpenAI's format: of each token, and of the most likely ones in its place.

A generated token has the value that `generate` computed. Values of the prompt's tokens and
alternatives come from the signature `inspect_ids`, which reads the ids of prompt and continuation:
they are never joined as text, nor tokenized again. Where neither is asked for and there is an
engine, no signature runs. A token has one number: among the alternatives
in its place it stands with its own value, and it is always among them.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
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
        choice: The finished text. Tokens after a stop string are left out; an end token is not.
        alternatives: How many alternatives to each token.
        echo: Whether the prompt's tokens come first.

    Returns:
        OpenAI's object: `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`. Nothing precedes
        the first token of a text, so it has no values, unless the export has a prefix. Without
        one, alternatives are null where the prompt is empty: the model's start token is not a
        token of the text.

    Raises:
        ServingError: The export lacks a signature, or returns fewer alternatives.
    """
    inspects = bool(alternatives) or echo or model.token_texts is None
    for name in ("inspect_ids", "tokenize") if inspects else ("tokenize",):
        model.require(name, "logprobs")
    ids = choice.prompt.ids
    prompt_ids = await model.tokenize(choice.prompt.text) if ids is None else list(ids)
    if echo and choice.truncated:
        raise invalid("The text is longer than the model's context.", param="echo")
    prompt_ids = prompt_ids[choice.truncated :]
    all_ids, start = [*prompt_ids, *choice.token_ids.tolist()], len(prompt_ids)
    read: Arrays = {}
    if inspects:
        read = await model.inspect_ids(all_ids)
        texts, sizes = read["token_bytes"][0].tolist(), read["text_sizes"][0]
    else:
        pairs = await model.token_texts(np.array(all_ids, np.int32))
        texts, sizes = [one for one, _ in pairs], np.array([len(shown) for _, shown in pairs])
    stop = start + _num_shown(choice, sizes[start:])
    # A token has a rank where something precedes it: another one, or the prefix of the export.
    follows = (read["ranks"][0, :stop] > 0).tolist() if read else []
    values: list[float | None] = [None] * start
    for place, after in enumerate(follows[:start]):
        values[place] = _shortest(read["token_logprobs"][0, place]) if after else None
    values += map(_shortest, choice.token_logprobs[: stop - start])
    tokens = texts[:stop]
    top_logprobs = None
    if alternatives:
        _check_alternatives(read, alternatives)
        top_logprobs = [
            _alternatives(read, place, tokens[place], values[place], alternatives)
            if follows[0] or (prompt_ids and place)
            else None
            for place in range(stop)
        ]
    offsets = _text_offsets(tokens, sizes)
    first = 0 if echo else start
    return {
        "tokens": [_token_text(token) for token in tokens[first:]],
        "token_logprobs": values[first:],
        "top_logprobs": top_logprobs and top_logprobs[first:],
        "text_offset": [place - offsets[first] for place in offsets[first:]],
    }


def _num_shown(choice: Choice, sizes: np.ndarray) -> int:
    """Counts the tokens that begin within the text of a choice."""
    count = len(choice.token_ids)
    if choice.finish_reason != "stop":
        return count
    begins = np.cumsum(sizes[:count]) - sizes[:count]
    return int(np.count_nonzero(begins < len(choice.text_bytes)))


def _check_alternatives(read: Arrays, count: int) -> None:
    available = read["top_bytes"].shape[2]
    if count > available:
        raise invalid(
            f"`logprobs` must be at most {available}, as this model was exported."
            f" Received: {count}.",
            param="logprobs",
        )


def _alternatives(
    read: Arrays, place: int, token: bytes, value: float, count: int
) -> dict[str, float]:
    """The most likely tokens in a place, and the token that stands there."""
    names = map(_token_text, read["top_bytes"][0, place, :count])
    found = dict(zip(names, map(_shortest, read["top_logprobs"][0, place, :count]), strict=True))
    return found | {_token_text(token): value}


def _shortest(value: np.float32) -> float:
    """Converts to the float with the fewest digits that rounds to the same float32."""
    return float(str(value))


def _text_offsets(tokens: Sequence[bytes], sizes: np.ndarray) -> list[int]:
    """Returns where each token starts in the text, in characters; special tokens have none."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
    position, offsets = 0, []
    for token, size in zip(tokens, sizes, strict=False):
        offsets.append(position)
        position += len(decoder.decode(token)) if size else 0
    return offsets


def _token_text(token: bytes) -> str:
    """Returns the text of a token; the bytes of an incomplete character, as OpenAI shows them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)

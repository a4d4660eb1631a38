"""Added tokens: texts that become one id before the rest of the tokenizer runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfgpt2.errors import value_error

FLAGS = ("lstrip", "rstrip", "normalized")


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is split off from the text before the rest of the tokenizer runs.

    Attributes:
        content: Its text.
        id: Its id.
        special: Whether decoding can skip it.
        lstrip: Whether white space before it belongs to it.
        rstrip: Whether white space after it belongs to it.
        normalized: Whether it is split off after the other added tokens.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


def parse_added_token(token: Any, token_id: int, special: bool = True) -> AddedToken:
    """Returns the `AddedToken` that a file or another library describes.

    Args:
        token: Text, a mapping with the keys of `tokenizer.json`, or a `tokenizers.AddedToken`.
        token_id: Its id.
        special: Whether decoding can skip it, where `token` does not say.

    Raises:
        ValueError: The token has no text, or matches whole words only.

    Example:
        >>> parse_added_token({"content": "<x>", "lstrip": True}, 7).lstrip
        True
    """
    if isinstance(token, str):
        token = {"content": token}
    elif not isinstance(token, Mapping):
        keys = ("content", "single_word", "special", *FLAGS)
        token = {key: getattr(token, key) for key in keys if hasattr(token, key)}
    if token.get("single_word"):
        raise value_error(
            "Added tokens that match whole words only are not supported.",
            fix="Set `single_word` to false.",
            token=token["content"],
        )
    return AddedToken(
        content=token_text(token),
        id=int(token_id),
        special=bool(token.get("special", special)),
        **{flag: bool(token.get(flag, False)) for flag in FLAGS},
    )


def token_text(token: Any) -> str | None:
    """Returns the text of a special token given as text, as a mapping or as an object.

    Raises:
        ValueError: The text is empty, or not a string.
    """
    if isinstance(token, Mapping):
        token = token.get("content")
    token = getattr(token, "content", token)
    if token is None or (isinstance(token, str) and token):
        return token
    raise value_error(
        "A special token is a non-empty string or None.", fix="Pass its text.", token=token
    )


def add_token(
    token: Any, tokens: dict[str, AddedToken], vocab: Mapping[str, int], special: bool = True
) -> None:
    """Adds a token to the added tokens, in place.

    Args:
        token: See `parse_added_token`; None adds nothing.
        tokens: The added tokens by text. A token that is there already stays, and becomes special
            if `special` says so.
        vocab: Token to id of the others. A token that has no id yet gets the next free one.
        special: Whether decoding can skip it.
    """
    text = token_text(token)
    if text is None:
        return
    if text in tokens:
        old = tokens[text]
        tokens[text] = dataclasses.replace(old, special=old.special or special)
        return
    taken = [*vocab.values(), *(added.id for added in tokens.values())]
    token_id = vocab.get(text, max(taken, default=-1) + 1)
    tokens[text] = dataclasses.replace(parse_added_token(token, token_id), special=special)

"""Added tokens: texts that become one id before the rest of the tokenizer runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tfgpt2.errors import value_error

FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


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
        single_word: Whether it is split off only where no letter, digit, mark or connector (such as
            `_`) stands directly before or after it.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


def parse_added_token(token: Any, token_id: Any, special: bool = True) -> AddedToken:
    """Returns the `AddedToken` that a file or another library describes.

    Args:
        token: Text, a mapping with the keys of `tokenizer.json`, or a `tokenizers.AddedToken`.
        token_id: Its id, an integer.
        special: Whether decoding can skip it, where `token` does not say.

    Raises:
        ValueError: The token has no text, the id is not an integer of at least 0, or a flag is
            neither True nor False.

    Example:
        >>> parse_added_token({"content": "<x>", "lstrip": True}, 7).lstrip
        True
    """
    if isinstance(token, str):
        token = {"content": token}
    elif not isinstance(token, Mapping):
        keys = ("content", "special", *FLAGS)
        token = {key: getattr(token, key) for key in keys if hasattr(token, key)}
    text = token_text(token)
    if text is None:
        raise value_error("An added token needs a text.", fix="Give it `content`.", token=token)
    if type(token_id) is not int or token_id < 0:
        raise value_error(
            "The id of an added token is an integer of at least 0.",
            fix="Check `added_tokens` in `tokenizer.json`, or `added_tokens.json`.",
            token=text,
            id=token_id,
        )
    flags = {"special": special} | {
        flag: token[flag] for flag in ("special", *FLAGS) if token.get(flag) is not None
    }
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise value_error(
                f"`{flag}` of an added token must be True or False.",
                fix="Check `added_tokens` in `tokenizer.json`.",
                token=text,
                **{flag: value},
            )
    return AddedToken(text, token_id, **flags)


def to_added_token(token: Any) -> AddedToken:
    """Returns an added token given as itself, or as a mapping of its fields."""
    if isinstance(token, AddedToken):
        return token
    return parse_added_token(token, token.get("id") if isinstance(token, Mapping) else None)


def token_text(token: Any) -> str | None:
    """Returns the text of a special token given as text, as a mapping or as an object.

    Raises:
        ValueError: The text is empty, or not a string of valid Unicode.
    """
    if isinstance(token, Mapping):
        token = token.get("content")
    token = getattr(token, "content", token)
    if token is None or (isinstance(token, str) and token and is_unicode(token)):
        return token
    raise value_error(
        "A special token is a non-empty string or None.", fix="Pass its text.", token=token
    )


def is_unicode(text: str) -> bool:
    """Returns whether a string can be UTF-8: half of a surrogate pair cannot.

    Example:
        >>> is_unicode("é"), is_unicode(chr(0xD800))
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def by_text(tokens: Iterable[AddedToken]) -> dict[str, AddedToken]:
    """Returns added tokens by their text; of two with one text, the first.

    Raises:
        ValueError: Two tokens of one text have different ids.
    """
    result: dict[str, AddedToken] = {}
    for token in tokens:
        if result.setdefault(token.content, token).id != token.id:
            raise two_ids(token.content, result[token.content].id, token.id)
    return result


def two_ids(token: str, *ids: int) -> ValueError:
    """Returns the error for a token to which files give different ids."""
    return value_error(
        "A token has one id; the vocabulary and the added tokens give it two.",
        fix="Check the files: they may belong to different tokenizers.",
        token=token,
        ids=ids,
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

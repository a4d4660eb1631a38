"""The tokens of a text, and their printable form."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.evaluation.scoring import check_scorer, start_token_id

_SIGNS = {" ": "\u00b7", "\n": "\u21b5", "\t": "\u2192"}  # middle dot and arrows


def tokenize_text(
    model: Any, tokenizer: Any, text: str | bytes, *, start_token: bool
) -> np.ndarray:
    """Tokenizes a text for a model.

    Args:
        model: A model with a `config`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text.
        start_token: Put the model's start token before it.

    Returns:
        int32 `[T]`, at least one token.

    Raises:
        TypeError: The text is not a string.
        ValueError: There are no tokens, or more than the context holds, or no start token.
    """
    if not isinstance(text, (str, bytes)):
        raise type_error("The text must be one string.", fix="Pass a string.", text=text)
    ids = tokenizer.tokenize_prompts(tf.constant([text])).flat_values.numpy()  # [T]
    if start_token:
        ids = np.concatenate([[start_token_id(model)], ids])
    context = model.config.n_positions
    if not 1 <= len(ids) <= context:
        raise value_error(
            f"The text must have 1 to {context} tokens, the model's context.",
            fix="Pass a shorter text: it is not truncated here."
            if len(ids)
            else "Pass a text, or start_token=True for an empty one.",
            tokens=len(ids),
        )
    return ids.astype(np.int32)


def check_top(model: Any, top: int) -> None:
    """Checks that a model scores tokens, and that `top` of them can be kept.

    Raises:
        TypeError: The model does not score tokens.
        ValueError: `top` is not an integer from 1 to the size of the vocabulary.
    """
    check_scorer(model)
    vocabulary = model.config.vocab_size
    if type(top) is not int or not 1 <= top <= vocabulary:
        raise value_error(
            f"`top` must be an integer from 1 to {vocabulary}, the size of the vocabulary.",
            fix="Leave it out for the default.",
            top=top,
        )


def token_bytes(tokenizer: Any, ids: np.ndarray) -> tuple[Any, ...]:
    """Bytes of each id, in tuples nested like the array; empty for ids only the model knows."""
    known = tokenizer.token_bytes

    def convert(part: Any) -> Any:
        if isinstance(part, list):
            return tuple(map(convert, part))
        return known[part] if part < len(known) else b""

    return convert(ids.tolist())


def label(piece: bytes) -> str:
    r"""Writes a token in printable characters.

    Args:
        piece: Its bytes. Those that are not a whole character are shown as `\xf0`, white space as
            signs, and unprintable characters as their code point.

    Example:
        >>> label(b" king"), label(b"\xc3"), label("\u00fc\n".encode())
        ('·king', '\\xc3', 'ü↵')
    """
    text = piece.decode("utf-8", "backslashreplace")
    return "".join(_SIGNS.get(character) or printable(character) for character in text)


def printable(character: str) -> str:
    r"""A character, or the code point of an unprintable one, such as `\u202e`."""
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")

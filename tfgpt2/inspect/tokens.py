"""A text's tokens, and how they are shown: whole characters as they are, other bytes as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain

_SIGNS = {" ": "\u00b7", "\n": "\u21b5", "\t": "\u2192"}  # middle dot and arrows


def read(model: Any, tokenizer: Any, text: str | bytes, *, start_token: bool) -> np.ndarray:
    """Tokenizes a text for a model.

    Args:
        model: A model with a `config`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text.
        start_token: Put the model's start token before it.

    Returns:
        int32 `[T]`, at least one token.

    Raises:
        TypeError: It is no text.
        ValueError: There are no tokens, or more than the context holds, or no start token.
    """
    if not isinstance(text, (str, bytes)):
        raise TypeError(explain("One text is looked at.", fix="Pass a string.", text=text))
    config = model.config
    ids = tokenizer.tokenize(tf.constant(text)).numpy()  # [T]
    if start_token:
        start = config.bos_token_id
        if start is None or not 0 <= start < config.vocab_size:
            raise ValueError(
                explain(
                    "The model has no start token to put before the text.",
                    fix="Leave start_token out; nothing comes before the first token then.",
                    bos_token_id=start,
                )
            )
        ids = np.concatenate([[start], ids])
    if not 1 <= len(ids) <= config.n_positions:
        raise ValueError(
            explain(
                f"The text must have 1 to {config.n_positions} tokens, the model's context.",
                fix="Give a text, or start_token=True for an empty one."
                if not len(ids)
                else "Give a shorter text: nothing is cut off here.",
                tokens=len(ids),
            )
        )
    return ids.astype(np.int32)


def pieces(tokenizer: Any, ids: np.ndarray) -> list[bytes]:
    """The bytes of ids `[n]`; an id that only the model knows has none."""
    known = tokenizer.token_bytes
    return [known[i] if i < len(known) else b"" for i in ids.reshape(-1).tolist()]


def label(piece: bytes) -> str:
    r"""Writes a token in printable characters.

    Args:
        piece: Its bytes. Those that are no whole character are shown as `\xf0`; white space is
            shown by signs, and what cannot be printed by its number.

    Example:
        >>> label(b" king"), label(b"\xc3"), label("\u00fc\n".encode())
        ('·king', '\\xc3', 'ü↵')
    """
    text = piece.decode("utf-8", "backslashreplace")
    return "".join(_SIGNS.get(letter) or printable(letter) for letter in text)


def printable(letter: str) -> str:
    r"""A character, or its number where it has no shape of its own, such as `\u202e`."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")

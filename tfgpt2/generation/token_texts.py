"""The text that each id of a model writes, for stop strings, constraints and streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class TokenTexts(NamedTuple):
    """The text of each id of a model.

    What a model writes is matched with special tokens written out as their content, and shown
    without them: a stop string may be `"<|end|>"` although no result ever holds it.

    Attributes:
        written: The bytes of each id, of a special token its content; empty beyond the vocabulary.
        special: The ids of special tokens.
    """

    written: tuple[bytes, ...]
    special: frozenset[int]

    @property
    def shown(self) -> tuple[bytes, ...]:
        """The bytes of each id in results; special tokens have none."""
        return tuple(
            b"" if token in self.special else text for token, text in enumerate(self.written)
        )

    def shown_before(self, tokens: Sequence[int], end: int) -> bytes:
        """The part of the written text before a place in it, as results show it.

        Args:
            tokens: Ids.
            end: Bytes of their written text.

        Example:
            >>> texts = TokenTexts((b"ab", b"<s>", b"c"), frozenset([1]))
            >>> texts.shown_before([0, 1, 2, 0], 7)
            b'abca'
        """
        pieces, begin = [], 0
        for token in tokens:
            text = self.written[token]
            if token not in self.special:
                pieces.append(text[: max(0, end - begin)])
            begin += len(text)
        return b"".join(pieces)


def read_token_texts(tokenizer: Any, size: int) -> TokenTexts:
    """Reads the text of each id of a model from its tokenizer.

    Args:
        tokenizer: Anything with `detokenize_bytes`, such as a `TFGPT2Tokenizer`.
        size: `V` of the model.
    """
    ids = tf.range(size)[:, None]  # [V, 1]
    written = tokenizer.detokenize_bytes(ids, skip_special_tokens=False).numpy().tolist()
    shown = tokenizer.detokenize_bytes(ids, skip_special_tokens=True).numpy().tolist()
    pairs = enumerate(zip(written, shown, strict=True))
    return TokenTexts(tuple(written), frozenset(i for i, (one, two) in pairs if one != two))


def shown_length(tokenizer: Any, tokens: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """How much of the shown text comes before a place in the written text, in a graph.

    Args:
        tokenizer: See `read_token_texts`.
        tokens: int32 `[R, T]`, -1 after a row's end.
        end: int32 `[R]`, bytes of the written text.

    Returns:
        int32 `[R]`, bytes of the shown text.
    """
    written, shown = (
        tf.strings.length(tokenizer.detokenize_bytes(tokens[..., None], skip_special_tokens=skip))
        for skip in (False, True)
    )  # [R, T]
    before = end[:, None] - tf.cumsum(written, axis=1, exclusive=True)  # [R, T]
    return tf.reduce_sum(tf.clip_by_value(before, 0, shown), axis=1)

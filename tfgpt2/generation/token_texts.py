"""The texts of a model's ids, read from its tokenizer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.generation.written_text import TokenTexts


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

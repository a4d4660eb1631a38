"""Surprise: how likely each token of a text was, its rank, and what was expected in its place."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.scoring import token_scores
from tfgpt2.inspect import tokens
from tfgpt2.inspect.render.saving import save


@dataclasses.dataclass(frozen=True)
class Surprise:
    """What a model thought of each token when it had read those before it.

    The first token follows nothing; its numbers are 0, and it counts in no sum.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        logprobs: float32 `[T]`, nats; the surprise is its negative.
        ranks: int32 `[T]`, 1 for a token that no other was likelier than.
        top_tokens: For each token the bytes of the `N` likeliest in its place, the best first.
        top_probabilities: float32 `[T, N]`.
    """

    ids: np.ndarray
    tokens: tuple[bytes, ...]
    logprobs: np.ndarray
    ranks: np.ndarray
    top_tokens: tuple[tuple[bytes, ...], ...]
    top_probabilities: np.ndarray

    @property
    def logprob(self) -> float:
        """Log-probability of the text in nats: the sum over all tokens but the first."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def probabilities(self) -> np.ndarray:
        """float32 `[T]`, 0 for the first token."""
        return np.where(self.ranks > 0, np.exp(self.logprobs), 0).astype(np.float32)

    def save(self, path: str | os.PathLike[str], *, dpi: int = 100) -> Path:
        """Draws the text.

        Args:
            path: `.png`: a bar for each token. `.html`: the text, coloured by rank; pointing at a
                token shows what was expected.
            dpi: Dots per inch of a PNG.

        Returns:
            The path.

        Raises:
            ValueError: The name has another ending.
            ImportError: A PNG needs matplotlib.
        """

        def page() -> str:
            from tfgpt2.inspect.render import pages

            return pages.surprise(self)

        def figure() -> Any:
            from tfgpt2.inspect.render import figures

            return figures.surprise(self)

        return save(path, page, figure, dpi)


def surprise(
    model: Any, tokenizer: Any, text: str | bytes, *, top: int = 5, start_token: bool = False
) -> Surprise:
    """Reads a text and returns how likely each of its tokens was.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        top: How many of the likeliest tokens to keep for each place, 1 to the vocabulary's size.
        start_token: Put the model's start token before the text, so that its first token is
            scored, too.

    Raises:
        TypeError: It is no text, or the model does not score tokens.
        ValueError: The text has no tokens or too many, or `top` is out of range.

    Source: Gehrmann et al. 2019, "GLTR: Statistical Detection and Visualization of Generated Text".

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> found = surprise(model, tokenizer, "To be, or not to be", top=1)
        >>> found.tokens[6], int(found.ranks[6]), found.top_tokens[6]
        (b' be', 1, (b' be',))
    """
    check_scorer(model)
    check_top(top, model.config.vocab_size)
    ids = tokens.read(model, tokenizer, text, start_token=start_token)  # [T]
    mask = tf.ones([1, len(ids)], tf.int32)
    found = token_scores(model, tf.constant(ids[None]), mask, top=top)
    logprobs, ranks, top_ids, top_logprobs = (value[0].numpy() for value in found)
    likeliest = tokens.pieces(tokenizer, top_ids)
    rows = [tuple(likeliest[i : i + top]) for i in range(0, len(likeliest), top)]
    follows = ranks > 0  # [T]
    return Surprise(
        ids=ids,
        tokens=tuple(tokens.pieces(tokenizer, ids)),
        logprobs=logprobs,
        ranks=ranks,
        top_tokens=tuple(row if here else () for row, here in zip(rows, follows, strict=True)),
        top_probabilities=np.where(follows[:, None], np.exp(top_logprobs), 0).astype(np.float32),
    )


def check_scorer(model: Any) -> None:
    """Checks that a model scores tokens.

    Raises:
        TypeError: It does not.
    """
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise TypeError(
            explain(
                "The model must score tokens.",
                fix="Pass a TFGPT2LMHeadModel; of a TextGenerator, its `model`.",
                model=type(model).__name__,
            )
        )


def check_top(top: int, vocabulary: int) -> None:
    """Checks a number of tokens.

    Raises:
        ValueError: It is no integer from 1 to the vocabulary's size.
    """
    if type(top) is not int or not 1 <= top <= vocabulary:
        raise ValueError(
            explain(
                f"`top` must be an integer from 1 to {vocabulary}, the vocabulary's size.",
                fix="Leave it out for a few.",
                top=top,
            )
        )

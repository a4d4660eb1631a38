"""Surprise: log-probability and rank of each token of a text, and its likeliest alternatives."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfgpt2.generation.scoring import token_scores
from tfgpt2.inspect.render import pages
from tfgpt2.inspect.render.saving import Record
from tfgpt2.inspect.tokens import check_top, token_bytes, tokenize_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class Surprise(Record):
    """The probability and rank of each token given those before it.

    The first token has no context: its values are 0, and no sum includes it. `save` draws a bar
    for each token (PNG), or the text coloured by rank (page).

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        logprobs: float32 `[T]`, nats; the surprise is its negative.
        ranks: int32 `[T]`, 1 for the likeliest token.
        top_tokens: For each token the bytes of the `N` likeliest in its place, best first.
        top_probabilities: float32 `[T, N]`.
    """

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

    def _page(self) -> str:
        cards = zip(self.tokens, self.ranks.tolist(), self.probabilities.tolist(), self.top_tokens,
                    self.top_probabilities.tolist(), strict=True)  # fmt: skip
        return pages.surprise([pages.TokenCard(*card) for card in cards], self.logprob)

    def _figure(self, figures: ModuleType) -> Figure:
        return figures.surprise(self.tokens, self.logprobs, self.ranks)


def surprise(
    model: Any, tokenizer: Any, text: str | bytes, *, top: int = 5, start_token: bool = False
) -> Surprise:
    """Computes the probability and rank of each token of a text.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        top: Number of likeliest tokens to keep for each place, 1 to the size of the vocabulary.
        start_token: Put the model's start token before the text, so that its first token is
            scored, too.

    Raises:
        TypeError: The text is not a string, or the model does not score tokens.
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
    check_top(model, top)
    ids = tokenize_text(model, tokenizer, text, start_token=start_token)  # [T]
    mask = tf.ones([1, len(ids)], tf.int32)
    scores = token_scores(model, tf.constant(ids[None]), mask, top=top)
    logprobs, ranks, top_ids, top_logprobs = (value[0].numpy() for value in scores)
    scored = ranks > 0  # [T]
    top_tokens = token_bytes(tokenizer, top_ids)
    return Surprise(
        ids=ids,
        tokens=token_bytes(tokenizer, ids),
        logprobs=logprobs,
        ranks=ranks,
        top_tokens=tuple(row if here else () for row, here in zip(top_tokens, scored, strict=True)),
        top_probabilities=np.where(scored[:, None], np.exp(top_logprobs), 0).astype(np.float32),
    )

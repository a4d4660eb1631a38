"""The logit lens: what each layer would say next, if it were the last one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.inspect import tokens
from tfgpt2.inspect.render.saving import save
from tfgpt2.inspect.surprise import check_scorer, check_top


@dataclasses.dataclass(frozen=True)
class LogitLens:
    """What each layer expects after each token.

    Layer 0 is the sum of the embeddings, layer `i` what comes out of block `i`, and layer `L` the
    model itself.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        top_ids: int32 `[L + 1, T, N]`, the likeliest next tokens, the best first.
        top_tokens: Their bytes, by layer and place.
        top_probabilities: float32 `[L + 1, T, N]`.
        next_logprobs: float32 `[L + 1, T - 1]`, nats of the token that does come next.
        next_ranks: int32 `[L + 1, T - 1]`, its rank, 1 for the likeliest.
    """

    ids: np.ndarray
    tokens: tuple[bytes, ...]
    top_ids: np.ndarray
    top_tokens: tuple[tuple[tuple[bytes, ...], ...], ...]
    top_probabilities: np.ndarray
    next_logprobs: np.ndarray
    next_ranks: np.ndarray

    def save(self, path: str | os.PathLike[str], *, dpi: int = 100) -> Path:
        """Draws a table: a row for each layer, a column for each token.

        Args:
            path: `.png`, or `.html`, where pointing at a cell shows the other likely tokens.
            dpi: Dots per inch of a PNG.

        Returns:
            The path.

        Raises:
            ValueError: The name has another ending.
            ImportError: A PNG needs matplotlib.
        """

        def page() -> str:
            from tfgpt2.inspect.render import pages

            return pages.lens(self)

        def figure() -> Any:
            from tfgpt2.inspect.render import figures

            return figures.lens(self)

        return save(path, page, figure, dpi)


def layer_logits(model: Any, ids: Any) -> Iterator[tf.Tensor]:
    """Scores tokens with the hidden states of each layer.

    Args:
        model: A `TFGPT2LMHeadModel`.
        ids: int `[B, T]`.

    Yields:
        `L + 1` times float32 `[B, T, V]`: the final layer norm and the output matrix on the sum of
        the embeddings, and on what comes out of each block. The last are the model's own logits.
        One at a time, for together they would be large.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> ids = tf.constant([[5, 6, 7]])
        >>> *_, last = layer_logits(model, ids)
        >>> bool(tf.reduce_all(last == model(ids).logits))
        True
    """
    _, done = model.encode(False, input_ids=tf.convert_to_tensor(ids))
    for hidden in done.hidden[:-1]:
        yield model.score(model.transformer.ln_f(hidden))  # [B, T, V]
    yield model.score(done.last)  # the final layer norm is in it already


def logit_lens(
    model: Any, tokenizer: Any, text: str | bytes, *, top: int = 3, start_token: bool = False
) -> LogitLens:
    """Reads a text and returns what each layer expects next.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        top: How many of the likeliest tokens to keep, 1 to the vocabulary's size.
        start_token: Put the model's start token before the text.

    Raises:
        TypeError: It is no text, or the model does not score tokens.
        ValueError: The text has no tokens or too many, or `top` is out of range.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> lens = logit_lens(model, tokenizer, "To be, or not to")
        >>> lens.top_ids.shape, lens.top_tokens[-1][-1][0]
        ((7, 6, 3), b' be')
    """
    check_scorer(model)
    check_top(top, model.config.vocab_size)
    ids = tokens.read(model, tokenizer, text, start_token=start_token)  # [T]
    found: list[list[np.ndarray]] = [[], [], [], []]
    for logits in layer_logits(model, ids[None]):
        logprobs = tf.nn.log_softmax(logits[0]).numpy()  # [T, V]
        best = np.argsort(-logprobs, axis=1, kind="stable")[:, :top]  # [T, N]
        following = np.take_along_axis(logprobs[:-1], ids[1:, None], axis=1)  # [T - 1, 1]
        found[0].append(best.astype(np.int32))
        found[1].append(np.exp(np.take_along_axis(logprobs, best, axis=1)))
        found[2].append(following[:, 0])
        found[3].append(1 + np.sum(logprobs[:-1] > following, axis=1, dtype=np.int32))
    top_ids, top_probabilities, next_logprobs, next_ranks = map(np.stack, found)
    likeliest = tokens.pieces(tokenizer, top_ids)
    cells = [tuple(likeliest[i : i + top]) for i in range(0, len(likeliest), top)]
    rows = [tuple(cells[i : i + len(ids)]) for i in range(0, len(cells), len(ids))]
    return LogitLens(
        ids=ids,
        tokens=tuple(tokens.pieces(tokenizer, ids)),
        top_ids=top_ids,
        top_tokens=tuple(rows),
        top_probabilities=top_probabilities,
        next_logprobs=next_logprobs,
        next_ranks=next_ranks,
    )

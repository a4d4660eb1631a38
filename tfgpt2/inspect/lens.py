"""The logit lens: the next token predicted from the hidden states of each layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfgpt2.inspect.render import pages
from tfgpt2.inspect.render.saving import Record
from tfgpt2.inspect.tokens import check_top, token_bytes, tokenize_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class LogitLens(Record):
    """The next token that each layer predicts after each token.

    Layer 0 is the sum of the embeddings, layer `i` the output of block `i`, and layer `L` the
    model itself. `save` draws a table: a row for each layer, a column for each token.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        top_ids: int32 `[L + 1, T, N]`, the likeliest next tokens, best first.
        top_tokens: Their bytes, by layer and place.
        top_probabilities: float32 `[L + 1, T, N]`.
        next_logprobs: float32 `[L + 1, T - 1]`, nats of the token that follows in the text.
        next_ranks: int32 `[L + 1, T - 1]`, its rank, 1 for the likeliest.
    """

    top_ids: np.ndarray
    top_tokens: tuple[tuple[tuple[bytes, ...], ...], ...]
    top_probabilities: np.ndarray
    next_logprobs: np.ndarray
    next_ranks: np.ndarray

    def _page(self) -> str:
        layers = zip(self.top_tokens, self.top_probabilities.tolist(), self.next_ranks.tolist(),
                     np.exp(self.next_logprobs).tolist(), strict=True)  # fmt: skip
        return pages.lens(self.tokens, list(layers))

    def _figure(self, figures: ModuleType) -> Figure:
        best = [[row[0] for row in layer] for layer in self.top_tokens]
        correct = self.top_ids[:, :-1, 0] == self.ids[1:]  # [L + 1, T - 1]
        return figures.lens(self.tokens, best, self.top_probabilities[..., 0], correct)


def layer_logits(model: Any, ids: Any) -> Iterator[tf.Tensor]:
    """Computes logits from the hidden states of each layer.

    Args:
        model: A `TFGPT2LMHeadModel`.
        ids: int `[B, T]`.

    Yields:
        `L + 1` times float32 `[B, T, V]`: the final layer norm and the output matrix applied to
        the sum of the embeddings, and to the output of each block. The last are the model's own
        logits. They are yielded one at a time, since all of them together may be large.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> ids = tf.constant([[5, 6, 7]])
        >>> *_, last = layer_logits(model, ids)
        >>> bool(tf.reduce_all(last == model(ids).logits))
        True
    """
    _, outputs = model.encode(False, input_ids=tf.convert_to_tensor(ids))
    for hidden in outputs.hidden_states[:-1]:
        yield model.score(model.transformer.ln_f(hidden))  # [B, T, V]
    yield model.score(outputs.last_hidden_state)  # the final layer norm is in it already


def logit_lens(
    model: Any, tokenizer: Any, text: str | bytes, *, top: int = 3, start_token: bool = False
) -> LogitLens:
    """Computes the likeliest next tokens of each layer.

    Args:
        model: A `TFGPT2LMHeadModel`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        top: Number of likeliest tokens to keep, 1 to the size of the vocabulary.
        start_token: Put the model's start token before the text.

    Raises:
        TypeError: The text is not a string, or the model does not score tokens.
        ValueError: The text has no tokens or too many, or `top` is out of range.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> lens = logit_lens(model, tokenizer, "To be, or not to")
        >>> lens.top_ids.shape, lens.top_tokens[-1][-1][0]
        ((7, 6, 3), b' be')
    """
    check_top(model, top)
    ids = tokenize_text(model, tokenizer, text, start_token=start_token)  # [T]
    layers = [_predictions(logits[0], ids, top) for logits in layer_logits(model, ids[None])]
    top_ids, top_probabilities, next_logprobs, next_ranks = map(np.stack, zip(*layers, strict=True))
    return LogitLens(
        ids=ids,
        tokens=token_bytes(tokenizer, ids),
        top_ids=top_ids,
        top_tokens=token_bytes(tokenizer, top_ids),
        top_probabilities=top_probabilities,
        next_logprobs=next_logprobs,
        next_ranks=next_ranks,
    )


def _predictions(logits: tf.Tensor, ids: np.ndarray, top: int) -> tuple[np.ndarray, ...]:
    """Likeliest ids and probabilities `[T, N]`, log-probability and rank of the next `[T - 1]`."""
    logprobs = tf.nn.log_softmax(logits).numpy()  # [T, V]
    best = np.argsort(-logprobs, axis=1, kind="stable")[:, :top]  # [T, N]
    following = np.take_along_axis(logprobs[:-1], ids[1:, None], axis=1)  # [T - 1, 1]
    return (
        best.astype(np.int32),
        np.exp(np.take_along_axis(logprobs, best, axis=1)),
        following[:, 0],
        1 + np.sum(logprobs[:-1] > following, axis=1, dtype=np.int32),
    )

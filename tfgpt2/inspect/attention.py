"""Attention maps: how much each token looks at each token before it, by layer and head."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.inspect import tokens
from tfgpt2.inspect.render.saving import save


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of one text.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        weights: For each of the `L` layers float32 `[N, T, T]`: row `i` says how much token `i`
            looks at each token; it sums to 1, and is 0 after `i`.
    """

    ids: np.ndarray
    tokens: tuple[bytes, ...]
    weights: tuple[np.ndarray, ...]

    def head(self, layer: int, head: int) -> np.ndarray:
        """One map `[T, T]`; layers and heads count from 0.

        Raises:
            ValueError: There is no such layer or head.
        """
        counts = [len(heads) for heads in self.weights]
        if not (0 <= layer < len(counts) and 0 <= head < counts[layer]):
            raise ValueError(
                explain(
                    f"Layers are 0 to {len(counts) - 1}, heads 0 to {max(counts) - 1}.",
                    fix="Choose one of them.",
                    layer=layer,
                    head=head,
                )
            )
        return self.weights[layer][head]  # [T, T]

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        layer: int | None = None,
        head: int | None = None,
        dpi: int = 100,
    ) -> Path:
        """Draws the maps.

        Args:
            path: `.png`: all maps, or with `layer` and `head` one with the tokens beside it.
                `.html`: a page with all maps, of which one is shown large; weights there are
                rounded to 1/255.
            layer: The map to show, from 0.
            head: Likewise.
            dpi: Dots per inch of a PNG.

        Returns:
            The path.

        Raises:
            ValueError: The name has another ending, `layer` or `head` is missing or does not exist,
                or the text is too long for a page.
            ImportError: A PNG needs matplotlib.
        """
        if (layer is None) != (head is None):
            raise ValueError(
                explain("A map is named by layer and head.", fix="Give both, or neither.",
                        layer=layer, head=head)
            )  # fmt: skip
        chosen = None if layer is None or head is None else (layer, head)
        if chosen is not None:
            self.head(*chosen)

        def page() -> str:
            from tfgpt2.inspect.render import pages

            return pages.attention(self, chosen or (0, 0))

        def figure() -> Any:
            from tfgpt2.inspect.render import figures

            if chosen is not None:
                return figures.attention_head(self, *chosen)
            return figures.attention_grid(self)

        return save(path, page, figure, dpi)


def attention_maps(
    model: Any, tokenizer: Any, text: str | bytes, *, start_token: bool = False
) -> AttentionMaps:
    """Reads a text and returns what each head attends to.

    Args:
        model: Any of the models, with `attn_implementation="eager"`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        start_token: Put the model's start token before it.

    Raises:
        TypeError: It is no text.
        ValueError: The text has no tokens or too many, or the model does not hold the weights.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> maps = attention_maps(model, tokenizer, "To be, or not")
        >>> len(maps.weights), maps.weights[0].shape, maps.tokens[:2]
        (6, (7, 5, 5), (b'To', b' be'))
    """
    ids = tokens.read(model, tokenizer, text, start_token=start_token)  # [T]
    _, done = model.encode(False, input_ids=tf.constant(ids[None]))
    if not done.attentions:
        raise ValueError(
            explain(
                "Nothing holds the attention weights: the attention is blockwise, or gradients are"
                " checkpointed.",
                fix="Load the model with attn_implementation='eager', and call"
                " gradient_checkpointing_disable().",
                attn_implementation=model.config.attn_implementation,
            )
        )
    weights = tuple(np.asarray(layer[0], np.float32) for layer in done.attentions)  # L of [N, T, T]
    return AttentionMaps(ids, tuple(tokens.pieces(tokenizer, ids)), weights)

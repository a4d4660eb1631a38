"""Attention maps: the attention weights of a text by layer and head."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.inspect.render import pages
from tfgpt2.inspect.render.saving import describe, frame, save
from tfgpt2.inspect.tokens import token_bytes, tokenize_text


@dataclasses.dataclass(frozen=True, repr=False)
class AttentionMaps:
    """The attention weights of one text.

    Attributes:
        ids: int32 `[T]`.
        tokens: The bytes of each.
        weights: For each of the `L` layers float32 `[N, T, T]`: row `i` holds the weights with
            which token `i` attends to each token; it sums to 1, and is 0 after `i`.
    """

    ids: np.ndarray
    tokens: tuple[bytes, ...]
    weights: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        shape = f"{len(self.weights)} layers of {len(self.weights[0])} heads"
        return f"AttentionMaps({describe(self.tokens)}; {shape})"

    def _repr_html_(self) -> str | None:
        try:
            return frame(pages.attention(self.tokens, self.weights, (0, 0)))
        except ValueError:  # too long for a page
            return None

    def head(self, layer: int, head: int) -> np.ndarray:
        """One map `[T, T]`; layers and heads count from 0.

        Raises:
            ValueError: There is no such layer or head.
        """
        counts = [len(heads) for heads in self.weights]
        if not (0 <= layer < len(counts) and 0 <= head < counts[layer]):
            raise value_error(
                f"Layers are 0 to {len(counts) - 1}, heads 0 to {max(counts) - 1}.",
                fix="Choose one of them.",
                layer=layer,
                head=head,
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
            path: `.png`: all maps, or with `layer` and `head` that one, labelled with the tokens.
                `.html`: a page with all maps, one of them enlarged; its weights are rounded to
                1/255.
            layer: Layer of the map to show, from 0.
            head: Head of the map to show, from 0.
            dpi: Dots per inch of a PNG.

        Returns:
            The path.

        Raises:
            ValueError: The path has another suffix, `layer` or `head` is missing or does not exist,
                or the text is too long for a page.
            ImportError: A PNG needs matplotlib.
        """
        if (layer is None) != (head is None):
            raise value_error("A map is selected by layer and head.", fix="Pass both, or neither.",
                              layer=layer, head=head)  # fmt: skip
        chosen = None if layer is None or head is None else (layer, head)
        one = None if chosen is None else self.head(*chosen)
        return save(
            path,
            lambda: pages.attention(self.tokens, self.weights, chosen or (0, 0)),
            lambda figures: (
                figures.attention_grid(self.weights)
                if one is None
                else figures.attention_head(self.tokens, one, f"layer {layer}, head {head}")
            ),
            dpi,
        )


def attention_maps(
    model: Any, tokenizer: Any, text: str | bytes, *, start_token: bool = False
) -> AttentionMaps:
    """Computes the attention weights of all heads for a text.

    Args:
        model: Any of the models, with `attn_implementation="eager"`.
        tokenizer: The `TFGPT2Tokenizer` that belongs to it.
        text: One text that fits the context.
        start_token: Put the model's start token before it.

    Raises:
        TypeError: The text is not a string.
        ValueError: The text has no tokens or too many, or the model does not return the weights.

    Example:
        >>> import tfgpt2
        >>> model = tfgpt2.TFGPT2LMHeadModel.from_pretrained("shakespeare-tiny")
        >>> tokenizer = tfgpt2.TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> maps = attention_maps(model, tokenizer, "To be, or not")
        >>> len(maps.weights), maps.weights[0].shape, maps.tokens[:2]
        (6, (7, 5, 5), (b'To', b' be'))
    """
    ids = tokenize_text(model, tokenizer, text, start_token=start_token)  # [T]
    _, outputs = model.encode(False, input_ids=tf.constant(ids[None]))
    if not outputs.attentions:
        raise value_error(
            "The attention weights are not materialized: the attention is blockwise, or"
            " gradients are checkpointed.",
            fix="Load the model with attn_implementation='eager', and call"
            " gradient_checkpointing_disable().",
            attn_implementation=model.config.attn_implementation,
        )
    weights = tuple(
        np.asarray(layer[0], np.float32) for layer in outputs.attentions
    )  # L of [N, T, T]
    return AttentionMaps(ids, token_bytes(tokenizer, ids), weights)

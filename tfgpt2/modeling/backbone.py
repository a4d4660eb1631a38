"""The transformer that all heads share: embeddings, blocks, final layer norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.modeling.attention import causal_mask
from tfgpt2.modeling.cache import KVCache, write
from tfgpt2.modeling.layers import (
    Embedding,
    GPT2Block,
    GPT2Layer,
    LayerNorm,
    Memory,
    dropout,
    fold_in,
)


class Activations(NamedTuple):
    """Everything a pass through the transformer computed.

    Attributes:
        last: Float `[B, T, D]`, after the final layer norm.
        presents: Per block, keys and values `[B, N, S, H]`; empty under gradient checkpointing,
            which keeps nothing of a block but its output.
        hidden: `L + 1` floats `[B, T, D]`; see `TFBaseModelOutputWithPastAndCrossAttentions`.
        attentions: `L` floats `[B, N, T, S]`; empty where the weights were never held.
        cross_attentions: `L` floats `[B, N, T, encoder length]`, empty without an encoder.
    """

    last: tf.Tensor
    presents: tuple[tuple[tf.Tensor, tf.Tensor], ...]
    hidden: tuple[tf.Tensor, ...]
    attentions: tuple[tf.Tensor, ...]
    cross_attentions: tuple[tf.Tensor, ...]


class GPT2Transformer(GPT2Layer):
    """Embeddings, `L` blocks and the final layer norm.

    Args:
        config: The model's configuration.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, config: GPT2Config, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.config, policy, stddev = config, self.dtype_policy, config.initializer_range
        width = config.n_embd
        self.wte = Embedding(config.vocab_size, width, stddev=stddev, name="wte", dtype=policy)
        self.wpe = Embedding(config.n_positions, width, stddev=stddev, name="wpe", dtype=policy)
        self.seeds = keras.random.SeedGenerator()  # one seed per pass; dropout derives its own
        self.checkpointing = False  # see TFGPT2PreTrainedModel.gradient_checkpointing_enable
        self.h = [GPT2Block(config, i, name=f"h_{i}", dtype=policy) for i in range(config.n_layer)]
        self.ln_f = LayerNorm(width, epsilon=config.layer_norm_epsilon, name="ln_f", dtype=policy)

    def build(self, input_shape: object = None) -> None:
        """Creates all weights; their shapes follow from the configuration alone."""
        for layer in (self.wte, self.wpe, *self.h, self.ln_f):
            layer.build()

    def call(
        self,
        embeddings: tf.Tensor,
        *,
        positions: tf.Tensor,
        visible: tf.Tensor | None,
        memories: Sequence[Memory | None] | None = None,
        token_type_ids: tf.Tensor | None = None,
        encoder_states: tf.Tensor | None = None,
        encoder_visible: tf.Tensor | None = None,
        head_mask: Sequence[tf.Tensor] | None = None,
        training: bool | None = None,
    ) -> Activations:
        """Runs the transformer on token embeddings.

        Args:
            embeddings: Float `[B, T, D]`.
            positions: int `[B, T]` or `[1, T]`, in `[0, n_positions)`.
            visible: bool, broadcastable to `[B, N, T, S]`, True where a token may look.
            memories: Per block, what its new keys and values go through.
            token_type_ids: int `[B, T]`, looked up in the token table and added.
            encoder_states: Float `[B, E, D]`.
            encoder_visible: bool, broadcastable to `[B, N, T, E]`.
            head_mask: Per block, float broadcastable to `[B, N, T, S]`.
            training: Whether dropout acts.
        """
        x = embeddings + tf.cast(self.wpe(positions), embeddings.dtype)  # [B, T, D]
        if token_type_ids is not None:
            x += self.wte(token_type_ids)
        seed = tf.cast(self.seeds.next(), tf.int32) if training else None  # [2]
        x = dropout(x, self.config.embd_pdrop, seed, 0)
        hidden, presents, attentions, cross_attentions = [x], [], [], []
        for i, block in enumerate(self.h):
            options = {
                "visible": visible,
                "memory": memories[i] if memories is not None else None,
                "encoder_states": encoder_states,
                "encoder_visible": encoder_visible,
                "head_mask": head_mask[i] if head_mask is not None else None,
                "seed": None if seed is None else fold_in(seed, i + 1),
            }
            if self.checkpointing and training:
                x = _recomputed(block, x, options)
            else:
                x, present, weights, cross_weights = block(x, **options)
                presents.append(present)
                attentions.append(weights)
                cross_attentions.append(cross_weights)
            hidden.append(x)
        hidden[-1] = self.ln_f(x)
        return Activations(
            hidden[-1],
            tuple(presents),
            tuple(hidden),
            tuple(weights for weights in attentions if weights is not None),
            tuple(weights for weights in cross_attentions if weights is not None),
        )

    def extend(
        self,
        ids: tf.Tensor,
        valid: tf.Tensor,
        cache: KVCache,
        *,
        in_place: bool,
        embeds: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads `T` more tokens per row, next to those the cache holds.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            cache: What was read so far; it has room for `T` more columns.
            in_place: See `cache.write`.
            embeds: Float `[B, T, D]`, read in place of the ids' own embeddings.

        Returns:
            The last hidden states `[B, T, D]` and the longer cache.
        """
        length, columns = tf.shape(ids)[1], tf.shape(cache.valid)[1]
        new = cache.column + tf.range(length)  # [T], the columns being written
        steps = tf.cumsum(tf.cast(valid, tf.int32), axis=1)  # [B, T]
        # A row that has run past the context is finished; its position only has to stay legal.
        positions = tf.minimum(
            cache.positions[:, None] + tf.maximum(steps - 1, 0), self.config.n_positions - 1
        )
        filled = _fill(cache.valid, valid, cache.column)  # [B, S]
        visible = causal_mask(new, tf.range(columns)) & filled[:, None, None, :]  # [B, 1, T, S]
        seen = {}
        if cache.encoder:
            seen = {"encoder_states": cache.encoder.states}
            seen["encoder_visible"] = cache.encoder.visible[:, None, None, :]  # [B, 1, 1, E]
        out = self(
            self.wte(ids) if embeds is None else embeds,
            positions=positions,
            visible=visible,
            memories=_slots(cache, in_place=in_place),
            **seen,
        )
        keys, values = zip(*out.presents, strict=True)
        return out.last, cache._replace(
            keys=keys,
            values=values,
            valid=filled,
            column=cache.column + length,
            positions=cache.positions + steps[:, -1],
        )


def _recomputed(block: GPT2Block, x: tf.Tensor, options: dict[str, object]) -> tf.Tensor:
    """Runs a block so that the backward pass computes its inside again in place of keeping it.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    return tf.recompute_grad(lambda x: block(x, **options)[0])(x)


def _slots(cache: KVCache, *, in_place: bool) -> list[Callable]:
    """Per block, a `Memory` that writes into its part of the cache."""

    def slot(keys: tf.Tensor, values: tf.Tensor) -> Memory:
        return lambda key, value: (
            write(keys, key, cache.column, in_place=in_place),
            write(values, value, cache.column, in_place=in_place),
        )

    return [slot(keys, values) for keys, values in zip(cache.keys, cache.values, strict=True)]


def _fill(valid: tf.Tensor, new: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Writes bool `[B, T]` into bool `[B, S]` at `column`, by index arithmetic."""
    offsets = tf.range(tf.shape(valid)[1]) - column  # [S]
    inside = (offsets >= 0) & (offsets < tf.shape(new)[1])
    source = tf.clip_by_value(offsets, 0, tf.shape(new)[1] - 1)
    return tf.where(inside[None, :], tf.gather(new, source, axis=1), valid)  # [B, S]

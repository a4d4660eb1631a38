"""The transformer that all heads share: embeddings, blocks, final layer norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.nn.attention import causal_mask
from tfgpt2.nn.blocks import GPT2Block, Memory
from tfgpt2.nn.cache import Encoder, EncoderMemory, KVCache, Prefix, spread, with_room, write
from tfgpt2.nn.layers import Embedding, GPT2Layer, LayerNorm, dropout, fold_in


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
        seen: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        encoder_states: tf.Tensor | None = None,
        encoder_memories: Sequence[tuple[tf.Tensor, tf.Tensor]] | None = None,
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
            seen: int32 `[]`, how many of the first columns hold something; see
                `GPT2Attention.call`.
            token_type_ids: int `[B, T]`, looked up in the token table and added.
            encoder_states: Float `[B, E, D]`.
            encoder_memories: Per block, keys and values of them, in their place.
            encoder_visible: bool, broadcastable to `[B, N, T, E]`.
            head_mask: Per block, float broadcastable to `[B, N, T, S]`.
            training: Whether dropout acts.
        """
        x = embeddings + tf.cast(self.wpe(positions), embeddings.dtype)  # [B, T, D]
        if token_type_ids is not None:
            x += self.wte(token_type_ids)
        seed = _replica_seed(self.seeds.next()) if training else None  # [2]
        x = dropout(x, self.config.embd_pdrop, seed, 0)
        hidden, presents, attentions, cross_attentions = [x], [], [], []
        for i, block in enumerate(self.h):
            options = {
                "visible": visible,
                "memory": memories[i] if memories is not None else None,
                "seen": seen,
                "encoder_states": encoder_states,
                "encoder_memory": None if encoder_memories is None else encoder_memories[i],
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

    def prefill_hidden(
        self,
        ids: tf.Tensor,
        valid: tf.Tensor,
        *,
        columns: tf.Tensor,
        embeds: tf.Tensor | None = None,
        prefix: Prefix | tuple[()] = (),
        encoder: Encoder | tuple[()] = (),
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads texts from their beginning.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            columns: int32 `[]`, size `S >= T` of the cache, without the columns of a prefix.
            embeds: Float `[B, T, D]`, read in place of the ids' own embeddings.
            prefix: A text that comes before.
            encoder: What cross-attention looks at.

        Returns:
            The last hidden states `[B, T, D]`, and the cache.
        """
        rows, length = tf.unstack(tf.shape(ids))
        steps = tf.cumsum(tf.cast(valid, tf.int32), axis=1)  # [B, T]
        positions, filled, memories = tf.maximum(steps - 1, 0), valid, None
        if prefix:
            prefix = spread(prefix, rows, self.compute_dtype)
            filled = tf.concat([prefix.valid, valid], axis=1)  # [B, P + T]
            positions += tf.reduce_sum(tf.cast(prefix.valid, tf.int32), axis=1)[:, None]
            memories = [_after(*pair) for pair in zip(prefix.keys, prefix.values, strict=True)]
        end = tf.shape(filled)[1]
        new = tf.range(end - length, end)  # [T]
        memory = self.remember(encoder) if encoder else ()
        out = self(
            self.wte(ids) if embeds is None else embeds,
            # A row without a token of its own has no position; it only has to be legal.
            positions=tf.minimum(positions, self.config.n_positions - 1),
            visible=causal_mask(new, tf.range(end)) & filled[:, None, None, :],  # [B, 1, T, P + T]
            memories=memories,
            **_across(memory),
        )
        keys, values = zip(*out.presents, strict=True)
        count = tf.reduce_sum(tf.cast(filled, tf.int32), axis=1)  # [B]
        cache = KVCache(keys, values, filled, column=end, positions=count, encoder=memory)
        return out.last, with_room(cache, columns - length)

    def decode_hidden(
        self,
        ids: tf.Tensor,
        valid: tf.Tensor,
        cache: KVCache,
        *,
        in_place: bool,
    ) -> tuple[tf.Tensor, KVCache]:
        """Reads a few more tokens per row, next to those the cache holds.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            cache: What was read so far; it has room for `T` more columns.
            in_place: See `cache.write`.

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
        out = self(
            self.wte(ids),
            positions=positions,
            visible=visible,
            memories=_slots(cache, in_place=in_place),
            # Outside XLA a loop in each block would cost more than it saves.
            seen=cache.column + length if in_place else None,
            **_across(cache.encoder),
        )
        keys, values = zip(*out.presents, strict=True)
        return out.last, cache._replace(
            keys=keys,
            values=values,
            valid=filled,
            column=cache.column + length,
            positions=cache.positions + steps[:, -1],
        )

    def remember(self, encoder: Encoder) -> EncoderMemory:
        """Makes the keys and values of cross-attention, which are the same for every token."""
        pairs = [block.crossattention.remember(encoder.states) for block in self.h]
        keys, values = zip(*pairs, strict=True)
        return EncoderMemory(keys, values, encoder.visible)


def _recomputed(block: GPT2Block, x: tf.Tensor, options: dict[str, object]) -> tf.Tensor:
    """Runs a block so that the backward pass computes its inside again in place of keeping it.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    return tf.recompute_grad(lambda x: block(x, **options)[0])(x)


def _across(encoder: EncoderMemory | tuple[()]) -> dict[str, object]:
    """What cross-attention is given."""
    if not encoder:
        return {}
    return {
        "encoder_memories": list(zip(encoder.keys, encoder.values, strict=True)),
        "encoder_visible": encoder.visible[:, None, None, :],  # [B, 1, 1, E]
    }


def _after(keys: tf.Tensor, values: tf.Tensor) -> Memory:
    """A `Memory` that puts what was read before in front."""
    return lambda key, value: (
        tf.concat([keys, key], axis=2),  # [B, N, S, H]
        tf.concat([values, value], axis=2),
    )


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


def _replica_seed(seed: tf.Tensor) -> tf.Tensor:
    """The seed of a pass, int32 `[2]`: of several replicas, each drops other numbers."""
    seed = tf.cast(seed, tf.int32)
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return seed
    return fold_in(seed, replica.replica_id_in_sync_group)

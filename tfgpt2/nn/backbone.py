"""The transformer without heads: embeddings, blocks, final layer norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.nn.append_kv import AppendKV, ConcatenateKV, WriteKV
from tfgpt2.nn.attention import causal_mask
from tfgpt2.nn.blocks import GPT2Block
from tfgpt2.nn.kv_cache import (
    Encoder,
    EncoderKV,
    KVCache,
    Prefix,
    broadcast_prefix,
    cast_cache,
    pad_cache,
)
from tfgpt2.nn.layers import Embedding, GPT2Layer, LayerNorm, dropout, fold_in
from tfgpt2.nn.one_row import is_xla_traced
from tfgpt2.nn.shared_trace import SharedTraces


class ForwardOutputs(NamedTuple):
    """Results of a forward pass through the transformer.

    Attributes:
        last_hidden_state: Float `[B, T, D]`, after the final layer norm.
        keys_values: Per block, keys and values `[B, N, S, H]`; empty under gradient checkpointing,
            which keeps only a block's output.
        hidden_states: `L + 1` floats `[B, T, D]`; see
            `TFBaseModelOutputWithPastAndCrossAttentions`.
        attentions: `L` floats `[B, N, T, S]`; empty where the weights are not kept.
        cross_attentions: `L` floats `[B, N, T, encoder length]`, empty without an encoder.
    """

    last_hidden_state: tf.Tensor
    keys_values: tuple[tuple[tf.Tensor, tf.Tensor], ...]
    hidden_states: tuple[tf.Tensor, ...]
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
        self.seeds = keras.random.SeedGenerator()  # one seed per forward pass
        self.checkpointing = False  # see TrainableModel.gradient_checkpointing_enable
        self.h = [GPT2Block(config, i, name=f"h_{i}", dtype=policy) for i in range(config.n_layer)]
        for block in self.h:  # `tf.train.Checkpoint` does not look into lists of Keras 3
            self._track_trackable(block, block.name)
        self.ln_f = LayerNorm(width, epsilon=config.layer_norm_epsilon, name="ln_f", dtype=policy)

    def build(self, input_shape: object = None) -> None:
        """Creates all weights, whose shapes follow from the configuration."""
        for layer in (self.wte, self.wpe, *self.h, self.ln_f):
            layer.build()

    def call(
        self,
        embeddings: tf.Tensor,
        *,
        positions: tf.Tensor,
        visible: tf.Tensor | None,
        append_kv: Sequence[AppendKV] | None = None,
        used_columns: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        encoder_states: tf.Tensor | None = None,
        encoder_kv: Sequence[tuple[tf.Tensor, tf.Tensor]] | None = None,
        encoder_visible: tf.Tensor | None = None,
        head_mask: Sequence[tf.Tensor] | None = None,
        training: bool | None = None,
    ) -> ForwardOutputs:
        """Runs the transformer on token embeddings.

        Args:
            embeddings: Float `[B, T, D]`.
            positions: int `[B, T]` or `[1, T]`, in `[0, n_positions)`.
            visible: bool, broadcastable to `[B, N, T, S]`, True where a token may attend.
            append_kv: Per block, the function that appends new keys and values to the past.
            used_columns: int32 `[2]`, the first column to read and the one after the last; None
                reads all.
            token_type_ids: int `[B, T]`, looked up in the token table and added.
            encoder_states: Float `[B, E, D]`.
            encoder_kv: Per block, their keys and values, instead of them.
            encoder_visible: bool, broadcastable to `[B, N, T, E]`.
            head_mask: Per block, float broadcastable to `[B, N, T, S]`.
            training: Whether dropout is applied.
        """
        x = embeddings + tf.cast(self.wpe(positions), embeddings.dtype)  # [B, T, D]
        if token_type_ids is not None:
            x += self.wte(token_type_ids)
        seed = _replica_seed(self.seeds.next()) if training else None  # [2]
        x = dropout(x, self.config.embd_pdrop, seed, 0)
        hidden_states, keys_values, attentions, cross_attentions = [x], [], [], []
        # Not in training, where dropout and gradients pass through the blocks.
        traces = SharedTraces() if is_xla_traced() and not training else None
        for i, block in enumerate(self.h):
            options = {
                "visible": visible,
                "append_kv": None if append_kv is None else append_kv[i],
                "used_columns": used_columns,
                "encoder_states": encoder_states,
                "encoder_kv": None if encoder_kv is None else encoder_kv[i],
                "encoder_visible": encoder_visible,
                "head_mask": None if head_mask is None else head_mask[i],
                "seed": None if seed is None else fold_in(seed, i + 1),
            }
            if self.checkpointing and training:
                x = _recompute_in_backward(block, x, options)
            else:
                outputs = traces.run(block, x, options) if traces else block(x, **options)
                x, key_value, weights, cross_weights = outputs
                keys_values.append(key_value)
                attentions.append(weights)
                cross_attentions.append(cross_weights)
            hidden_states.append(x)
        hidden_states[-1] = self.ln_f(x)
        return ForwardOutputs(
            hidden_states[-1],
            tuple(keys_values),
            tuple(hidden_states),
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
        token_types: tf.Tensor | tuple[()] = (),
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs texts into a new cache.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            columns: int32 `[]`, size `S >= T` of the cache, without the columns of a prefix.
            embeds: Float `[B, T, D]`, instead of the ids' own embeddings.
            prefix: Keys and values of the tokens before.
            encoder: For cross-attention.
            token_types: int32 `[B, T]`; further tokens have the type of the last one.

        Returns:
            The last hidden states `[B, T, D]`, and the cache.
        """
        rows, length = tf.unstack(tf.shape(ids))
        steps = tf.cumsum(tf.cast(valid, tf.int32), axis=1)  # [B, T]
        positions, all_valid, append_kv = tf.maximum(steps - 1, 0), valid, None
        if prefix:
            prefix = broadcast_prefix(prefix, rows, self.compute_dtype)
            all_valid = tf.concat([prefix.valid, valid], axis=1)  # [B, P + T]
            positions += tf.reduce_sum(tf.cast(prefix.valid, tf.int32), axis=1)[:, None]
            append_kv = list(map(ConcatenateKV, prefix.keys, prefix.values))
        end = tf.shape(all_valid)[1]
        new = tf.range(end - length, end)  # [T]
        encoder_kv = self._project_encoder(encoder) if encoder else ()
        typed = not isinstance(token_types, tuple)
        outputs = self(
            self.wte(ids) if embeds is None else embeds,
            # A row without a token has no position; the number only has to be in range.
            positions=tf.minimum(positions, self.config.n_positions - 1),
            visible=causal_mask(new, tf.range(end)) & all_valid[:, None, None],  # [B, 1, T, P + T]
            append_kv=append_kv,
            token_type_ids=token_types if typed else None,
            **_encoder_arguments(encoder_kv),
        )
        keys, values = zip(*outputs.keys_values, strict=True)
        count = tf.reduce_sum(tf.cast(all_valid, tf.int32), axis=1)  # [B]
        last_type = token_types[:, -1] if typed else ()  # [B]
        cache = KVCache(keys, values, all_valid, end, count, encoder_kv, last_type)
        cache = cast_cache(cache, self.compute_dtype)
        return outputs.last_hidden_state, pad_cache(cache, columns - length)

    def decode_hidden(
        self,
        ids: tf.Tensor,
        valid: tf.Tensor,
        cache: KVCache,
        *,
        in_place: bool,
    ) -> tuple[tf.Tensor, KVCache]:
        """Runs a few more tokens per row, after those in the cache.

        Args:
            ids: int32 `[B, T]`.
            valid: bool `[B, T]`, False where a row has no token.
            cache: The cache so far, with `T` free columns or more. Where each row has a column of
                its own, `T` is 1, and rows without a token stay as they are.
            in_place: See `kv_cache.write`.

        Returns:
            The last hidden states `[B, T, D]` and the longer cache.
        """
        length, columns = tf.shape(ids)[1], tf.shape(cache.valid)[1]
        own_columns = cache.column.shape.rank == 1
        steps = tf.cumsum(tf.cast(valid, tf.int32), axis=1)  # [B, T]
        # A row past the end of the context is finished; its position only has to be in range.
        positions = tf.minimum(
            cache.positions[:, None] + tf.maximum(steps - 1, 0), self.config.n_positions - 1
        )
        if own_columns:
            here = tf.range(columns)[None] == cache.column[:, None]  # [B, S]
            all_valid = cache.valid | (here & valid)  # [B, S]
            visible = all_valid[:, None, None]  # [B, 1, 1, S], nothing comes after the token
            end = tf.minimum(tf.reduce_max(cache.column) + 1, columns)
            column = cache.column + steps[:, -1]  # [B]
        else:
            new = cache.column + tf.range(length)  # [T], the columns being written
            all_valid = _write_valid(cache.valid, valid, cache.column)  # [B, S]
            visible = causal_mask(new, tf.range(columns)) & all_valid[:, None, None]  # [B, 1, T, S]
            end = column = cache.column + length
        outputs = self(
            self.wte(ids),
            positions=positions,
            visible=visible,
            append_kv=[
                WriteKV(*pair, cache.column, in_place)
                for pair in zip(cache.keys, cache.values, strict=True)
            ],
            # Outside XLA a loop in each block would cost more than it saves.
            used_columns=_used_columns(all_valid, end) if in_place else None,
            token_type_ids=(
                None if isinstance(cache.token_type, tuple) else cache.token_type[:, None]  # [B, 1]
            ),
            **_encoder_arguments(cache.encoder),
        )
        keys, values = zip(*outputs.keys_values, strict=True)
        return outputs.last_hidden_state, cache._replace(
            keys=keys,
            values=values,
            valid=all_valid,
            column=column,
            positions=cache.positions + steps[:, -1],
        )

    def _project_encoder(self, encoder: Encoder) -> EncoderKV:
        """Computes the keys and values of cross-attention, which all tokens share."""
        pairs = [block.crossattention.project_encoder(encoder.states) for block in self.h]
        keys, values = zip(*pairs, strict=True)
        return EncoderKV(keys, values, encoder.visible)


def _recompute_in_backward(block: GPT2Block, x: tf.Tensor, options: dict[str, object]) -> tf.Tensor:
    """Runs a block with gradient checkpointing.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    return tf.recompute_grad(lambda x: block(x, **options)[0])(x)


def _encoder_arguments(encoder: EncoderKV | tuple[()]) -> dict[str, object]:
    """The arguments of `GPT2Transformer.call` for cross-attention."""
    if not encoder:
        return {}
    return {
        "encoder_kv": list(zip(encoder.keys, encoder.values, strict=True)),
        "encoder_visible": encoder.visible[:, None, None, :],  # [B, 1, 1, E]
    }


def _used_columns(valid: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """The first column that holds a token of any row, and `end`: int32 `[2]`."""
    columns = tf.range(tf.shape(valid)[1])
    first = tf.reduce_min(tf.where(tf.reduce_any(valid, axis=0), columns, end - 1))
    return tf.stack([first, end])


def _write_valid(valid: tf.Tensor, new: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Writes bool `[B, T]` into bool `[B, S]` at `column`, by index arithmetic."""
    offsets = tf.range(tf.shape(valid)[1]) - column  # [S]
    inside = (offsets >= 0) & (offsets < tf.shape(new)[1])
    source = tf.clip_by_value(offsets, 0, tf.shape(new)[1] - 1)
    return tf.where(inside[None, :], tf.gather(new, source, axis=1), valid)  # [B, S]


def _replica_seed(seed: tf.Tensor) -> tf.Tensor:
    """The seed of a forward pass, int32 `[2]`, which differs between replicas."""
    seed = tf.cast(seed, tf.int32)
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return seed
    return fold_in(seed, replica.replica_id_in_sync_group)

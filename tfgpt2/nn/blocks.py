"""A block of GPT-2: attention and MLP as Keras layers."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.nn import activations
from tfgpt2.nn.append_kv import AppendKV
from tfgpt2.nn.attention import attend, decode_attend, merge_heads, split_heads
from tfgpt2.nn.blockwise import blockwise_attend
from tfgpt2.nn.kv_cache import unpack
from tfgpt2.nn.layers import Conv1D, GPT2Layer, LayerNorm, dropout, fold_in


class GPT2Attention(GPT2Layer):
    """Multi-head attention with a fused projection, self-attention or cross-attention.

    Args:
        config: The model's configuration.
        layer_index: Number of the block, for `scale_attn_by_inverse_layer_idx`.
        is_cross_attention: Attend to an encoder's states instead of the text.
        **kwargs: Passed to `keras.layers.Layer`.

    Source: transformers 4.57, `modeling_gpt2.py::GPT2Attention`.
    """

    def __init__(
        self,
        config: GPT2Config,
        layer_index: int,
        *,
        is_cross_attention: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.is_cross_attention = is_cross_attention
        self.heads = config.n_head if is_cross_attention else len(config.kept_heads(layer_index))
        self.upcast = config.reorder_and_upcast_attn
        self.scale = config.head_size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer_index + 1
        width, inner = config.n_embd, self.heads * config.head_size
        options = {"stddev": config.initializer_range, "dtype": self.dtype_policy}
        if is_cross_attention:
            self.c_attn = Conv1D(width, 2 * width, name="c_attn", **options)
            self.q_attn = Conv1D(width, width, name="q_attn", **options)
        else:
            self.c_attn = Conv1D(width, 3 * inner, name="c_attn", **options)
        # GPT-2 scales the projections into the residual stream by the number of residual branches,
        # so that its variance does not grow with depth.
        options["stddev"] /= (2 * config.n_layer) ** 0.5
        self.c_proj = Conv1D(inner, width, name="c_proj", **options)
        self.attn_pdrop, self.resid_pdrop = config.attn_pdrop, config.resid_pdrop
        self.blockwise = config.attn_implementation == "blockwise"

    def build(self, input_shape: object = None) -> None:
        """Creates the weights of the projections."""
        self.c_attn.build()
        self.c_proj.build()
        if self.is_cross_attention:
            self.q_attn.build()

    def call(
        self,
        x: tf.Tensor,
        *,
        visible: tf.Tensor | None,
        append_kv: AppendKV | None = None,
        used_columns: tf.Tensor | None = None,
        encoder_states: tf.Tensor | None = None,
        encoder_kv: tuple[tf.Tensor, tf.Tensor] | None = None,
        head_mask: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor | None]:
        """Computes the attention.

        Args:
            x: Float `[B, T, D]`.
            visible: bool, broadcastable to `[B, N, T, S]`, True where a token may attend;
                None is everywhere. (Not `mask`: Keras reserves that name.)
            append_kv: Appends the new keys and values to those of the past; None for no past.
            used_columns: int32 `[2]`, the first column to read and the one after the last; None
                reads all.
            encoder_states: Float `[B, S, D]`, for cross-attention.
            encoder_kv: The result of `project_encoder`, instead of them.
            head_mask: Float `[1, N, 1, 1]`.
            seed: int32 `[2]`, for dropout; None for none.

        Returns:
            Output `[B, T, D]`; keys and values `[B, N, S, H]`; weights `[B, N, T, S]`, None where
            the attention does not keep them.
        """
        if self.is_cross_attention:
            query = split_heads(self.q_attn(x, seed=seed), self.heads)  # [B, N, T, H]
            key, value = encoder_kv or self.project_encoder(
                encoder_states, seed=seed
            )  # [B, N, S, H]
        else:
            parts = tf.split(self.c_attn(x, seed=seed), 3, axis=-1)  # 3 x [B, T, D]
            query, key, value = (split_heads(part, self.heads) for part in parts)
        if append_kv is not None:
            key, value = append_kv(key, value)  # [B, N, S, H]
        context, weights = self._attend(query, key, value, visible, used_columns, head_mask, seed)
        output = self.c_proj(merge_heads(context), seed=seed)  # [B, T, D]
        return dropout(output, self.resid_pdrop, seed, 1), (key, value), weights

    def project_encoder(
        self, encoder_states: tf.Tensor, *, seed: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Projects an encoder's states `[B, S, D]` to keys and values `[B, N, S, H]`."""
        parts = tf.split(self.c_attn(encoder_states, seed=seed), 2, axis=-1)  # 2 x [B, S, D]
        key, value = (split_heads(part, self.heads) for part in parts)
        return key, value

    def _attend(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        visible: tf.Tensor | None,
        used_columns: tf.Tensor | None,
        head_mask: tf.Tensor | None,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Runs the attention that the configuration chose."""
        if used_columns is not None:
            attended = decode_attend(query, key, value, visible, used_columns, scale=self.scale)
            return attended, None
        key, value = unpack(key, query.dtype), unpack(value, query.dtype)
        if not self.blockwise or query.shape[2] == 1:  # a single query is one block
            return attend(
                query,
                key,
                value,
                visible,
                scale=self.scale,
                dropout=lambda weights: dropout(weights, self.attn_pdrop, seed, 0),
                head_mask=head_mask,
                upcast=self.upcast,
            )
        context = blockwise_attend(
            query,
            key,
            value,
            visible,
            scale=self.scale,
            dropout=0.0 if seed is None else self.attn_pdrop,
            seed=seed,
            upcast=self.upcast,
        )
        if head_mask is not None:
            context *= tf.cast(head_mask, context.dtype)
        return context, None


class GPT2MLP(GPT2Layer):
    """Two affine maps with an activation between them.

    Args:
        config: The model's configuration.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, config: GPT2Config, **kwargs: object) -> None:
        super().__init__(**kwargs)
        width, inner, policy = config.n_embd, config.inner_size, self.dtype_policy
        stddev = config.initializer_range
        self.c_fc = Conv1D(width, inner, stddev=stddev, name="c_fc", dtype=policy)
        stddev /= (2 * config.n_layer) ** 0.5  # as in GPT2Attention
        self.c_proj = Conv1D(inner, width, stddev=stddev, name="c_proj", dtype=policy)
        self.act = activations.get(config.activation_function)
        self.resid_pdrop = config.resid_pdrop

    def build(self, input_shape: object = None) -> None:
        """Creates the weights of the two maps."""
        self.c_fc.build()
        self.c_proj.build()

    def call(self, x: tf.Tensor, *, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Float `[B, T, D]` -> `[B, T, D]`; `seed` is for dropout, None without."""
        x = self.c_proj(self.act(self.c_fc(x, seed=seed)), seed=seed)
        return dropout(x, self.resid_pdrop, seed, 2)


class GPT2Block(GPT2Layer):
    """One transformer block: attention, optional cross-attention, MLP, each on the residual.

    Args:
        config: The model's configuration.
        layer_index: Number of the block, from 0.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, config: GPT2Config, layer_index: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        norm = {"epsilon": config.layer_norm_epsilon, "dtype": policy}
        self.ln_1 = LayerNorm(config.n_embd, name="ln_1", **norm)
        self.attn = GPT2Attention(config, layer_index, name="attn", dtype=policy)
        self.ln_2 = LayerNorm(config.n_embd, name="ln_2", **norm)
        self.mlp = GPT2MLP(config, name="mlp", dtype=policy)
        self.parts = [self.ln_1, self.attn, self.ln_2, self.mlp]
        self.crossattention = None
        if config.add_cross_attention:
            self.ln_cross_attn = LayerNorm(config.n_embd, name="ln_cross_attn", **norm)
            self.crossattention = GPT2Attention(
                config, layer_index, is_cross_attention=True, name="crossattention", dtype=policy
            )
            self.parts += [self.ln_cross_attn, self.crossattention]

    def build(self, input_shape: object = None) -> None:
        """Creates the weights of every part."""
        for layer in self.parts:
            layer.build()

    def call(
        self,
        x: tf.Tensor,
        *,
        visible: tf.Tensor | None,
        append_kv: AppendKV | None = None,
        used_columns: tf.Tensor | None = None,
        encoder_states: tf.Tensor | None = None,
        encoder_kv: tuple[tf.Tensor, tf.Tensor] | None = None,
        encoder_visible: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor | None, tf.Tensor | None]:
        """Runs the block; the arguments are those of `GPT2Attention.call`.

        Returns:
            Output `[B, T, D]`; keys and values `[B, N, S, H]`; attention weights; cross-attention
            weights or None.
        """
        attended, present, weights = self.attn(
            self.ln_1(x),
            visible=visible,
            append_kv=append_kv,
            used_columns=used_columns,
            head_mask=head_mask,
            seed=seed,
        )
        x = x + attended
        cross_weights = None
        if encoder_states is not None or encoder_kv is not None:
            attended, _, cross_weights = self.crossattention(
                self.ln_cross_attn(x),
                visible=encoder_visible,
                encoder_states=encoder_states,
                encoder_kv=encoder_kv,
                head_mask=head_mask,
                seed=None if seed is None else fold_in(seed, 3),
            )
            x = x + attended
        return x + self.mlp(self.ln_2(x), seed=seed), present, weights, cross_weights

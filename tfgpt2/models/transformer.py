"""The transformer without a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.call_inputs import CallInputs
from tfgpt2.models.call_outputs import unflatten
from tfgpt2.nn.backbone import ForwardOutputs
from tfgpt2.outputs import TFBaseModelOutputWithPastAndCrossAttentions


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2Model(TFGPT2PreTrainedModel):
    """GPT-2 without a head; it returns hidden states.

    Args:
        config: The configuration.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> model = TFGPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model(tf.constant([[1, 2, 3]])).last_hidden_state.shape
        TensorShape([1, 3, 8])
    """

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> TFBaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Runs the model.

        Args:
            input_ids: int `[B, T]` (further leading axes are allowed), ids in `[0, V)`.
            past_key_values: `L` tensors `[2, B, N, S, H]` that an earlier call returned; then
                `input_ids` holds only the tokens after those.
            attention_mask: `[B, past + T]`, 1 for tokens and 0 for padding; or
                `[B, 1, T, past + T]`, 1 where a token may attend, causal order included.
            token_type_ids: int `[B, T]`, looked up in the token table and added.
            position_ids: int `[B, T]` in `[0, n_positions)`. By default, tokens are numbered from
                the length of the past on, padding included, as transformers does; for
                left-padded input pass `tfgpt2.nn.kv_cache.positions_from_mask(mask)`.
            head_mask: Float `[N]` or `[L, N]`; 0 masks a head.
            inputs_embeds: Float `[B, T, D]`, instead of `input_ids`.
            encoder_hidden_states: Float `[B, E, D]`, for `config.add_cross_attention`.
            encoder_attention_mask: `[B, E]` or `[B, T, E]`, 1 where the encoder may be attended.
            use_cache: Return `past_key_values`; None is `config.use_cache`.
            output_attentions: Return the attention weights; None is the configuration's.
            output_hidden_states: Return all hidden states; None is the configuration's.
            return_dict: False returns a tuple; None is the configuration's.
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_tf_gpt2.py::TFGPT2Model.call`.
        """
        return self.run(locals())

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFBaseModelOutputWithPastAndCrossAttentions:
        """Returns the last hidden states."""
        return TFBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=unflatten(outputs.last_hidden_state, inputs)
        )


TFGPT2MainLayer = TFGPT2Model  # its name where it is a part of another model

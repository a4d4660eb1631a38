"""The double-heads model: language modeling and multiple choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.models.call_inputs import CallInputs
from tfgpt2.models.call_outputs import unflatten
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.nn import activations
from tfgpt2.nn.backbone import ForwardOutputs
from tfgpt2.nn.layers import GPT2Layer, Linear, nan_outside
from tfgpt2.nn.losses import Losses, classification_loss, token_nll
from tfgpt2.outputs import TFGPT2DoubleHeadsModelOutput


class SequenceSummary(GPT2Layer):
    """Summary of a text in one vector: selected or averaged, then projected.

    Args:
        config: Its `summary_*` fields define the summary; see `GPT2Config`.
        **kwargs: Passed to `keras.layers.Layer`.

    Raises:
        ValueError: `summary_type` is `"attn"`, which transformers does not implement either.

    Source: transformers 4.57, `modeling_gpt2.py::GPT2SequenceSummary`. There, `"last"`, `"first"`
        and `"mean"` run over the choices of a double-heads model and not over the tokens of each;
        here they do what their documentation says.
    """

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.summary_type == "attn":
            raise value_error(
                "`summary_type` 'attn' is not implemented for GPT-2.",
                fix="Use 'cls_index', 'last', 'first' or 'mean'.",
                summary_type=config.summary_type,
            )
        self.summary_type, self.summary = config.summary_type, None
        if config.summary_use_proj:
            width = config.num_labels if config.summary_proj_to_labels else config.n_embd
            self.summary = Linear(
                config.n_embd,
                width,
                stddev=config.initializer_range,
                name="summary",
                dtype=self.dtype_policy,
            )
        self.activation = activations.get(config.summary_activation or "linear")
        self.dropout = keras.layers.Dropout(config.summary_first_dropout, dtype=self.dtype_policy)

    def build(self, input_shape: object = None) -> None:
        """Creates the weights of the projection."""
        if self.summary is not None:
            self.summary.build()

    def call(
        self, hidden: tf.Tensor, *, column: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Summarises texts.

        Args:
            hidden: Float `[B, T, D]`.
            column: int32 `[B]`, the token that represents the text, for `"cls_index"`; None is
                the last column.
            training: Whether dropout is applied.

        Returns:
            Float `[B, out]`.
        """
        if self.summary_type == "first":
            vector = hidden[:, 0]  # [B, D]
        elif self.summary_type == "mean":
            vector = tf.reduce_mean(hidden, axis=1)
        elif self.summary_type == "last" or column is None:
            vector = hidden[:, -1]
        else:
            vector = tf.gather(hidden, column, batch_dims=1)  # [B, D]
            vector = nan_outside(vector, column, tf.shape(hidden)[1])
        vector = self.dropout(vector, training=training)
        if self.summary is not None:
            vector = self.summary(vector)  # [B, out]
        return self.activation(vector)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2DoubleHeadsModel(TFGPT2LMHeadModel):
    """GPT-2 with two heads: language modeling and multiple choice.

    Args:
        config: The configuration; its `num_labels` becomes 1, a score for each choice.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)
        >>> model = TFGPT2DoubleHeadsModel(config)
        >>> out = model(tf.constant([[[1, 2], [3, 4]]]), mc_token_ids=tf.constant([[1, 1]]))
        >>> out.logits.shape, out.mc_logits.shape
        (TensorShape([1, 2, 2, 10]), TensorShape([1, 2]))
    """

    head_parts = frozenset({"multiple_choice_head"})
    _export_inputs = {"input_ids": 3, "attention_mask": 3, "mc_token_ids": 2}

    def make_head(self) -> None:
        """Creates the output matrix, unless it is the token table, and the multiple-choice head."""
        self.config.num_labels = 1
        super().make_head()
        self.multiple_choice_head = SequenceSummary(
            self.config, name="multiple_choice_head", dtype=self.dtype_policy
        )

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        mc_token_ids: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        mc_labels: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> TFGPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Runs the model on `C` choices per example.

        Args:
            input_ids: int `[B, C, T]`.
            past_key_values: See `TFGPT2Model.call`.
            attention_mask: `[B, C, past + T]`, 1 for tokens and 0 for padding.
            token_type_ids: int `[B, C, T]`.
            position_ids: int `[B, C, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, C, T, D]`, instead of `input_ids`.
            mc_token_ids: int `[B, C]` in `[0, T)`, the token that represents each choice, such as
                a `[CLS]` at its end; None is the last column.
            use_cache: Return `past_key_values`.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: int `[B, C, T]` or -100, for `loss`; the shift by one happens inside.
            mc_labels: int `[B]` in `[0, C)`, the right choice, for `mc_loss`.
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2DoubleHeadsModel.forward`.
        """
        return self.run(locals())

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """See `TrainableModel`."""
        parts = super().loss_parts(labels, results, training) if "labels" in labels else {}
        if "mc_labels" in labels:
            chosen = tf.reshape(labels["mc_labels"], [-1])
            parts["mc_labels"] = token_nll(results["mc_logits"], chosen)
        return parts

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFGPT2DoubleHeadsModelOutput:
        """Scores the tokens and the choices."""
        hidden, training = outputs.last_hidden_state, arguments["training"]
        if arguments["labels"] is None:
            loss, logits = None, self.score(hidden)  # [B * C, T, V]
        else:
            labels = tf.reshape(arguments["labels"], tf.shape(hidden)[:2])  # [B * C, T]
            loss, logits = self.lm_loss(hidden, labels, training)
        column = arguments["mc_token_ids"]
        if column is not None:
            column = tf.reshape(tf.cast(column, tf.int32), [-1])  # [B * C]
        scores = self.multiple_choice_head(hidden, column=column, training=training)
        mc_logits = tf.reshape(scores, tf.concat([inputs.shape[:-1], [-1]], axis=0))
        mc_logits = tf.cast(mc_logits, tf.float32)  # [B, C, 1]
        mc_labels, mc_loss = arguments["mc_labels"], None
        if scores.shape[-1] == 1:
            mc_logits = tf.squeeze(mc_logits, -1)  # [B, C]
        elif mc_labels is not None:
            raise value_error(
                "`mc_labels` need one score per choice, and the summary gives a vector.",
                fix="Use summary_use_proj=True and summary_proj_to_labels=True.",
                scores=scores.shape[-1],
            )
        if mc_labels is not None:
            mc_loss = classification_loss(mc_logits, tf.reshape(mc_labels, [-1]))
        return TFGPT2DoubleHeadsModelOutput(
            loss=loss,
            mc_loss=mc_loss,
            logits=None if logits is None else unflatten(logits, inputs),
            mc_logits=mc_logits,
        )

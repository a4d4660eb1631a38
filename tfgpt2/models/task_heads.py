"""The models that label texts: classification, tagging, answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.call_inputs import Inputs
from tfgpt2.models.causal_lm import extras, returned, unflatten
from tfgpt2.nn.layers import Linear
from tfgpt2.nn.losses import classification_loss, sequence_loss, span_loss
from tfgpt2.outputs import (
    TFQuestionAnsweringModelOutput,
    TFSequenceClassifierOutputWithPast,
    TFTokenClassifierOutput,
)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForSequenceClassification(TFGPT2PreTrainedModel):
    """GPT-2 that classifies texts, or rates them, by their last token.

    Args:
        config: The configuration; `num_labels` or `id2label`, and `problem_type`, say what for.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, num_labels=3)
        >>> model = TFGPT2ForSequenceClassification(config)
        >>> model(tf.constant([[1, 2, 3]])).logits.shape
        TensorShape([1, 3])
    """

    head_parts = frozenset({"score"})
    float_labels = True

    def make_head(self) -> None:
        """Creates the map from a hidden state to the labels."""
        self.score = Linear(
            self.config.n_embd,
            self.config.num_labels,
            stddev=self.config.initializer_range,
            use_bias=False,
            name="score",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        super().build(input_shape)
        self.score.build()

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> TFSequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Classifies texts.

        A text's label is read off its last real token: the last column of the mask that is 1, or,
        without a mask, the last id that is not `config.pad_token_id`.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, as for the next nine.
            attention_mask: `[B, past + T]`.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            use_cache: Return `past_key_values`.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: `[B]` class numbers, `[B, num_labels]` zeros and ones for several labels at
                once, or real targets for a regression; see `losses.sequence_loss`.
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit, or the last tokens of several
                texts cannot be known.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForSequenceClassification.forward`.
        """
        inputs, done = self.encode(
            training,
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        last = _last_token(self.config, inputs, attention_mask)  # [B]
        vector = tf.gather(done.last, last, batch_dims=1)  # [B, D]
        logits = tf.cast(self.score(vector), tf.float32)  # [B, num_labels]
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, tf.convert_to_tensor(labels), self.config.problem_type)
        output = TFSequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            **extras(self, done, inputs, use_cache, output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForTokenClassification(TFGPT2PreTrainedModel):
    """GPT-2 that labels each token, for tagging and named entities.

    Args:
        config: The configuration; `num_labels` or `id2label` say what for. A foreign key
            `classifier_dropout` (else `hidden_dropout`, else 0.1) is the head's dropout rate.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, num_labels=3)
        >>> TFGPT2ForTokenClassification(config)(tf.constant([[1, 2]])).logits.shape
        TensorShape([1, 2, 3])
    """

    head_parts = frozenset({"classifier"})

    def make_head(self) -> None:
        """Creates the map from a hidden state to the labels."""
        rates = (getattr(self.config, f"{name}_dropout", None) for name in ("classifier", "hidden"))
        rate = next((rate for rate in rates if rate is not None), 0.1)
        self.dropout = keras.layers.Dropout(rate, dtype=self.dtype_policy)
        self.classifier = Linear(
            self.config.n_embd,
            self.config.num_labels,
            stddev=self.config.initializer_range,
            name="classifier",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        super().build(input_shape)
        self.classifier.build()

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Sequence[tf.Tensor] | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> TFTokenClassifierOutput | tuple[Any, ...]:
        """Labels tokens.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, as for the next five.
            attention_mask: `[B, past + T]`.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            use_cache: Return `past_key_values`; only when asked here, a tagger has no use for it.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: int `[B, T]` in `[0, num_labels)`, or -100 for "not scored".
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForTokenClassification.forward`.
        """
        inputs, done = self.encode(
            training,
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        hidden = self.dropout(done.last, training=training)
        logits = tf.cast(self.classifier(hidden), tf.float32)  # [B, T, num_labels]
        loss = None
        if labels is not None:
            loss = classification_loss(logits, tf.reshape(labels, tf.shape(logits)[:2]))
        output = TFTokenClassifierOutput(
            loss=loss,
            logits=unflatten(logits, inputs),
            **extras(self, done, inputs, bool(use_cache), output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForQuestionAnswering(TFGPT2PreTrainedModel):
    """GPT-2 that finds an answer in a text: a score for each token as its first and its last.

    Args:
        config: The configuration.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)
        >>> TFGPT2ForQuestionAnswering(config)(tf.constant([[1, 2]])).start_logits.shape
        TensorShape([1, 2])
    """

    head_parts = frozenset({"qa_outputs"})

    def make_head(self) -> None:
        """Creates the map from a hidden state to the two scores."""
        self.qa_outputs = Linear(
            self.config.n_embd,
            2,
            stddev=self.config.initializer_range,
            name="qa_outputs",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        super().build(input_shape)
        self.qa_outputs.build()

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        start_positions: tf.Tensor | None = None,
        end_positions: tf.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> TFQuestionAnsweringModelOutput | tuple[Any, ...]:
        """Finds answers.

        Args:
            input_ids: int `[B, T]`, question and text.
            attention_mask: See `TFGPT2Model.call`, as for the next four.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            start_positions: int `[B]`, the answer's first token; outside the text it is not
                scored. With `end_positions` it gives `loss`.
            end_positions: int `[B]`, the answer's last token.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit, or one of the two positions is
                missing.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForQuestionAnswering.forward`.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError(
                explain(
                    "`start_positions` and `end_positions` belong together.",
                    fix="Pass both for a loss, or neither.",
                    given="start_positions" if end_positions is None else "end_positions",
                )
            )
        inputs, done = self.encode(
            training,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        logits = tf.cast(self.qa_outputs(done.last), tf.float32)  # [B, T, 2]
        start, end = tf.unstack(logits, axis=-1)  # [B, T]
        loss = None
        if start_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        output = TFQuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            **extras(self, done, inputs, False, output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


def _last_token(config: Any, inputs: Inputs, attention_mask: tf.Tensor | None) -> tf.Tensor:
    """Finds each text's last real token: int32 `[B]`."""
    if attention_mask is not None and attention_mask.shape.rank == 4:
        raise ValueError(
            explain(
                "A mask from each token to each does not say where texts end.",
                fix="Pass a mask [B, T], 1 for tokens and 0 for padding.",
                attention_mask=f"shape {attention_mask.shape}",
            )
        )
    length = inputs.leading[-1]
    columns = tf.range(length)  # [T]
    if attention_mask is not None:
        real = tf.cast(tf.reshape(attention_mask, [-1, tf.shape(attention_mask)[-1]]), tf.bool)
        real = real[:, -length:]  # [B, T], without the past
    elif config.pad_token_id is not None and inputs.ids is not None:
        real = inputs.ids != config.pad_token_id  # [B, T]
    else:
        rows = inputs.ids if inputs.ids is not None else inputs.embeddings
        if rows.shape[0] not in (None, 1):
            raise ValueError(
                explain(
                    "The last token of each text is read, and nothing says where texts end.",
                    fix="Pass attention_mask, or set pad_token_id in the configuration.",
                    texts=rows.shape[0],
                )
            )
        real = tf.ones([tf.shape(rows)[0], length], tf.bool)
    return tf.reduce_max(tf.where(real, columns, 0), axis=1)  # [B]

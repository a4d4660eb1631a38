"""The models for tasks other than writing: double heads, classification, tagging, answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.modeling import activations
from tfgpt2.modeling.heads import TFGPT2LMHeadModel, extras, returned, unflatten
from tfgpt2.modeling.inputs import Inputs
from tfgpt2.modeling.layers import GPT2Layer, Linear
from tfgpt2.modeling.losses import classification_loss, sequence_loss, span_loss
from tfgpt2.modeling.pretrained import TFGPT2PreTrainedModel
from tfgpt2.outputs import (
    TFGPT2DoubleHeadsModelOutput,
    TFQuestionAnsweringModelOutput,
    TFSequenceClassifierOutputWithPast,
    TFTokenClassifierOutput,
)


class SequenceSummary(GPT2Layer):
    """One vector for a whole text: picked or averaged, then projected.

    Args:
        config: Its `summary_*` fields say how; see `GPT2Config`.
        **kwargs: Passed to `keras.layers.Layer`.

    Raises:
        ValueError: `summary_type` is `"attn"`, which transformers does not have either.

    Source: transformers 4.57, `modeling_gpt2.py::GPT2SequenceSummary`. There, `"last"`, `"first"`
        and `"mean"` run over the choices of a double-heads model and not over the tokens of each;
        here they do what their documentation says.
    """

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.summary_type == "attn":
            raise ValueError(
                explain(
                    "`summary_type` 'attn' names a summary that GPT-2 does not have.",
                    fix="Use 'cls_index', 'last', 'first' or 'mean'.",
                    summary_type=config.summary_type,
                )
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
        self, hidden: tf.Tensor, *, place: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Summarises texts.

        Args:
            hidden: Float `[B, T, D]`.
            place: int32 `[B]`, the token that stands for the text, for `"cls_index"`; None is the
                last column.
            training: Whether dropout acts.

        Returns:
            Float `[B, out]`.
        """
        if self.summary_type == "first":
            vector = hidden[:, 0]  # [B, D]
        elif self.summary_type == "mean":
            vector = tf.reduce_mean(hidden, axis=1)
        elif self.summary_type == "last" or place is None:
            vector = hidden[:, -1]
        else:
            vector = tf.gather(hidden, place, batch_dims=1)
        vector = self.dropout(vector, training=training)
        if self.summary is not None:
            vector = self.summary(vector)  # [B, out]
        return self.activation(vector)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2DoubleHeadsModel(TFGPT2LMHeadModel):
    """GPT-2 with two heads: language modeling, and choosing among texts.

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

    def make_head(self) -> None:
        """Creates the output matrix, when it has its own, and the head for choices."""
        self.config.num_labels = 1
        super().make_head()
        self.multiple_choice_head = SequenceSummary(
            self.config, name="multiple_choice_head", dtype=self.dtype_policy
        )

    def build(self, input_shape: object = None) -> None:
        """Creates all weights."""
        super().build(input_shape)
        self.multiple_choice_head.build()

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
            mc_token_ids: int `[B, C]` in `[0, T)`, the token that stands for each choice, such as
                a `[CLS]` at its end; None is the last column.
            use_cache: Return `past_key_values`.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: int `[B, C, T]` or -100, for `loss`; the shift by one happens inside.
            mc_labels: int `[B]` in `[0, C)`, the right choice, for `mc_loss`.
            training: Whether dropout acts.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2DoubleHeadsModel.forward`.
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
        if labels is None:
            loss, logits = None, self.score(done.last)  # [B * C, T, V]
        else:
            flat = tf.reshape(labels, tf.shape(done.last)[:2])  # [B * C, T]
            loss, logits = self.lm_loss(done.last, flat, training)
        place = None
        if mc_token_ids is not None:
            place = tf.reshape(tf.cast(mc_token_ids, tf.int32), [-1])  # [B * C]
        scores = self.multiple_choice_head(done.last, place=place, training=training)
        mc_logits = tf.reshape(scores, tf.concat([inputs.leading[:-1], [-1]], axis=0))
        mc_logits = tf.cast(mc_logits, tf.float32)  # [B, C, 1]
        if scores.shape[-1] == 1:
            mc_logits = tf.squeeze(mc_logits, -1)  # [B, C]
        elif mc_labels is not None:
            raise ValueError(
                explain(
                    "`mc_labels` need one score per choice, and the summary gives a vector.",
                    fix="Use summary_use_proj=True and summary_proj_to_labels=True.",
                    scores=scores.shape[-1],
                )
            )
        mc_loss = None
        if mc_labels is not None:
            mc_loss = classification_loss(mc_logits, tf.reshape(mc_labels, [-1]))
        output = TFGPT2DoubleHeadsModelOutput(
            loss=loss,
            mc_loss=mc_loss,
            logits=None if logits is None else unflatten(logits, inputs),
            mc_logits=mc_logits,
            **extras(self, done, inputs, use_cache, output_attentions, output_hidden_states),
        )
        return returned(self, output, return_dict)


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

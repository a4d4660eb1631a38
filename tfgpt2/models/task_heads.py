"""Task heads: sequence classification, token classification, question answering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.call_inputs import CallInputs
from tfgpt2.models.call_outputs import unflatten
from tfgpt2.nn.backbone import ForwardOutputs
from tfgpt2.nn.layers import Linear
from tfgpt2.nn.losses import (
    IGNORED_LABEL,
    Losses,
    classification_loss,
    sequence_loss,
    sequence_losses,
    span_loss,
    span_nll,
    token_nll,
)
from tfgpt2.outputs import (
    TFQuestionAnsweringModelOutput,
    TFSequenceClassifierOutputWithPast,
    TFTokenClassifierOutput,
)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForSequenceClassification(TFGPT2PreTrainedModel):
    """GPT-2 with a head for sequence classification or regression, on the last token.

    Args:
        config: The configuration; `num_labels` or `id2label`, and `problem_type`, define the task.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, num_labels=3)
        >>> model = TFGPT2ForSequenceClassification(config)
        >>> model(tf.constant([[1, 2, 3]])).logits.shape
        TensorShape([1, 3])
    """

    head_parts = frozenset({"score"})
    labels_texts = True
    float_labels = True

    def make_head(self) -> None:
        """Creates the projection to the labels."""
        self.score = _projection(self, "score", self.config.num_labels, use_bias=False)

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

        The head reads a text's last token: the last column of the mask that is 1, or, without a
        mask, the last id that is not `config.pad_token_id`.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, also for the next nine.
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
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit, or the last tokens of several
                texts are unknown.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForSequenceClassification.forward`.
        """
        return self.run(locals())

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """See `TrainableModel`."""
        wanted = tf.convert_to_tensor(labels["labels"])
        losses = sequence_losses(results["logits"], wanted, self.config.problem_type)
        return {"labels": losses}

    def hf_compute_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each text: labels as in a call, float `[B, num_labels]` -> `[B]`."""
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank == 1 and logits.shape[-1] > 1:  # as a compiled loss it gets floats
            labels = tf.cast(labels, tf.int32)
        return sequence_losses(logits, labels, self.config.problem_type).values

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFSequenceClassifierOutputWithPast:
        """Scores the labels of each text."""
        last = _last_token(self.config, inputs, arguments["attention_mask"])  # [B]
        vector = tf.gather(outputs.last_hidden_state, last, batch_dims=1)  # [B, D]
        logits = tf.cast(self.score(vector), tf.float32)  # [B, num_labels]
        labels, loss = arguments["labels"], None
        if labels is not None:
            loss = sequence_loss(logits, tf.convert_to_tensor(labels), self.config.problem_type)
        return TFSequenceClassifierOutputWithPast(loss=loss, logits=logits)


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForTokenClassification(TFGPT2PreTrainedModel):
    """GPT-2 with a head for token classification, such as named-entity recognition.

    Args:
        config: The configuration; `num_labels` or `id2label` define the labels. An extra key
            `classifier_dropout` (else `hidden_dropout`, else 0.1) is the head's dropout rate.
        **kwargs: `dtype` (Keras dtype policy), `name`, `trainable`.

    Example:
        >>> from tfgpt2 import GPT2Config
        >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, num_labels=3)
        >>> TFGPT2ForTokenClassification(config)(tf.constant([[1, 2]])).logits.shape
        TensorShape([1, 2, 3])
    """

    head_parts = frozenset({"classifier"})
    returns_cache = False

    def make_head(self) -> None:
        """Creates the dropout and the projection to the labels."""
        rates = (getattr(self.config, f"{name}_dropout", None) for name in ("classifier", "hidden"))
        rate = next((rate for rate in rates if rate is not None), 0.1)
        self.dropout = keras.layers.Dropout(rate, dtype=self.dtype_policy)
        self.classifier = _projection(self, "classifier", self.config.num_labels)

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
        """Classifies tokens.

        Args:
            input_ids: int `[B, T]`.
            past_key_values: See `TFGPT2Model.call`, also for the next five.
            attention_mask: `[B, past + T]`.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            use_cache: Return `past_key_values`; None is False here.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            labels: int `[B, T]` in `[0, num_labels)`, or -100 for "not scored".
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForTokenClassification.forward`.
        """
        return self.run(locals())

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """See `TrainableModel`."""
        return {"labels": token_nll(results["logits"], labels["labels"])}

    def hf_compute_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Mean loss: int `[B, T]` (negative: not scored), float `[B, T, num_labels]` -> `[1]`."""
        labels = tf.cast(labels, tf.int32)
        return classification_loss(logits, tf.where(labels < 0, IGNORED_LABEL, labels))[None]

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFTokenClassifierOutput:
        """Scores the labels of each token."""
        hidden = self.dropout(outputs.last_hidden_state, training=arguments["training"])
        logits = tf.cast(self.classifier(hidden), tf.float32)  # [B, T, num_labels]
        labels, loss = arguments["labels"], None
        if labels is not None:
            loss = classification_loss(logits, tf.reshape(labels, tf.shape(logits)[:2]))
        return TFTokenClassifierOutput(loss=loss, logits=unflatten(logits, inputs))


@keras.saving.register_keras_serializable("tfgpt2")
class TFGPT2ForQuestionAnswering(TFGPT2PreTrainedModel):
    """GPT-2 with a head for extractive question answering.

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
    returns_cache = False

    def make_head(self) -> None:
        """Creates the projection to the scores of a token as the first and the last one."""
        self.qa_outputs = _projection(self, "qa_outputs", 2)

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
            attention_mask: See `TFGPT2Model.call`, also for the next four.
            token_type_ids: int `[B, T]`.
            position_ids: int `[B, T]`.
            head_mask: Float `[N]` or `[L, N]`.
            inputs_embeds: Float `[B, T, D]`.
            start_positions: int `[B]`, the answer's first token, not scored if outside the text;
                adds `loss`, with `end_positions`.
            end_positions: int `[B]`, the answer's last token.
            output_attentions: Return the attention weights.
            output_hidden_states: Return all hidden states.
            return_dict: False returns a tuple.
            training: Whether dropout is applied.

        Raises:
            ValueError: A shape, an id or a length does not fit, or one of the two positions is
                missing.
            TypeError: An input has the wrong type or an unknown name.

        Source: transformers 4.57, `modeling_gpt2.py::GPT2ForQuestionAnswering.forward`.
        """
        return self.run(locals())

    def loss_parts(
        self, labels: Mapping[str, tf.Tensor], results: Mapping[str, tf.Tensor], training: bool
    ) -> dict[str, Losses]:
        """See `TrainableModel`."""
        names = ("start_positions", "end_positions")
        logits = (results["start_logits"], results["end_logits"])
        parts = span_nll(*logits, *(labels[name] for name in names))
        return {
            name: Losses(part.values / 2, part.scored)
            for name, part in zip(names, parts, strict=True)
        }

    def hf_compute_loss(
        self, labels: Mapping[str, tf.Tensor], logits: tuple[tf.Tensor, tf.Tensor]
    ) -> tf.Tensor:
        """The loss of each text.

        Args:
            labels: `start_position` and `end_position`, int `[B]`.
            logits: Scores of the first and of the last token, float `[B, T]` each.

        Returns:
            float32 `[B]`.
        """
        names = ("start_position", "end_position")
        parts = [
            token_nll(scores, tf.cast(labels[name], tf.int32))[0]
            for name, scores in zip(names, logits, strict=True)
        ]
        return (parts[0] + parts[1]) / 2

    def forward(
        self, inputs: CallInputs, outputs: ForwardOutputs, arguments: dict[str, Any]
    ) -> TFQuestionAnsweringModelOutput:
        """Scores each token as the first and as the last of the answer."""
        first, last = arguments["start_positions"], arguments["end_positions"]
        if (first is None) != (last is None):
            raise value_error(
                "`start_positions` and `end_positions` belong together.",
                fix="Pass both for a loss, or neither.",
                given="start_positions" if last is None else "end_positions",
            )
        logits = tf.cast(self.qa_outputs(outputs.last_hidden_state), tf.float32)  # [B, T, 2]
        start, end = tf.unstack(logits, axis=-1)  # [B, T]
        loss = None if first is None else span_loss(start, end, first, last)
        return TFQuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)


def _projection(
    model: TFGPT2PreTrainedModel, name: str, outputs: int, *, use_bias: bool = True
) -> Linear:
    """Creates a projection of hidden states."""
    config, policy = model.config, model.dtype_policy
    options = {"stddev": config.initializer_range, "use_bias": use_bias}
    return Linear(config.n_embd, outputs, name=name, dtype=policy, **options)


def _last_token(config: Any, inputs: CallInputs, attention_mask: tf.Tensor | None) -> tf.Tensor:
    """Finds the column of each text's last token: int32 `[B]`."""
    if attention_mask is not None and attention_mask.shape.rank == 4:
        raise value_error(
            "A mask for every pair of tokens does not show where texts end.",
            fix="Pass a mask [B, T], 1 for tokens and 0 for padding.",
            attention_mask=f"shape {attention_mask.shape}",
        )
    length = inputs.shape[-1]
    columns = tf.range(length)  # [T]
    if attention_mask is not None:
        valid = tf.cast(tf.reshape(attention_mask, [-1, tf.shape(attention_mask)[-1]]), tf.bool)
        valid = valid[:, -length:]  # [B, T], without the past
    elif config.pad_token_id is not None and inputs.ids is not None:
        valid = inputs.ids != config.pad_token_id  # [B, T]
    else:
        rows = inputs.ids if inputs.ids is not None else inputs.embeddings
        if rows.shape[0] not in (None, 1):
            raise value_error(
                "The head reads the last token of each text, and where texts end is unknown.",
                fix="Pass attention_mask, or set pad_token_id in the configuration.",
                texts=rows.shape[0],
            )
        valid = tf.ones([tf.shape(rows)[0], length], tf.bool)
    return tf.reduce_max(tf.where(valid, columns, 0), axis=1)  # [B]

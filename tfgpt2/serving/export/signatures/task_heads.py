"""Signatures of models with a task head: `classify`, `tag` and `answer`."""

from __future__ import annotations

from typing import Any, ClassVar

import tensorflow as tf

from tfgpt2.models.task_heads import (
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
)
from tfgpt2.serving.export.signatures.base import SignatureFn, Tensors
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

_MAX_ANSWER_TOKENS = 30
_MASK_VALUE = -1e9  # finite, so that sums stay numbers


class TaskSignatureFn(SignatureFn):
    """A signature of a model with a task head. It is not compiled by XLA.

    Args:
        model: A model of `model_class`.
        tokenizer: The tokenizer that belongs to it.

    Attributes:
        model_class: Class of the models that have this head.
    """

    model_class: ClassVar[type]

    def __init__(self, model: Any, tokenizer: TFGPT2Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def tokenize(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Texts, cut to the context: ids and mask int32 `[B, T]`, `T` at least 1."""
        return _dense(self.tokenizer.tokenize_rows(text, self.model.config.n_positions))


class Classify(TaskSignatureFn):
    """The label of each text, and the scores of all labels."""

    name = "classify"
    model_class = TFGPT2ForSequenceClassification

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> scores float32 `[B, C]`."""
        names, config = _label_names(self.model), self.model.config
        rows = tf.shape(inputs["text"])[0]
        ids, mask = self.tokenize(inputs["text"])
        # An empty text is one padding, however long its neighbours are.
        mask = tf.maximum(mask, tf.one_hot(0, tf.shape(mask)[1], dtype=tf.int32))  # [B, T]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # [B, C]
        if config.problem_type == "multi_label_classification":
            scores = tf.sigmoid(logits)
        elif logits.shape[-1] == 1 or config.problem_type == "regression":
            scores = logits
        else:
            scores = tf.nn.softmax(logits)
        return {
            "label": tf.gather(names, tf.argmax(logits, axis=-1)),
            "labels": tf.tile(names[None], [rows, 1]),  # [B, C]
            "scores": scores,
        }


class Tag(TaskSignatureFn):
    """The label of each token."""

    name = "tag"
    model_class = TFGPT2ForTokenClassification

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> tokens and labels string `[B, T]`."""
        names = _label_names(self.model)
        ids, mask = self.tokenize(inputs["text"])
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        real = mask > 0  # [B, T]; the logits are [B, T, C]
        pieces = self.tokenizer.detokenize_bytes(tf.reshape(ids, [-1, 1]))  # [B * T]
        return {
            "tokens_bytes": tf.where(real, tf.reshape(pieces, tf.shape(ids)), ""),  # [B, T]
            "labels": tf.where(real, tf.gather(names, tf.argmax(logits, axis=-1)), ""),
            "scores": tf.where(real, tf.reduce_max(tf.nn.softmax(logits), axis=-1), 0.0),
            "num_tokens": tf.reduce_sum(mask, axis=1),  # [B]
        }


class Answer(TaskSignatureFn):
    """The most likely span of the context as the answer to a question."""

    name = "answer"
    model_class = TFGPT2ForQuestionAnswering
    inputs = tuple(tf.TensorSpec([None], tf.string, name) for name in ("question", "context"))

    def __call__(self, inputs: Tensors) -> Tensors:
        """Strings `[B]` -> answer string `[B]`."""
        limit = self.model.config.n_positions
        question = self.tokenizer.tokenize(inputs["question"])[:, : limit // 2]  # [B, (Q)]
        context = self.tokenizer.tokenize(inputs["context"])
        tokens = tf.concat([question, context], axis=1)[:, :limit]  # [B, (T)]
        first = tf.cast(question.row_lengths(), tf.int32)  # [B], where the context begins
        length = tf.cast(tokens.row_lengths(), tf.int32)  # [B]
        ids, mask = _dense(tokens)
        out = self.model(input_ids=ids, attention_mask=mask)
        columns = tf.range(tf.shape(ids)[1])  # [T]
        inside = (columns >= first[:, None]) & (columns < length[:, None])  # [B, T]
        start, end = (
            tf.nn.log_softmax(tf.where(inside, logits, _MASK_VALUE))  # [B, T]
            for logits in (out.start_logits, out.end_logits)
        )
        begins, ends, score = _best_span(start, end)
        found = (score > _MASK_VALUE / 2) & (length > first)
        chosen = (columns >= begins[:, None]) & (columns <= ends[:, None]) & found[:, None]
        raw = self.tokenizer.detokenize_bytes(tf.where(chosen, ids, -1), skip_special_tokens=True)
        return {
            "text": tf.strings.unicode_transcode(raw, "UTF-8", "UTF-8", errors="replace"),
            "text_bytes": raw,
            "score": tf.where(found, tf.exp(score), 0.0),
            "start": tf.where(found, begins - first, -1),
            "end": tf.where(found, ends - first, -1),
        }


def _best_span(start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the most likely span of at most `_MAX_ANSWER_TOKENS` tokens.

    Args:
        start: float32 `[B, T]`, log-probability of each token as the first.
        end: float32 `[B, T]`, as the last.

    Returns:
        First and last token int32 `[B]`, and the log-probability of the pair `[B]`.
    """
    columns = tf.range(tf.shape(start)[1])
    after = columns[None, :] - columns[:, None]  # [T, T], last minus first
    allowed = (after >= 0) & (after < _MAX_ANSWER_TOKENS)
    scores = tf.where(allowed, start[:, :, None] + end[:, None, :], 2 * _MASK_VALUE)  # [B, T, T]
    flat = tf.reshape(scores, [tf.shape(start)[0], tf.size(columns) ** 2])  # [B, T * T]
    best = tf.argmax(flat, axis=1, output_type=tf.int32)
    return best // tf.size(columns), best % tf.size(columns), tf.reduce_max(flat, axis=1)


def _dense(tokens: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Ragged `[B, (T)]` -> ids and mask int32 `[B, T]`; an empty text becomes one padding."""
    ids = tokens.to_tensor(0)  # [B, T]
    ids = tf.pad(ids, [[0, 0], [0, tf.maximum(1 - tf.shape(ids)[1], 0)]])
    mask = tf.sequence_mask(tokens.row_lengths(), tf.shape(ids)[1], tf.int32)  # [B, T]
    return ids, mask


def _label_names(model: Any) -> tf.Tensor:
    """The names of the labels: string `[C]`."""
    labels = model.config.id2label
    return tf.constant([str(labels.get(i, f"LABEL_{i}")) for i in range(model.config.num_labels)])

"""The signatures of models with a task head: `classify`, `tag`, `answer`, from strings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.models.task_heads import (
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
)
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

_LONGEST_ANSWER = 30  # tokens
_TEXT = tf.TensorSpec([None], tf.string, name="text")
_HEADS = (TFGPT2ForSequenceClassification, TFGPT2ForTokenClassification, TFGPT2ForQuestionAnswering)

Signature = Callable[..., dict[str, tf.Tensor]]


def build(model: Any, tokenizer: TFGPT2Tokenizer) -> dict[str, Signature]:
    """Makes the signature of a model's head, under its own name and as `serving_default`.

    Args:
        model: A `TFGPT2ForSequenceClassification`, `TFGPT2ForTokenClassification` or
            `TFGPT2ForQuestionAnswering`.
        tokenizer: The tokenizer that belongs to it.

    Raises:
        TypeError: The model has no such head.
    """
    check_head(model)
    for head, name, make in zip(
        _HEADS, ("classify", "tag", "answer"), (_classify, _tag, _answer), strict=True
    ):
        if isinstance(model, head):
            function = make(model, tokenizer)
            return {"serving_default": function, name: function}
    raise NotImplementedError(type(model).__name__)  # a head without a signature


def check_head(model: Any) -> None:
    """Checks that a model has a head with a signature.

    Raises:
        TypeError: It has none.
    """
    if not isinstance(model, _HEADS):
        raise TypeError(
            explain(
                f"This export is for {', '.join(head.__name__ for head in _HEADS)}.",
                fix="Export a language model through TextGenerator(model, tokenizer).export(path).",
                model=type(model).__name__,
            )
        )


def _classify(model: Any, tokenizer: TFGPT2Tokenizer) -> Signature:
    names = _label_names(model)

    @tf.function(input_signature=[_TEXT], autograph=False)
    def classify(text: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(text)[0]
        ids, mask = _read(model, tokenizer, text)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # [B, C]
        if model.config.problem_type == "multi_label_classification":
            scores = tf.sigmoid(logits)
        elif logits.shape[-1] == 1 or model.config.problem_type == "regression":
            scores = logits
        else:
            scores = tf.nn.softmax(logits)
        return {
            "label": tf.gather(names, tf.argmax(logits, axis=-1)),
            "labels": tf.tile(names[None], [rows, 1]),  # [B, C]
            "scores": scores,
        }

    return classify


def _tag(model: Any, tokenizer: TFGPT2Tokenizer) -> Signature:
    names = _label_names(model)

    @tf.function(input_signature=[_TEXT], autograph=False)
    def tag(text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids, mask = _read(model, tokenizer, text)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # [B, T, C]
        real = mask > 0
        pieces = tokenizer.detokenize_bytes(tf.reshape(ids, [-1, 1]))  # [B * T]
        return {
            "tokens_bytes": tf.where(real, tf.reshape(pieces, tf.shape(ids)), ""),  # [B, T]
            "labels": tf.where(real, tf.gather(names, tf.argmax(logits, axis=-1)), ""),
            "scores": tf.where(real, tf.reduce_max(tf.nn.softmax(logits), axis=-1), 0.0),
            "num_tokens": tf.reduce_sum(mask, axis=1),  # [B]
        }

    return tag


def _answer(model: Any, tokenizer: TFGPT2Tokenizer) -> Signature:
    limit = model.config.n_positions

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name) for name in ("question", "context")
        ],
        autograph=False,
    )
    def answer(question: tf.Tensor, context: tf.Tensor) -> dict[str, tf.Tensor]:
        asked = tokenizer.tokenize(question)[:, : limit // 2]  # [B, (Q)]
        both = tf.concat([asked, tokenizer.tokenize(context)], axis=1)[:, :limit]  # [B, (T)]
        first = tf.cast(asked.row_lengths(), tf.int32)  # [B], where the context begins
        length = tf.cast(both.row_lengths(), tf.int32)  # [B]
        ids, mask = _dense(both)
        out = model(input_ids=ids, attention_mask=mask)
        columns = tf.range(tf.shape(ids)[1])  # [T]
        inside = (columns >= first[:, None]) & (columns < length[:, None])  # [B, T]
        start, end = (
            tf.nn.log_softmax(tf.where(inside, logits, _NEVER))  # [B, T]
            for logits in (out.start_logits, out.end_logits)
        )
        begins, ends, score = _best_span(start, end)
        found = (score > _NEVER / 2) & (length > first)
        chosen = (columns >= begins[:, None]) & (columns <= ends[:, None]) & found[:, None]
        raw = tokenizer.detokenize_bytes(tf.where(chosen, ids, -1), skip_special_tokens=True)
        return {
            "text": tf.strings.unicode_transcode(raw, "UTF-8", "UTF-8", errors="replace"),
            "text_bytes": raw,
            "score": tf.where(found, tf.exp(score), 0.0),
            "start": tf.where(found, begins - first, -1),
            "end": tf.where(found, ends - first, -1),
        }

    return answer


_NEVER = -1e9  # of what no token may be; finite, so that sums stay numbers


def _best_span(start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the likeliest span of at most `_LONGEST_ANSWER` tokens.

    Args:
        start: float32 `[B, T]`, log-probability of each token as the first.
        end: float32 `[B, T]`, as the last.

    Returns:
        First and last token int32 `[B]`, and the log-probability of the pair `[B]`.
    """
    columns = tf.range(tf.shape(start)[1])
    after = columns[None, :] - columns[:, None]  # [T, T], last minus first
    allowed = (after >= 0) & (after < _LONGEST_ANSWER)
    scores = tf.where(allowed, start[:, :, None] + end[:, None, :], 2 * _NEVER)  # [B, T, T]
    flat = tf.reshape(scores, [tf.shape(start)[0], tf.size(columns) ** 2])  # [B, T * T]
    best = tf.argmax(flat, axis=1, output_type=tf.int32)
    return best // tf.size(columns), best % tf.size(columns), tf.reduce_max(flat, axis=1)


def _read(model: Any, tokenizer: TFGPT2Tokenizer, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Tokenizes texts, cut to the context: ids and mask int32 `[B, T]`, `T` at least 1."""
    return _dense(tokenizer.tokenize(text)[:, : model.config.n_positions])


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

"""Datasets for question answering: spans of a text, and multiple choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.training.data import sources
from tfgpt2.training.data.columns import label_ids, list_column, text_column
from tfgpt2.training.data.padding import (
    LABEL_IGNORED,
    Padding,
    append_token,
    end_token,
    truncate_pair,
)
from tfgpt2.training.data.schedule import BatchSchedule


def qa_dataset(
    source: Any,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    *,
    question: str = "question",
    context: str = "context",
    answers: str = "answers",
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Questions, contexts and the span of the answer, for `TFGPT2ForQuestionAnswering`.

    A row is the question, truncated to half of `max_length`, and the context, truncated at its
    end, as in `export_task` when `max_length` is the model's context.

    Args:
        source: Rows with the three columns, as SQuAD has them.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of question and context.
        batch_size: Rows in a batch.
        question: Name of the column of questions.
        context: Name of the column of contexts.
        answers: Name of the column of answers: `{"text": [...], "answer_start": [...]}`, of which
            the first is used; `answer_start` counts characters, as Python does. Empty lists are a
            question without an answer.
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids` and `attention_mask`, int32 `[B, T]`, and `start_positions` and
        `end_positions`, int32 `[B]`: the tokens that hold the answer's first and last byte, or
        `max_length`, which is not scored, where the answer was truncated or there is none.

    Raises:
        ValueError: An answer is not at its `answer_start`, or a row has no such column or is empty.
        TypeError: A column holds values of another type, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> row = {"question": "Who?", "context": "It is Hamlet.",
        ...        "answers": {"text": ["Hamlet"], "answer_start": [6]}}
        >>> batch = next(iter(qa_dataset([row], tokenizer, 32, 1)))
        >>> span = slice(int(batch["start_positions"][0]), int(batch["end_positions"][0]) + 1)
        >>> tokenizer.detokenize(batch["input_ids"][0, span]).numpy()
        b' Hamlet'
    """
    schedule = BatchSchedule.from_options(batch_size, options)
    padding = Padding(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    rows = sources.read_rows(source)
    questions = tf.constant(text_column(rows, question))
    contexts = text_column(rows, context)
    spans = tf.constant(_spans(rows, contexts, answers), tf.int32)  # [rows, 2]
    contexts = tf.constant(contexts)
    sizes = tf.constant([len(token) for token in tokenizer.token_bytes], tf.int32)  # [V]

    def fetch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        asked = tokenizer.tokenize(tf.gather(questions, indices))[:, : max_length // 2]  # [B, (Q)]
        read = tokenizer.tokenize(tf.gather(contexts, indices))  # [B, (C)]
        both = tf.concat([asked, read], axis=1)[:, :max_length]  # [B, (T)]
        first, stop = tf.unstack(tf.gather(spans, indices), axis=1)  # [B]
        ends = _byte_ends(read, sizes).to_tensor(2**31 - 1)  # [B, C]
        # The token that holds a byte is the first one that ends after it.
        offset = tf.cast(asked.row_lengths(), tf.int32)  # [B]
        start = offset + _first_after(ends, first)
        end = offset + _first_after(ends, stop - 1)
        scored = (first >= 0) & (end < tf.cast(both.row_lengths(), tf.int32))
        ids, mask = padding.pad(both)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "start_positions": tf.where(scored, start, max_length),
            "end_positions": tf.where(scored, end, max_length),
        }

    return schedule.dataset(len(rows), fetch)


def _byte_ends(ids: tf.RaggedTensor, sizes: tf.Tensor) -> tf.RaggedTensor:
    """Where each token of a row ends in the row's text, int32 bytes `[B, (T)]`.

    Args:
        ids: int32 ragged `[B, (T)]`.
        sizes: int32 `[V]`, bytes of each token.
    """
    flat = tf.cumsum(tf.gather(sizes, ids.flat_values))  # [tokens]
    before = tf.concat([[0], flat], axis=0)
    return ids.with_flat_values(
        flat - tf.gather(tf.gather(before, ids.row_starts()), ids.value_rowids())
    )


def _first_after(ends: tf.Tensor, byte: tf.Tensor) -> tf.Tensor:
    """First column of sorted `ends` `[B, C]` that is greater than `byte` `[B]`: int32 `[B]`."""
    return tf.reduce_sum(tf.cast(ends <= byte[:, None], tf.int32), axis=1)


def _spans(rows: Sequence[Any], contexts: Sequence[bytes], name: str) -> np.ndarray:
    """First byte of each answer and the end of its last, int `[rows, 2]`; -1 for none."""
    found = []
    for number, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        value = sources.column(row, name, number)
        if not isinstance(value, Mapping) or not {"text", "answer_start"} <= value.keys():
            raise type_error(
                f"Column {name!r} of row {number} must hold answers as SQuAD has them.",
                fix="Write {'text': ['...'], 'answer_start': [0]}.",
                **{name: value},
            )
        texts, starts = (np.atleast_1d(value[key]).tolist() for key in ("text", "answer_start"))
        if not texts or not starts:
            found.append((-1, -1))
            continue
        answer, start = sources.text(texts[0], name, number).decode("utf-8"), int(starts[0])
        whole = context.decode("utf-8", "replace")
        if not answer or start < 0 or whole[start : start + len(answer)] != answer:
            raise value_error(
                "An answer must be in its context at `answer_start`, counted in characters.",
                fix="Correct or leave out the row.",
                row=number,
                answer=answer,
                answer_start=start,
                there=whole[max(start, 0) : start + len(answer)],
            )
        first = len(whole[:start].encode())
        found.append((first, first + len(answer.encode())))
    return np.array(found)


def multiple_choice_dataset(
    source: Any,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    *,
    lm_labels: bool = False,
    prompt: str = "prompt",
    choices: str = "choices",
    label: str = "label",
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Prompts with several continuations, for `TFGPT2DoubleHeadsModel`.

    Each choice is the prompt, the continuation and the end token, at which the choice is scored.
    A choice that is too long loses the beginning of its prompt first.

    Args:
        source: Rows with the three columns; all rows have the same number `C` of choices.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a choice.
        batch_size: Rows in a batch.
        lm_labels: Also train the language model on the correct continuations.
        prompt: Name of the column of prompts.
        choices: Name of the column of lists of continuations.
        label: Name of the column with the index of the correct choice, from 0.
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids` and `attention_mask`, int32 `[B, C, T]`, `mc_token_ids`, int32
        `[B, C]`, `mc_labels`, int32 `[B]`, and with `lm_labels` also `labels`, int32 `[B, C, T]`.

    Raises:
        ValueError: A label is out of range, or rows differ in their number of choices.
        TypeError: A column holds values of another type, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> row = {"prompt": "To be,", "choices": [" or not", " a fish"], "label": 0}
        >>> next(iter(multiple_choice_dataset([row], tokenizer, 16, 1)))["input_ids"].shape
        TensorShape([1, 2, 16])
    """
    schedule = BatchSchedule.from_options(batch_size, options)
    padding = Padding(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    end = end_token(tokenizer)
    rows = sources.read_rows(source)
    prompts = tf.constant(text_column(rows, prompt, allow_empty=True))
    texts = list_column(rows, choices)
    count = len(texts[0])
    correct = tf.constant(_correct_choices(rows, texts, label), tf.int32)  # [rows]
    continuations = tf.constant(texts)  # [rows, C]

    def fetch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        asked = tf.repeat(tf.gather(prompts, indices), count)  # [B * C]
        before = tokenizer.tokenize_prompts(asked)  # [B * C, (P)]
        after = tokenizer.tokenize(tf.reshape(tf.gather(continuations, indices), [-1]))
        # One token is reserved for the end token, which is never truncated.
        before, after = truncate_pair(before, after, max_length - 1)
        after = append_token(after, end)
        ids, mask = padding.pad(tf.concat([before, after], axis=1))  # [B * C, T]
        shape = [tf.shape(indices)[0], count, ids.shape[1] or tf.shape(ids)[1]]
        batch = {
            "input_ids": tf.reshape(ids, shape),  # [B, C, T]
            "attention_mask": tf.reshape(mask, shape),
            "mc_token_ids": tf.reshape(tf.reduce_sum(mask, axis=1) - 1, shape[:2]),  # [B, C]
            "mc_labels": tf.gather(correct, indices),  # [B]
        }
        if lm_labels:
            labels = tf.reshape(padding.completion_labels(before, after), shape)  # [B, C, T]
            chosen = tf.one_hot(batch["mc_labels"], count, True, False)[:, :, None]  # [B, C, 1]
            batch["labels"] = tf.where(chosen, labels, LABEL_IGNORED)  # [B, C, T]
        return batch

    return schedule.dataset(len(rows), fetch)


def _correct_choices(
    rows: Sequence[Any], texts: Sequence[Sequence[bytes]], name: str
) -> list[np.ndarray]:
    found = []
    for number, (row, choices) in enumerate(zip(rows, texts, strict=True)):
        if len(choices) != len(texts[0]):
            raise value_error(
                "All rows must have the same number of choices.",
                fix="Make a dataset for each number.",
                row=number,
                choices=len(choices),
                expected=len(texts[0]),
            )
        value = label_ids(sources.column(row, name, number), name, number, None, len(choices))
        if value.ndim:
            raise value_error(
                "The label must be one number.", fix="Pass one.", row=number, label=value
            )
        found.append(value)
    return found

"""Datasets for classification: labels of whole texts, and of the words of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.training.data import sources
from tfgpt2.training.data.columns import count_labels, label_ids, list_column, text_column
from tfgpt2.training.data.padding import LABEL_IGNORED, Padding
from tfgpt2.training.data.schedule import BatchSchedule
from tfgpt2.validation import check_choice


def classification_dataset(
    source: Any,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    *,
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    text: str = "text",
    label: str = "label",
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Texts with one class, several classes, or values, for `TFGPT2ForSequenceClassification`.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a text; longer ones lose their end, as in `export_task`.
        batch_size: Rows in a batch.
        num_labels: `config.num_labels`.
        label_names: Names of the classes in order, instead of `num_labels`; labels may then be
            names.
        text: Name of the column of texts.
        label: Name of the column of labels: an integer or a name (one class), a list of
            `num_labels` numbers (several classes as zeros and ones, or several values), or a float
            (one value).
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids` and `attention_mask`, int32 `[B, T]`, and `labels`: int32 `[B]`, or
        float32 `[B]` or `[B, num_labels]`.

    Raises:
        ValueError: A label is out of range, a row has no such column or an empty text.
        TypeError: A column holds values of another type, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"text": "Alas!", "label": "sad"}]
        >>> data = classification_dataset(rows, tokenizer, 8, 1, label_names=["glad", "sad"])
        >>> next(iter(data))["labels"].numpy().tolist()
        [1]
    """
    schedule = BatchSchedule.from_options(batch_size, options)
    padding = Padding(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    count = count_labels(num_labels, label_names)
    rows = sources.read_rows(source)
    texts = tf.constant(text_column(rows, text))
    labels = tf.constant(_text_labels(rows, label, label_names, count))

    def fetch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        ids, mask = padding.pad(tokenizer.tokenize_rows(tf.gather(texts, indices), max_length))
        return {"input_ids": ids, "attention_mask": mask, "labels": tf.gather(labels, indices)}

    return schedule.dataset(len(rows), fetch)


def _text_labels(
    rows: Sequence[Any], name: str, label_names: Sequence[str] | None, count: int
) -> np.ndarray:
    """Labels of all rows: int32 `[rows]`, float32 `[rows]` or `[rows, count]`."""
    found = []
    for number, row in enumerate(rows):
        value = sources.column(row, name, number)
        if label_names is not None and isinstance(value, (str, bytes)):
            array = label_ids(value, name, number, label_names, count)
        else:
            array = sources.numbers(value, name, number)
        if array.ndim == 0 and array.dtype.kind in "biu":
            array = label_ids(array, name, number, None, count)
        elif array.ndim == 1 and len(array) != count:
            raise value_error(
                f"A list of labels must hold {count} numbers, one for each label.",
                fix="Give 1 for the classes that hold and 0 for the others.",
                row=number,
                **{name: value},
            )
        elif not np.isfinite(array).all():
            raise value_error(
                "A label must be finite.", fix="Leave such rows out.", row=number, label=value
            )
        found.append(array)
    kinds = {(array.ndim, array.dtype.kind in "biu" and array.ndim == 0) for array in found}
    if len(kinds) > 1:
        raise value_error(
            "Labels must be of one kind: integers, floats, or lists.",
            fix="Write values as floats in all rows.",
            **{name: [found[0].tolist(), found[-1].tolist()]},
        )
    integers = next(iter(kinds))[1]
    return np.stack(found).astype(np.int32 if integers else np.float32)


def tagging_dataset(
    source: Any,
    tokenizer: Any,
    max_length: int,
    batch_size: int,
    *,
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    label_on: str = "last",
    words: str = "words",
    labels: str = "labels",
    pad_to_multiple_of: int | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Lists of words with labels, for `TFGPT2ForTokenClassification`.

    Words are tokenized one by one with a space before each, as transformers does with
    `is_split_into_words=True` and `add_prefix_space=True`.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a row; longer ones lose their end.
        batch_size: Rows in a batch.
        num_labels: `config.num_labels`.
        label_names: Names of the labels in order, instead of `num_labels`.
        label_on: The token of a word that has its label: `"first"`, `"last"` (the only one at
            which GPT-2 has read the whole word) or `"all"`. Other tokens have -100.
        words: Name of the column of lists of words.
        labels: Name of the column of lists of labels, integers or names, one for each word.
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.BatchSchedule`.

    Returns:
        Batches of `input_ids`, `attention_mask` and `labels`, int32 `[B, T]`.

    Raises:
        ValueError: A label is out of range, words and labels differ in number, or a row lacks them.
        TypeError: A column holds values of another type, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"words": ["Good", "Hamlet"], "labels": [0, 1]}]
        >>> batch = next(iter(tagging_dataset(rows, tokenizer, 8, 1, num_labels=2)))
        >>> sorted(set(batch["labels"].numpy().ravel().tolist()))
        [-100, 0, 1]
    """
    check_choice("label_on", label_on, ("first", "last", "all"))
    schedule = BatchSchedule.from_options(batch_size, options)
    padding = Padding(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    count = count_labels(num_labels, label_names)
    rows = sources.read_rows(source)
    word_lists = list_column(rows, words)
    label_lists = _word_labels(rows, word_lists, labels, label_names, count)
    sizes = [len(row) for row in word_lists]
    all_words = tf.RaggedTensor.from_row_lengths(
        tf.constant([b" " + word for row in word_lists for word in row]), sizes
    )
    all_labels = tf.RaggedTensor.from_row_lengths(tf.constant(np.concatenate(label_lists)), sizes)

    def fetch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        texts, tags = tf.gather(all_words, indices), tf.gather(all_labels, indices)  # [B, (W)]
        tokens = tokenizer.tokenize(texts.flat_values)  # [words, (T)]
        token_labels = _token_labels(tags.flat_values, tokens, label_on)  # [tokens]
        splits = tf.gather(tokens.row_splits, texts.row_splits)  # [B + 1]
        ids = tf.RaggedTensor.from_row_splits(tokens.flat_values, splits)[:, :max_length]
        label_rows = tf.RaggedTensor.from_row_splits(token_labels, splits)[:, :max_length]
        ids, mask = padding.pad(ids)  # [B, T]
        labels, _ = padding.pad(label_rows, fill=LABEL_IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return schedule.dataset(len(rows), fetch)


def _token_labels(labels: tf.Tensor, tokens: tf.RaggedTensor, label_on: str) -> tf.Tensor:
    """Labels of the tokens `[words, (T)]` of words with labels `[words]`: int32 `[tokens]`."""
    repeated = tf.gather(labels, tokens.value_rowids())  # [tokens]
    if label_on == "all":
        return repeated
    position = tf.range(tf.size(repeated, tf.int64))
    chosen = tokens.row_starts() if label_on == "first" else tokens.row_limits() - 1
    labelled = position == tf.gather(chosen, tokens.value_rowids())
    return tf.where(labelled, repeated, LABEL_IGNORED)


def _word_labels(
    rows: Sequence[Any],
    words: Sequence[Sequence[bytes]],
    name: str,
    label_names: Sequence[str] | None,
    count: int,
) -> list[np.ndarray]:
    found = []
    for number, (row, word_list) in enumerate(zip(rows, words, strict=True)):
        value = sources.column(row, name, number)
        array = label_ids(value, name, number, label_names, count)
        if array.shape != (len(word_list),):
            raise value_error(
                "There must be one label for each word.",
                fix="Correct or leave out the row.",
                row=number,
                words=len(word_list),
                labels=array.tolist(),
            )
        found.append(array)
    return found

"""Data of the heads that label: whole texts, and words of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.tokenizers.text_inputs import check_choice, check_names
from tfgpt2.training.data import columns as table
from tfgpt2.training.data import schedule as order
from tfgpt2.training.data import sources

_ORDER = tuple(field.name for field in dataclasses.fields(order.Order))


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
    """Texts with a class, several classes, or a value, for `TFGPT2ForSequenceClassification`.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a text; what is longer loses its end, as in `export_task`.
        batch_size: Rows in a batch.
        num_labels: `config.num_labels`.
        label_names: Names of the classes in order, in place of `num_labels`; labels may then be
            names.
        text: Name of the column of texts.
        label: Name of the column of labels: an integer or a name (one class), a list of
            `num_labels` numbers (several classes as zeros and ones, or several values), or a float
            (a value).
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.Order`.

    Returns:
        Batches of `input_ids` and `attention_mask`, int32 `[B, T]`, and `labels`: int32 `[B]`, or
        float32 `[B]` or `[B, num_labels]`.

    Raises:
        ValueError: A label is out of range, a row has no such column or an empty text.
        TypeError: A column holds something else, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"text": "Alas!", "label": "sad"}]
        >>> data = classification_dataset(rows, tokenizer, 8, 1, label_names=["glad", "sad"])
        >>> next(iter(data))["labels"].numpy().tolist()
        [1]
    """
    check_names(options, _ORDER)
    deal = order.Order(batch_size=batch_size, **options)
    width = table.Width(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    count = table.count_labels(num_labels, label_names)
    rows = table.read(source)
    texts = tf.constant(table.texts(rows, text))
    labels = tf.constant(_text_labels(rows, label, label_names, count))

    def fetch(places: tf.Tensor) -> dict[str, tf.Tensor]:
        ids, mask = width.pad(tokenizer.tokenize(tf.gather(texts, places))[:, :max_length])
        return {"input_ids": ids, "attention_mask": mask, "labels": tf.gather(labels, places)}

    return order.dataset(len(rows), fetch, deal)


def _text_labels(
    rows: Sequence[Any], name: str, label_names: Sequence[str] | None, count: int
) -> np.ndarray:
    """Labels of all rows: int32 `[rows]`, float32 `[rows]` or `[rows, count]`."""
    found = []
    for number, row in enumerate(rows):
        value = sources.column(row, name, number)
        if label_names is not None and isinstance(value, (str, bytes)):
            array = table.label_numbers(value, name, number, label_names, count)
        else:
            array = sources.numbers(value, name, number)
        if array.ndim == 0 and array.dtype.kind in "biu":
            array = table.label_numbers(array, name, number, None, count)
        elif array.ndim == 1 and len(array) != count:
            raise ValueError(
                explain(
                    f"A list of labels must hold {count} numbers, one for each label.",
                    fix="Give 1 for the classes that hold and 0 for the others.",
                    row=number,
                    **{name: value},
                )
            )
        elif not np.isfinite(array).all():
            raise ValueError(
                explain(
                    "A label must be finite.", fix="Leave such rows out.", row=number, label=value
                )
            )
        found.append(array)
    kinds = {(array.ndim, array.dtype.kind in "biu" and array.ndim == 0) for array in found}
    if len(kinds) > 1:
        raise ValueError(
            explain(
                "Labels must be of one kind: integers, floats, or lists.",
                fix="Write values as floats in all rows.",
                **{name: [found[0].tolist(), found[-1].tolist()]},
            )
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
    """Words with labels, for `TFGPT2ForTokenClassification`.

    Words are tokenized one by one with a space before each, as transformers does with
    `is_split_into_words=True` and `add_prefix_space=True`.

    Args:
        source: Rows with the two columns.
        tokenizer: A `TFGPT2Tokenizer`.
        max_length: Most tokens of a row; what is longer loses its end.
        batch_size: Rows in a batch.
        num_labels: `config.num_labels`.
        label_names: Names of the labels in order, in place of `num_labels`.
        label_on: The token of a word that carries its label: `"first"`, `"last"` (the only one at
            which GPT-2 has read the whole word) or `"all"`. The others have -100.
        words: Name of the column of lists of words.
        labels: Name of the column of lists of labels, integers or names, one for each word.
        pad_to_multiple_of: See `completion_dataset`.
        **options: See `tfgpt2.training.data.schedule.Order`.

    Returns:
        Batches of `input_ids`, `attention_mask` and `labels`, int32 `[B, T]`.

    Raises:
        ValueError: A label is out of range, words and labels differ in number, or a row lacks them.
        TypeError: A column holds something else, or there is no such option.

    Example:
        >>> from tfgpt2 import TFGPT2Tokenizer
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("shakespeare-tiny")
        >>> rows = [{"words": ["Good", "Hamlet"], "labels": [0, 1]}]
        >>> batch = next(iter(tagging_dataset(rows, tokenizer, 8, 1, num_labels=2)))
        >>> sorted(set(batch["labels"].numpy().ravel().tolist()))
        [-100, 0, 1]
    """
    check_names(options, _ORDER)
    check_choice("label_on", label_on, ("first", "last", "all"))
    deal = order.Order(batch_size=batch_size, **options)
    width = table.Width(max_length, pad_to_multiple_of, tokenizer.pad_token_id)
    count = table.count_labels(num_labels, label_names)
    rows = table.read(source)
    spoken = table.lists(rows, words)
    tags = _word_labels(rows, spoken, labels, label_names, count)
    sizes = [len(row) for row in spoken]
    all_words = tf.RaggedTensor.from_row_lengths(
        tf.constant([b" " + word for row in spoken for word in row]), sizes
    )
    all_tags = tf.RaggedTensor.from_row_lengths(tf.constant(np.concatenate(tags)), sizes)

    def fetch(places: tf.Tensor) -> dict[str, tf.Tensor]:
        texts, tags = tf.gather(all_words, places), tf.gather(all_tags, places)  # [B, (W)]
        tokens = tokenizer.tokenize(texts.flat_values)  # [words, (T)]
        found = _on_tokens(tags.flat_values, tokens, label_on)  # [tokens]
        borders = tf.gather(tokens.row_splits, texts.row_splits)  # [B + 1]
        ids = tf.RaggedTensor.from_row_splits(tokens.flat_values, borders)[:, :max_length]
        found = tf.RaggedTensor.from_row_splits(found, borders)[:, :max_length]
        ids, mask = width.pad(ids)  # [B, T]
        return {"input_ids": ids, "attention_mask": mask, "labels": width.pad(found, -100)[0]}

    return order.dataset(len(rows), fetch, deal)


def _on_tokens(labels: tf.Tensor, tokens: tf.RaggedTensor, label_on: str) -> tf.Tensor:
    """Gives the labels of words `[words]` to their tokens `[words, (T)]`: int32 `[tokens]`."""
    found = tf.gather(labels, tokens.value_rowids())  # [tokens]
    if label_on == "all":
        return found
    place = tf.range(tf.size(found, tf.int64))
    chosen = tokens.row_starts() if label_on == "first" else tokens.row_limits() - 1
    return tf.where(place == tf.gather(chosen, tokens.value_rowids()), found, -100)


def _word_labels(
    rows: Sequence[Any],
    words: Sequence[Sequence[bytes]],
    name: str,
    label_names: Sequence[str] | None,
    count: int,
) -> list[np.ndarray]:
    found = []
    for number, (row, spoken) in enumerate(zip(rows, words, strict=True)):
        value = sources.column(row, name, number)
        array = table.label_numbers(value, name, number, label_names, count)
        if array.shape != (len(spoken),):
            raise ValueError(
                explain(
                    "There must be one label for each word.",
                    fix="Correct or leave out the row.",
                    row=number,
                    words=len(spoken),
                    labels=array.tolist(),
                )
            )
        found.append(array)
    return found

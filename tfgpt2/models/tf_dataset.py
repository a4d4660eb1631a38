"""`prepare_tf_dataset`: a dataset of examples becomes the `tf.data` batches that `fit` takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.models.call_arguments import LABELS
from tfgpt2.tokenizers.collators import DataCollatorWithPadding, DefaultDataCollator

_LABEL_COLUMNS = ("label", "label_ids")


def prepare_tf_dataset(
    model: keras.Model,
    dataset: Any,
    batch_size: int = 8,
    *,
    shuffle: bool = True,
    tokenizer: Any = None,
    collate_fn: Callable[..., Mapping[str, Any]] | None = None,
    collate_fn_args: Mapping[str, Any] | None = None,
    drop_remainder: bool | None = None,
    prefetch: bool = True,
) -> tf.data.Dataset:
    """Makes batches for a model; see `TFGPT2PreTrainedModel.prepare_tf_dataset`."""
    examples = _Examples(dataset, inspect.signature(model.call).parameters)
    if collate_fn is None:
        collate_fn = DefaultDataCollator("np") if tokenizer is None else DataCollatorWithPadding(
            tokenizer, return_tensors="np")  # fmt: skip
    options = dict(collate_fn_args or {})
    drop = shuffle if drop_remainder is None else drop_remainder
    count, size = len(examples), batch_size
    batches = count // size if drop else math.ceil(count / size)
    if not batches:
        raise value_error(
            "The dataset does not fill one batch.",
            fix="Pass a smaller batch_size, or drop_remainder=False.",
            examples=count,
            batch_size=size,
        )

    def batch(numbers: Sequence[int]) -> dict[str, np.ndarray]:
        made = collate_fn([examples[int(i)] for i in numbers], **options)
        return {name: np.asarray(column) for name, column in made.items()}

    def generate() -> Iterator[Any]:
        order = np.random.permutation(count) if shuffle else np.arange(count)
        for start in range(0, batches * size, size):
            yield _split(batch(order[start : start + size]))

    sample = _split(batch(range(min(size, count))))
    spec = tf.nest.map_structure(
        lambda x: tf.TensorSpec([size if drop else None, *[None] * (x.ndim - 1)], x.dtype), sample
    )
    made = tf.data.Dataset.from_generator(generate, output_signature=spec)
    made = made.apply(tf.data.experimental.assert_cardinality(batches))
    return made.prefetch(tf.data.AUTOTUNE) if prefetch else made


class _Examples:
    """The columns of a dataset that a model reads, example by example.

    Args:
        dataset: A `datasets.Dataset`, a dict of columns, or a list of dicts.
        known: The inputs of the model.
    """

    def __init__(self, dataset: Any, known: Any) -> None:
        is_columns = isinstance(dataset, Mapping)
        first = dataset if is_columns else dataset[0] if len(dataset) else {}
        if not isinstance(first, Mapping):
            raise type_error(
                "A dataset holds examples, dicts of a model's inputs.",
                fix="Pass a datasets.Dataset, a dict of columns, or a list of dicts.",
                dataset=dataset,
            )
        self._names = [name for name in first if name in known or name in _LABEL_COLUMNS]
        if not self._names:
            raise value_error(
                "No column of the dataset is an input of the model.",
                fix="Tokenize the texts first: dataset.map(lambda row: tokenizer(row['text'])).",
                columns=list(first),
            )
        self._data, self._is_columns = dataset, is_columns

    def __len__(self) -> int:
        return len(self._data[self._names[0]]) if self._is_columns else len(self._data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self._is_columns:
            return {name: self._data[name][number] for name in self._names}
        row = self._data[number]
        return {name: row[name] for name in self._names}


def _split(batch: dict[str, np.ndarray]) -> Any:
    """Inputs and labels of a batch; a single one of either is an array of its own."""
    inputs = {name: value for name, value in batch.items() if name not in LABELS}
    labels = {name: value for name, value in batch.items() if name in LABELS}
    x, y = (
        next(iter(part.values())) if len(part) == 1 else part for part in (inputs, labels)
    )  # fmt: skip
    return (x, y) if labels else x

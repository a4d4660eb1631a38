"""Rows of a source as columns in memory, and ragged rows of tokens as batches of one width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest
from tfgpt2.tokenizers.text_inputs import check_count
from tfgpt2.training.data import sources


@dataclasses.dataclass(frozen=True)
class Width:
    """How wide a batch of rows is.

    Attributes:
        max_length: Most columns.
        multiple: None pads to `max_length`; a number pads to the longest row, rounded up to it.
        pad_token_id: Fills shorter rows.

    Raises:
        ValueError: A number is out of range.
    """

    max_length: int
    multiple: int | None
    pad_token_id: int

    def __post_init__(self) -> None:
        if self.max_length is None:
            raise ValueError(
                explain("A row needs a length.", fix="Pass `max_length`.", max_length=None)
            )
        check_count("max_length", self.max_length, least=2)
        check_count("pad_to_multiple_of", self.multiple, least=1)

    def pad(self, rows: tf.RaggedTensor, fill: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Ragged `[B, (T)]`, of `max_length` columns at most -> values and mask int32 `[B, T]`."""
        fill = self.pad_token_id if fill is None else fill
        if self.multiple is None:
            values = rows.to_tensor(fill, shape=[None, self.max_length])  # [B, T]
        else:
            values = rows.to_tensor(fill)  # [B, longest]
            longest = tf.maximum(tf.shape(values)[1], 1)
            width = tf.minimum(-(-longest // self.multiple) * self.multiple, self.max_length)
            extra = width - tf.shape(values)[1]
            values = tf.pad(values, [[0, 0], [0, extra]], constant_values=fill)  # [B, T]
        mask = tf.sequence_mask(rows.row_lengths(), tf.shape(values)[1], tf.int32)
        return tf.cast(values, tf.int32), mask


def read(source: Any) -> list[Mapping[str, Any]]:
    """All rows of a source.

    Raises:
        ValueError: There is none.
    """
    rows = list(sources.rows(source))
    if not rows:
        raise ValueError(explain("The source holds no rows.", fix="Check the file names.", rows=0))
    return rows


def texts(
    rows: Sequence[Mapping[str, Any]], name: str, *, may_be_empty: bool = False
) -> list[bytes]:
    """A column of texts.

    Raises:
        ValueError: A row has no such column, or an empty text.
        TypeError: There is something else in it.
    """
    found = []
    for number, row in enumerate(rows):
        value = sources.text(sources.column(row, name, number), name, number)
        if not value and not may_be_empty:
            raise ValueError(
                explain(
                    f"Column {name!r} of row {number} is an empty text.",
                    fix="Leave such rows out.",
                    **{name: ""},
                )
            )
        found.append(value)
    return found


def lists(rows: Sequence[Mapping[str, Any]], name: str) -> list[list[bytes]]:
    """A column of lists of texts, none of them empty.

    Raises:
        ValueError: A row has no such column, or an empty list.
        TypeError: There is something else in it.
    """
    found = []
    for number, row in enumerate(rows):
        values = sources.column(row, name, number)
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise TypeError(
                explain(
                    f"Column {name!r} of row {number} must hold a list of texts.",
                    fix="Split texts first.",
                    **{name: values},
                )
            )
        if not len(values):
            raise ValueError(
                explain(
                    f"Column {name!r} of row {number} is an empty list.",
                    fix="Leave such rows out.",
                    **{name: values},
                )
            )
        found.append([sources.text(value, name, number) for value in values])
    return found


def label_numbers(
    value: Any, name: str, number: int, label_names: Sequence[str] | None, limit: int | None
) -> np.ndarray:
    """A row's label or labels as integers in `[0, limit)` or -100.

    Args:
        value: A number, a name, or a list of them.
        name: Name of the column.
        number: Number of the row.
        label_names: The labels' names in order, where names are allowed.
        limit: How many labels there are.

    Raises:
        ValueError: A label is out of range, or has no such name.
        TypeError: There is something else in the column.
    """
    if label_names is not None:
        value = _numbered(value, label_names)
    array = sources.numbers(value, name, number)
    wrong = array[(array != -100) & ((array < 0) | (array >= limit))]
    if array.dtype.kind not in "biu" or wrong.size:
        raise ValueError(
            explain(
                f"Labels must be integers in [0, {limit}), or -100 for 'not scored'.",
                fix="Count labels from 0, and check `num_labels`.",
                row=number,
                **{name: value if not wrong.size else wrong.flat[0].item()},
            )
        )
    return array.astype(np.int32)


def _numbered(value: Any, label_names: Sequence[str]) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        if value not in label_names:
            raise ValueError(
                explain(
                    "There is no label of this name.",
                    fix=nearest(value, label_names),
                    label=value,
                )
            )
        return list(label_names).index(value)
    if isinstance(value, (list, tuple)):
        return [_numbered(part, label_names) for part in value]
    return value


def count_labels(num_labels: int | None, label_names: Sequence[str] | None) -> int:
    """How many labels there are.

    Raises:
        ValueError: Neither the number nor the names say so, or they do not agree.
    """
    check_count("num_labels", num_labels, least=1)
    if label_names is None and num_labels is None:
        raise ValueError(
            explain(
                "The number of labels must be known, to check the data against it.",
                fix="Pass `num_labels` or `label_names`, as in the model's configuration.",
                num_labels=None,
            )
        )
    if label_names is not None and num_labels not in (None, len(label_names)):
        raise ValueError(
            explain(
                "`num_labels` and `label_names` do not agree.",
                fix="Pass one of them.",
                num_labels=num_labels,
                label_names=label_names,
            )
        )
    return len(label_names) if label_names is not None else num_labels


def end_token(tokenizer: Any) -> int:
    """The tokenizer's end token.

    Raises:
        ValueError: It has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            explain(
                "The tokenizer has no end token.",
                fix="Load it with `eos_token='<|endoftext|>'`.",
                eos_token_id=None,
            )
        )
    return tokenizer.eos_token_id


def append(rows: tf.RaggedTensor, token: int) -> tf.RaggedTensor:
    """Puts a token at the end of each row `[B, (T)]`."""
    return tf.concat([rows, tf.fill([rows.nrows(), 1], tf.cast(token, rows.dtype))], axis=1)


def fit_together(
    before: tf.RaggedTensor, after: tf.RaggedTensor, max_length: int
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Cuts two texts to `max_length` tokens together: the first at its beginning.

    Args:
        before: Ragged `[B, (P)]`; loses its beginning, and keeps at least one token.
        after: Ragged `[B, (C)]`; loses its end, where it alone is too long.
        max_length: Most tokens of both.
    """
    some = tf.minimum(before.row_lengths(), 1)  # [B]
    after = _kept(after, first=tf.zeros_like(some), stop=max_length - some)
    room = max_length - after.row_lengths()  # [B]
    lengths = before.row_lengths()
    return _kept(before, first=tf.maximum(lengths - room, 0), stop=lengths), after


def _kept(rows: tf.RaggedTensor, first: tf.Tensor, stop: tf.Tensor) -> tf.RaggedTensor:
    """Keeps the columns `first <= column < stop`, int64 `[B]`, of each row."""
    owner = rows.value_rowids()
    column = tf.range(tf.size(owner, tf.int64)) - tf.gather(rows.row_starts(), owner)
    keep = (column >= tf.gather(first, owner)) & (column < tf.gather(stop, owner))
    return tf.ragged.boolean_mask(rows, rows.with_values(keep))


def byte_ends(ids: tf.RaggedTensor, sizes: tf.Tensor) -> tf.RaggedTensor:
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

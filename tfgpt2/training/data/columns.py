"""Columns of a source in memory: texts, lists of texts, and labels, checked row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.training.data import sources
from tfgpt2.training.data.padding import LABEL_IGNORED
from tfgpt2.validation import check_count


def text_column(
    rows: Sequence[Mapping[str, Any]], name: str, *, allow_empty: bool = False
) -> list[bytes]:
    """A column of texts.

    Raises:
        ValueError: A row has no such column, or an empty text.
        TypeError: A value is not a text.
    """
    found = []
    for number, row in enumerate(rows):
        value = sources.text(sources.column(row, name, number), name, number)
        if not value and not allow_empty:
            raise _empty("text", name, number, "")
        found.append(value)
    return found


def list_column(rows: Sequence[Mapping[str, Any]], name: str) -> list[list[bytes]]:
    """A column of lists of texts, none of them empty.

    Raises:
        ValueError: A row has no such column, or an empty list.
        TypeError: A value is not a list of texts.
    """
    found = []
    for number, row in enumerate(rows):
        values = sources.column(row, name, number)
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise type_error(
                f"Column {name!r} of row {number} must hold a list of texts.",
                fix="Split texts first.",
                **{name: values},
            )
        if not len(values):
            raise _empty("list", name, number, values)
        found.append([sources.text(value, name, number) for value in values])
    return found


def _empty(kind: str, name: str, number: int, value: Any) -> ValueError:
    return value_error(
        f"Column {name!r} of row {number} is an empty {kind}.",
        fix="Leave such rows out.",
        **{name: value},
    )


def label_ids(
    value: Any, name: str, number: int, label_names: Sequence[str] | None, num_labels: int
) -> np.ndarray:
    """A row's label or labels as integers in `[0, num_labels)` or -100.

    Args:
        value: A number, a name, or a list of them.
        name: Name of the column.
        number: Number of the row.
        label_names: Names of the labels in order, where names are allowed.
        num_labels: How many labels there are.

    Raises:
        ValueError: A label is out of range, or there is no label of this name.
        TypeError: A value is neither a number nor a name.
    """
    if label_names is not None:
        value = _name_to_id(value, label_names)
    array = sources.numbers(value, name, number)
    wrong = array[(array != LABEL_IGNORED) & ((array < 0) | (array >= num_labels))]
    if array.dtype.kind not in "biu" or wrong.size:
        raise value_error(
            f"Labels must be integers in [0, {num_labels}), or -100 for 'not scored'.",
            fix="Count labels from 0, and check `num_labels`.",
            row=number,
            **{name: value if not wrong.size else wrong.flat[0].item()},
        )
    return array.astype(np.int32)


def _name_to_id(value: Any, label_names: Sequence[str]) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        if value not in label_names:
            raise value_error(
                "There is no label of this name.",
                fix=nearest(value, label_names),
                label=value,
            )
        return list(label_names).index(value)
    if isinstance(value, (list, tuple)):
        return [_name_to_id(part, label_names) for part in value]
    return value


def count_labels(num_labels: int | None, label_names: Sequence[str] | None) -> int:
    """The number of labels.

    Raises:
        ValueError: Neither the number nor the names are given, or they do not agree.
    """
    check_count("num_labels", num_labels, least=1)
    if label_names is None and num_labels is None:
        raise value_error(
            "The number of labels must be known, to check the data against it.",
            fix="Pass `num_labels` or `label_names`, as in the model's configuration.",
            num_labels=None,
        )
    if label_names is not None and num_labels not in (None, len(label_names)):
        raise value_error(
            "`num_labels` and `label_names` do not agree.",
            fix="Pass one of them.",
            num_labels=num_labels,
            label_names=label_names,
        )
    return len(label_names) if label_names is not None else num_labels

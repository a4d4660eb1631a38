"""Options that hold token ids, in one list for all rows or one list per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error


def is_empty(value: Any) -> bool:
    """Whether lists hold nothing, which may have different lengths."""
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return np.size(value) == 0


def depth(value: Any) -> int:
    """The nesting depth of lists."""
    if isinstance(value, (list, tuple, np.ndarray)) or tf.is_tensor(value):
        return 1 + max([0, *(depth(one) for one in value)])
    return 0


def per_row(name: str, value: Any, rows: int, levels: int) -> list[Any]:
    """A value for all rows, or one for each, as a list: its entries are nested `levels` deep."""
    if depth(value) <= levels:
        return [value]
    if len(value) not in (1, rows):
        raise value_error(
            f"`{name}` must be one value or {rows} values, one for each prompt.",
            fix="Give a single one to use it for every prompt.",
            **{name: value},
        )
    return list(value)


def check_list(name: str, one: Any, value: Any) -> Any:
    """Checks that the entries of a row are a list."""
    if not isinstance(one, (list, tuple)) and not (isinstance(one, np.ndarray) and one.ndim):
        raise type_error(
            f"`{name}` must be a list, or one list per row.",
            fix="Put brackets around it.",
            **{name: value},
        )
    return one


def check_ids(name: str, sequence: Any, vocab_size: int, value: Any) -> tuple[int, ...]:
    """A sequence of ids, or one id, as a tuple."""
    ids = sequence if isinstance(sequence, (list, tuple, np.ndarray)) else (sequence,)
    return tuple(_check_id(name, one, vocab_size, value) for one in ids)


def _check_id(name: str, one: Any, vocab_size: int, value: Any) -> int:
    is_integer = isinstance(one, (int, np.integer)) and not isinstance(one, bool)
    if not is_integer or not 0 <= one < vocab_size:
        raise value_error(
            f"`{name}` must hold ids in [0, {vocab_size}), the model's vocabulary.",
            fix="Tokenize words with the model's own tokenizer.",
            **{name: value},
        )
    return int(one)


def id_rows(name: str, value: Any, rows: int, vocab_size: int) -> tf.Tensor:
    """Lists of ids as int32 `[1 or B, U]`, padded with -1."""
    lists = per_row(name, np.asarray(value).tolist() if tf.is_tensor(value) else value, rows, 1)
    lists = [
        [_check_id(name, one, vocab_size, value) for one in check_list(name, row, value)]
        for row in lists
    ]
    width = max([1, *map(len, lists)])
    return tf.constant([row + [-1] * (width - len(row)) for row in lists], tf.int32)

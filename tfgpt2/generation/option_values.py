"""Checks of the values of options."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.options import Option

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_option(option: Option, value: Any) -> np.ndarray:
    """Checks the value or values of an option that has one per row.

    Args:
        option: The option.
        value: A number, or one number per row.

    Returns:
        The value as an array `[]` or `[B]` of the option's dtype.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range, or of rank 2 or more.

    Example:
        >>> from tfgpt2.generation.options import REQUEST_OPTIONS
        >>> check_option(REQUEST_OPTIONS["top_p"], [0.5, 1]).tolist()
        [0.5, 1.0]
    """
    try:
        array = np.asarray(value)
    except (ValueError, NotImplementedError):  # lists of different lengths; tensors of a graph
        array = np.asarray(None)
    if array.size == 0:  # an empty list has no type of its own
        array = array.astype(option.dtype)
    kinds = "b" if option.dtype == "bool" else "iu" if option.dtype.startswith("int") else "iuf"
    if array.dtype.kind not in kinds:
        raise type_error(
            f"`{option.name}` must be {option.expected}.",
            fix="Pass a number, or a list with one number per row.",
            **{option.name: value},
        )
    if array.ndim > 1 or not np.all((array >= option.low) & (array <= option.high)):
        raise value_error(
            f"`{option.name}` must be {option.expected}.",
            fix="Pass one value, or one value per row, in that range.",
            **{option.name: value},
        )
    return array.astype(option.dtype)


def row_values(option: Option, value: Any, rows: int) -> np.ndarray:
    """Checks the value of an option and gives each row its own.

    Args:
        option: An option with one value per row.
        value: A number, or one number per row.
        rows: How many rows there are.

    Returns:
        Array `[B]`. One seed gives row `i` the seed `seed + i`, so that equal prompts in one
        call differ; each seed of -1 becomes a random one.

    Raises:
        TypeError: The value is not a number.
        ValueError: It is out of range, or there is not one value per row.

    Example:
        >>> from tfgpt2.generation.options import REQUEST_OPTIONS
        >>> row_values(REQUEST_OPTIONS["seed"], 5, rows=2).tolist()
        [5, 6]
    """
    array = check_option(option, value)
    if array.ndim == 1 and len(array) not in (1, rows):
        raise value_error(
            f"`{option.name}` must be one value or {rows} values, one for each row.",
            fix="Give a single number to use it for every row.",
            **{option.name: value},
        )
    if option.name == "seed":
        array = _seed_rows(array, rows)
    return np.broadcast_to(array, [rows])  # [B]


def _seed_rows(seeds: np.ndarray, rows: int) -> np.ndarray:
    """Gives each row its seed: int64 `[]`, `[1]` or `[B]` -> `[B]`."""
    if seeds.ndim == 0 and seeds >= 0:
        numbers = [(int(seeds) + row) % 2**63 for row in range(rows)]
    else:
        numbers = np.broadcast_to(seeds, [rows]).tolist()
    fresh = [secrets.randbits(62) if number < 0 else number for number in numbers]
    return np.array(fresh, np.int64)  # [B]


def is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, which may be an array, a list or a dict, is one of some scalars.

    Example:
        >>> is_one_of(None, (None, 1)), is_one_of([[1], [2, 3]], (None, 1))
        (True, False)
    """
    several = isinstance(value, (list, tuple, Mapping)) or len(getattr(value, "shape", ())) > 0
    return any(value is one for one in choices) or (not several and value in choices)


def json_value(value: Any) -> Any:
    """A value as JSON holds it; a dict whose keys are sequences of ids becomes a list of pairs.

    Example:
        >>> json_value({"sequence_bias": {(1, 2): -1.5}, "seed": np.int64(3)})
        {'sequence_bias': [[[1, 2], -1.5]], 'seed': 3}
    """
    if isinstance(value, Mapping):
        if any(isinstance(key, tuple) for key in value):
            return [[json_value(key), json_value(one)] for key, one in value.items()]
        return {key: json_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(one) for one in value]
    if hasattr(value, "model_json_schema"):  # a pydantic model, for `json_schema`
        return value.model_json_schema()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def without_negative_ids(values: Any) -> Any:
    """Leaves out special tokens whose id is negative: files say so that there is none."""
    if not isinstance(values, Mapping):
        return values  # reported by `from_dict`
    values = dict(values)
    for name in TOKEN_IDS:
        ids = values.get(name)
        if isinstance(ids, (list, tuple)):
            values[name] = [one for one in ids if not _is_negative(one)] or None
        elif _is_negative(ids):
            values[name] = None
    return values


def _is_negative(value: Any) -> bool:
    return isinstance(value, int) and value < 0

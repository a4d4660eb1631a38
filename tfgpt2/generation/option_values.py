"""Checks of the values of options."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.options import Option


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


def is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, which may be an array, is one of some scalars."""
    return any(value is one for one in choices) or (np.ndim(value) == 0 and value in choices)

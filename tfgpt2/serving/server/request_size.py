"""How much a request stands for: its rows, and the bytes of its tensors at full size.

A message of a few bytes can stand for gigabytes: a tensor of gRPC may have one value for a large
shape, and an input of one row holds for all rows. Each value counts as often as it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfgpt2.serving.server.serving_error import invalid

MAX_AXES = 8  # of a tensor


def shape_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    """Counts the bytes of an array, without those of strings.

    An axis of length 0 counts as 1: otherwise it would allow any length of the others.

    Example:
        >>> shape_bytes((2, 3), np.dtype("int32")), shape_bytes((0, 3), np.dtype("int32"))
        (24, 12)
    """
    return math.prod(max(size, 1) for size in shape) * dtype.itemsize


def full_bytes(inputs: Mapping[str, np.ndarray], rows: int) -> int:
    """Counts the bytes of all inputs, with those of one row repeated for each row.

    Args:
        inputs: Each with `rows` rows, or 1.
        rows: Rows of the request.

    Example:
        >>> full_bytes({"ids": np.zeros((1, 5), np.int32), "seed": np.zeros(3, np.int64)}, 3)
        84
    """
    return sum(
        _array_bytes(array) * (rows if array.shape[0] == 1 else 1) for array in inputs.values()
    )


def check_rows(rows: int, limit: int) -> None:
    """Checks the number of rows.

    Raises:
        ServingError: INVALID_ARGUMENT: there are more than the limit.
    """
    if rows > limit:
        raise invalid(
            f"Task size {rows} is larger than maximum input batch size {limit}."
            " Send the rows in several requests."
        )


def check_bytes(size: int, limit: float) -> None:
    """Checks the bytes that a request stands for.

    Raises:
        ServingError: INVALID_ARGUMENT: there are more than the limit.
    """
    if size > limit:
        raise invalid(
            f"The values of a request must not exceed {limit} bytes, each counted for every row"
            f" that it is used in. Received: {size}. Send fewer rows, or shorter texts.",
        )


def _array_bytes(array: np.ndarray) -> int:
    strings = sum(map(len, array.flat)) if array.dtype == object else 0
    return shape_bytes(array.shape, array.dtype) + strings

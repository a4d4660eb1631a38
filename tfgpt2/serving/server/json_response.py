"""Writing the JSON of predict responses, by TensorFlow Serving's rules.

Source: tensorflow/serving util/json_tensor.cc.
Where TensorFlow Serving writes invalid JSON, this server does not: numbers that are not finite
become `null`, and bytes that are not UTF-8 become U+FFFD in outputs whose name does not end in
`_bytes`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from tfgpt2.serving.server.serving_error import invalid
from tfgpt2.serving.server.signature import Arrays

_BYTES_SUFFIX = "_bytes"


def encode_response(outputs: Arrays, *, rows: bool) -> bytes:
    """Encodes the outputs of a predict request.

    Args:
        outputs: By name, at least one.
        rows: Row format (`predictions`), in which all outputs have the same first axis; else
            column format (`outputs`).

    Returns:
        Valid JSON, whatever the tensors hold.

    Raises:
        ServingError: The outputs have different numbers of rows.

    Example:
        >>> encode_response({"x": np.array([1, 2])}, rows=True)
        b'{"predictions": [1, 2]}'
    """
    if rows:
        _check_rows(outputs)
    lists = {name: _to_lists(name, array) for name, array in outputs.items()}
    if len(lists) == 1:
        content = next(iter(lists.values()))
    elif rows:
        content = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    else:
        content = lists
    document = {"predictions" if rows else "outputs": content}
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _check_rows(outputs: Arrays) -> None:
    count = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if count not in (-1, len(array)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {count}"
            )
        count = len(array)


def _to_lists(name: str, array: np.ndarray) -> Any:
    """Converts a tensor to nested lists of JSON's types."""
    if array.dtype == object:
        as_bytes = name.endswith(_BYTES_SUFFIX)
        flat = [_to_text(value, as_bytes) for value in array.ravel()]
    elif array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        # The shortest digits that give the same float32, not those of the nearest double.
        flat = [float(text) for text in array.ravel().astype(np.float32).astype(str)] \
            if array.dtype.itemsize <= 4 else array.ravel().tolist()  # fmt: skip
        flat = [value if np.isfinite(value) else None for value in flat]
    else:
        flat = array.ravel().tolist()
    if not array.ndim:
        return flat[0]
    filled = np.empty(len(flat), object)
    filled[:] = flat
    return filled.reshape(array.shape).tolist()


def _to_text(value: bytes, as_bytes: bool) -> Any:
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")

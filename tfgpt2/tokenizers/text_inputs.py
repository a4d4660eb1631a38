"""The border of the tokenizer: what comes in becomes a tensor or an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, nearest


def as_text(inputs: Any) -> tf.Tensor | tf.RaggedTensor:
    """Returns a string tensor of rank 0, 1 or 2, or says what is wrong with the input."""
    text = inputs
    if not isinstance(inputs, (tf.Tensor, tf.RaggedTensor)):
        text = _text_from_python(inputs)
    if text.dtype != tf.string:
        raise TypeError(_not_text(inputs))
    if text.shape.rank is None or text.shape.rank > 2:
        raise ValueError(
            explain(
                "Texts come one by one or in a tensor of 1 or 2 axes.",
                fix="Reshape the tensor, or give it a static rank with `tf.ensure_shape`.",
                shape=text.shape,
            )
        )
    return text


def _text_from_python(inputs: Any) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OUS":
        inputs = inputs.tolist()
    if inputs is None or not isinstance(inputs, (str, bytes, list, tuple)):
        raise TypeError(_not_text(inputs))
    try:
        nested = isinstance(inputs, (list, tuple)) and any(
            isinstance(item, (list, tuple)) for item in inputs
        )
        if nested:
            return tf.ragged.constant(inputs, dtype=tf.string)
        return tf.convert_to_tensor(inputs, dtype=tf.string)
    except (TypeError, ValueError) as error:
        if _half_a_pair(inputs):
            raise ValueError(
                explain(
                    "A text holds half of a surrogate pair, which UTF-8 cannot express.",
                    fix="Clean it first: `text.encode('utf-8', 'replace').decode()`.",
                    inputs=inputs,
                )
            ) from error
        raise TypeError(_not_text(inputs)) from error


def _half_a_pair(inputs: Any) -> bool:
    if isinstance(inputs, str):
        return any("\ud800" <= character <= "\udfff" for character in inputs)
    return isinstance(inputs, (list, tuple)) and any(_half_a_pair(item) for item in inputs)


def as_ids(inputs: Any) -> tf.Tensor | tf.RaggedTensor:
    """Returns integer ids of rank 1 or more, or says what is wrong with the input."""
    ids = inputs
    if isinstance(inputs, (list, tuple)):
        try:
            ids = tf.ragged.constant(inputs)
        except (TypeError, ValueError):
            raise TypeError(_not_ids(inputs)) from None
        if tf.size(ids) == 0:  # TensorFlow takes an empty list for floats.
            ids = tf.cast(ids, tf.int32)
    elif not isinstance(inputs, (tf.Tensor, tf.RaggedTensor)):
        try:
            ids = tf.convert_to_tensor(inputs)
        except (TypeError, ValueError):
            raise TypeError(_not_ids(inputs)) from None
    if not ids.dtype.is_integer:
        raise TypeError(_not_ids(inputs))
    if ids.shape.rank is None or ids.shape.rank < 1:
        raise ValueError(
            explain(
                "Token ids need at least one axis.",
                fix="Pass `[id]` to decode one token.",
                inputs=inputs,
            )
        )
    return ids


def _not_ids(inputs: Any) -> str:
    return explain(
        "Token ids are integers.",
        fix="Pass what `tokenize` returns, or an integer tensor or list.",
        inputs=inputs,
    )


def _not_text(inputs: Any) -> str:
    return explain(
        "The tokenizer takes text: a string, a list of strings or a string tensor.",
        fix="Token ids go to `detokenize`, not to `tokenize`.",
        inputs=inputs,
        dtype=getattr(inputs, "dtype", type(inputs).__name__),
    )


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises `TypeError` with the nearest known name for an option that does not exist."""
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                explain(f"There is no option {name!r}.", fix=nearest(name, known), **{name: value})
            )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises `ValueError` unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(
            explain(f"`{name}` must be one of {choices}.", fix="Pass one of them.", **{name: value})
        )


def check_count(name: str, value: Any, least: int) -> None:
    """Raises `ValueError` unless the value is None or an integer that is large enough."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (integer and value >= least):
        raise ValueError(
            explain(
                f"`{name}` must be None or an integer of at least {least}.",
                fix="Leave it out for the default.",
                **{name: value},
            )
        )

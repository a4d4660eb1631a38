"""Arguments of the layers as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain, value_error


def as_text(inputs: Any) -> tf.Tensor | tf.RaggedTensor:
    """Converts texts to a string tensor of rank 0, 1 or 2.

    Raises:
        TypeError: The input is not text.
        ValueError: The input has more than 2 axes, or a text is not valid Unicode.
    """
    text = inputs
    if not isinstance(inputs, (tf.Tensor, tf.RaggedTensor)):
        text = _text_from_python(inputs)
    if text.dtype != tf.string:
        raise TypeError(_not_text(inputs))
    if text.shape.rank is None or text.shape.rank > 2:
        raise value_error(
            "Texts must be a single string, or have 1 or 2 axes.",
            fix="Reshape the tensor, or give it a static rank with `tf.ensure_shape`.",
            shape=text.shape,
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
        if _has_half_pair(inputs):
            raise value_error(
                "A text contains half of a surrogate pair, which UTF-8 cannot encode.",
                fix="Clean it first: `text.encode('utf-8', 'replace').decode()`.",
                inputs=inputs,
            ) from error
        raise TypeError(_not_text(inputs)) from error


def _has_half_pair(inputs: Any) -> bool:
    if isinstance(inputs, str):
        return any("\ud800" <= character <= "\udfff" for character in inputs)
    return isinstance(inputs, (list, tuple)) and any(_has_half_pair(item) for item in inputs)


def as_ids(inputs: Any) -> tf.Tensor | tf.RaggedTensor:
    """Converts token ids to an integer tensor of rank 1 or more.

    Raises:
        TypeError: The ids are not integers.
        ValueError: The ids are a scalar.
    """
    ids = inputs
    if not isinstance(inputs, (tf.Tensor, tf.RaggedTensor)):
        nested = isinstance(inputs, (list, tuple))
        try:
            ids = tf.ragged.constant(inputs) if nested else tf.convert_to_tensor(inputs)
        except (TypeError, ValueError):
            raise TypeError(_not_ids(inputs)) from None
        if nested and tf.size(ids) == 0:  # TensorFlow makes floats of an empty list.
            ids = tf.cast(ids, tf.int32)
    if not ids.dtype.is_integer:
        raise TypeError(_not_ids(inputs))
    if ids.shape.rank is None or ids.shape.rank < 1:
        raise value_error(
            "Token ids need at least one axis.",
            fix="Pass `[id]` to decode one token.",
            inputs=inputs,
        )
    return ids


def _not_ids(inputs: Any) -> str:
    return explain(
        "Token ids must be integers.",
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

"""The forms of a model call, converted to keywords with tensors as values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.errors import nearest, type_error, value_error

# The order of a list of inputs, as documented by transformers.
LIST_ORDER = ("input_ids", "attention_mask", "token_type_ids")
# Inputs that add a loss and change no other output.
LABELS = ("labels", "mc_labels", "start_positions", "end_positions")
_INTEGERS = ("input_ids", "token_type_ids", "position_ids", "mc_token_ids", *LABELS)
_NUMBERS = (
    *("attention_mask", "encoder_attention_mask", "head_mask"),
    *("inputs_embeds", "encoder_hidden_states"),
)
_FLAGS = ("use_cache", "output_attentions", "output_hidden_states", "return_dict")


def unpack(
    model: keras.Model, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Converts any form of a call to keywords that `call` knows, with tensors as values.

    Args:
        model: The model that is called.
        inputs: Its first argument: ids, a dict, a list in documented order, or None. A list that
            holds None is in the order of `call`, as in transformers.
        args: Further positional arguments.
        kwargs: Keywords.

    Raises:
        TypeError: An argument is unknown, given twice, or of a wrong type.
        ValueError: Neither ids nor embeddings are given, or both.
    """
    known = list(inspect.signature(model.call).parameters)
    named = {name: value for name, value in kwargs.items() if value is not None}
    named = _merge(_first_argument(inputs, known), named)
    named = _merge(_positional(model, known, args), named)
    for name in named:
        if name not in known:
            raise type_error(
                f"{type(model).__name__} has no input {name!r}.",
                fix=nearest(name, known),
                **{name: named[name]},
            )
    if (named.get("input_ids") is None) == (named.get("inputs_embeds") is None):
        raise value_error(
            "A model call takes either `input_ids` or `inputs_embeds`.",
            fix="Pass the tokenizer's output, or ids as an integer array [B, T].",
            given=sorted(name for name in named if named[name] is not None),
        )
    return {
        name: _convert(name, value, may_be_float=model.float_labels and name == "labels")
        for name, value in named.items()
        if value is not None
    }


def _first_argument(inputs: Any, known: list[str]) -> dict[str, Any]:
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    # A list of tensors holds one input each; nested lists of numbers are ids.
    if isinstance(inputs, (list, tuple)) and any(one is None for one in inputs):
        return dict(zip(known, inputs, strict=False))
    if isinstance(inputs, (list, tuple)) and inputs and all(_is_array(part) for part in inputs):
        if len(inputs) > len(LIST_ORDER):
            raise type_error(
                f"A list of inputs holds {', '.join(LIST_ORDER)}, in this order.",
                fix="Pass the others by keyword.",
                length=len(inputs),
            )
        return dict(zip(LIST_ORDER, inputs, strict=False))
    return {"input_ids": inputs}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and len(value.shape) >= 2


def _positional(model: keras.Model, known: list[str], args: tuple[Any, ...]) -> dict[str, Any]:
    if len(args) >= len(known):
        raise type_error(
            f"{type(model).__name__} takes at most {len(known)} inputs.",
            fix="Pass inputs by keyword.",
            inputs=len(args) + 1,
        )
    return dict(zip(known[1:], args, strict=False))


def _merge(first: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    twice = sorted(name for name in first.keys() & named.keys() if first[name] is not None)
    if twice:
        raise type_error(
            f"`{twice[0]}` was given twice.",
            fix="Pass it in the input dict or as a keyword, not both.",
            names=twice,
        )
    return first | named


def _convert(name: str, value: Any, *, may_be_float: bool) -> Any:
    """Converts arrays and nested lists to tensors, and checks their dtype."""
    if name in _FLAGS:
        return _flag(name, value)
    if name not in _INTEGERS + _NUMBERS:
        return value
    tensor = value if isinstance(value, (keras.KerasTensor, tf.Tensor)) else _tensor(name, value)
    dtype = tf.as_dtype(tensor.dtype)
    if dtype == tf.string:
        raise type_error(
            f"`{name}` holds strings; a model takes token ids.",
            fix="Call the tokenizer first: model(tokenizer(text)).",
            **{name: value},
        )
    if name in _INTEGERS and not dtype.is_integer and not may_be_float:
        raise type_error(
            f"`{name}` must hold integers.",
            fix="Convert them: tf.cast(ids, tf.int32), keras.Input(..., dtype='int32').",
            dtype=dtype.name,
        )
    return tensor


def _tensor(name: str, value: Any) -> tf.Tensor:
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise type_error(
            f"`{name}` is not a dense tensor; a model takes dense ids and a mask.",
            fix="Let the tokenizer pad: tokenizer(text) returns both.",
            **{name: type(value).__name__},
        )
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise type_error(
            f"`{name}` must be an array of numbers whose rows have the same length.",
            fix="Pad the rows and pass attention_mask, or use the tokenizer.",
            **{name: value},
        ) from error


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise type_error(
            f"`{name}` must be True, False or None.",
            fix="Leave it out for the configuration's value.",
            **{name: value},
        )
    return bool(value)

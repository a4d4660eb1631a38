"""The border of a model call: every form the inputs may take, checked, becomes one record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain, nearest
from tfgpt2.modeling.attention import causal_mask
from tfgpt2.modeling.layers import Memory

# The order in which a list of inputs is read, as transformers' documentation gives it.
_LIST_ORDER = ("input_ids", "attention_mask", "token_type_ids")
_INTEGERS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")


class Inputs(NamedTuple):
    """A model call's inputs after all checks; leading axes are flattened into `B`.

    Attributes:
        ids: int32 `[B, T]`, or None when embeddings are given.
        embeddings: Float `[B, T, D]`, or None.
        leading: int32 `[..., T]` shape that outputs get back.
        positions: int `[B, T]` or `[1, T]`.
        visible: bool `[B, 1, T, S]` or `[1, 1, T, S]`.
        memories: Per block, what appends to the past; None without a past.
        token_type_ids: int `[B, T]` or None.
        encoder_states: Float `[B, E, D]` or None.
        encoder_visible: bool `[B, 1, 1 or T, E]` or None.
        head_mask: Per block, float `[1, N, 1, 1]`; or None.
    """

    ids: tf.Tensor | None
    embeddings: tf.Tensor | None
    leading: tf.Tensor
    positions: tf.Tensor
    visible: tf.Tensor
    memories: list[Memory] | None
    token_type_ids: tf.Tensor | None
    encoder_states: tf.Tensor | None
    encoder_visible: tf.Tensor | None
    head_mask: list[tf.Tensor] | None


def unpack(
    model: keras.Model, inputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Turns any call form into keywords that `call` knows, with tensors as values.

    Args:
        model: The model that is called.
        inputs: Its first argument: ids, a dict, a list in documented order, or None.
        args: Further positional arguments.
        kwargs: Keywords.

    Raises:
        TypeError: An argument is unknown, given twice, or of a type that holds no ids.
        ValueError: Neither ids nor embeddings are given, or both.
    """
    known = list(inspect.signature(model.call).parameters)
    named = {key: value for key, value in kwargs.items() if value is not None}
    if isinstance(inputs, Mapping):
        named = _merge(dict(inputs), named)
    elif _is_list_of_tensors(inputs):
        named = _merge(dict(zip(_LIST_ORDER, inputs, strict=False)), named)
    elif inputs is not None:
        named = _merge({"input_ids": inputs}, named)
    named = _merge(dict(zip(known[1:], args, strict=False)), named)
    for name in named:
        if name not in known:
            raise TypeError(
                explain(
                    f"{type(model).__name__} has no input {name!r}.",
                    fix=nearest(name, known),
                    **{name: named[name]},
                )
            )
    if (named.get("input_ids") is None) == (named.get("inputs_embeds") is None):
        raise ValueError(
            explain(
                "A model call takes either `input_ids` or `inputs_embeds`.",
                fix="Pass the tokenizer's output, or ids as an integer array [B, T].",
                given=sorted(named),
            )
        )
    return {name: _tensor(name, value) for name, value in named.items() if value is not None}


def check(
    config: GPT2Config,
    *,
    input_ids: tf.Tensor | None,
    past_key_values: Sequence[Any] | None = None,
    attention_mask: tf.Tensor | None = None,
    token_type_ids: tf.Tensor | None = None,
    position_ids: tf.Tensor | None = None,
    head_mask: tf.Tensor | None = None,
    inputs_embeds: tf.Tensor | None = None,
    encoder_hidden_states: tf.Tensor | None = None,
    encoder_attention_mask: tf.Tensor | None = None,
) -> Inputs:
    """Checks the arguments of a `call` against the model and against each other.

    The shapes are those of `TFGPT2Model.call`.

    Raises:
        ValueError: A shape, an id or a length does not fit.
    """
    main = input_ids if input_ids is not None else inputs_embeds
    leading = tf.shape(main) if input_ids is not None else tf.shape(main)[:-1]  # [..., T]
    if input_ids is not None:
        _require(input_ids.shape.rank is None or input_ids.shape.rank >= 2, "input_ids", input_ids)
        _check_range("input_ids", input_ids, config.vocab_size, "vocabulary")
        input_ids = _flatten(input_ids)  # [B, T]
    else:
        shape = inputs_embeds.shape
        _require(shape.rank is not None and shape.rank >= 3 and shape[-1] == config.n_embd,
                 "inputs_embeds", inputs_embeds, f"[B, T, {config.n_embd}]")  # fmt: skip
        inputs_embeds = tf.reshape(inputs_embeds, [-1, leading[-1], config.n_embd])  # [B, T, D]
    length = leading[-1]
    past, past_length = _past(config, past_key_values)
    _check_length(config, main.shape[1 if input_ids is None else -1], past)
    if position_ids is None:
        position_ids = (past_length + tf.range(length))[None]  # [1, T]
    else:
        _check_range("position_ids", position_ids, config.n_positions, "context")
        position_ids = _flatten(position_ids)  # [B, T]
    return Inputs(
        ids=input_ids,
        embeddings=inputs_embeds,
        leading=leading,
        positions=position_ids,
        visible=_visible(attention_mask, length, past_length),
        memories=past,
        token_type_ids=None if token_type_ids is None else _flatten(token_type_ids),
        encoder_states=encoder_hidden_states,
        encoder_visible=_encoder(config, encoder_hidden_states, encoder_attention_mask),
        head_mask=_head_mask(config, head_mask),
    )


def _merge(first: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    twice = sorted(name for name in first.keys() & named.keys() if first[name] is not None)
    if twice:
        raise TypeError(
            explain(
                f"`{twice[0]}` was given twice.",
                fix="Pass it in the input dict or as a keyword, not both.",
                names=twice,
            )
        )
    return first | named


def _is_list_of_tensors(inputs: Any) -> bool:
    if not isinstance(inputs, (list, tuple)) or not 0 < len(inputs) <= len(_LIST_ORDER):
        return False
    return all(hasattr(value, "shape") and len(value.shape) >= 2 for value in inputs)


def _tensor(name: str, value: Any) -> Any:
    """Converts numpy arrays and nested lists to tensors; says clearly what cannot be one."""
    if isinstance(value, (bool, keras.KerasTensor)) or not (
        name in _INTEGERS or isinstance(value, np.ndarray)
    ):
        return value
    if isinstance(value, tf.RaggedTensor):
        raise TypeError(
            explain(
                f"`{name}` is ragged; a model takes dense ids and a mask.",
                fix="Let the tokenizer pad: tokenizer(text) returns both.",
                **{name: type(value).__name__},
            )
        )
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            explain(
                f"`{name}` must be an integer array [B, T]; its rows must have one length.",
                fix="Pad the rows and pass attention_mask, or use the tokenizer.",
                **{name: value},
            )
        ) from error
    if name in _INTEGERS and tensor.dtype == tf.string:
        raise TypeError(
            explain(
                f"`{name}` holds strings; a model takes token ids.",
                fix="Call the tokenizer first: model(tokenizer(text)).",
                **{name: value},
            )
        )
    if name in ("input_ids", "token_type_ids", "position_ids") and not tensor.dtype.is_integer:
        # Ids that came through a float array lose nothing below 2**24.
        raise TypeError(
            explain(
                f"`{name}` must hold integers.",
                fix="Cast it: tf.cast(ids, tf.int32).",
                dtype=tensor.dtype.name,
            )
        )
    return tensor


def _flatten(ids: tf.Tensor) -> tf.Tensor:
    """int `[..., T]` -> int32 `[B, T]`."""
    static = ids.shape[-1]
    return tf.reshape(tf.cast(ids, tf.int32), [-1, tf.shape(ids)[-1] if static is None else static])


def _require(condition: bool, name: str, value: tf.Tensor, shape: str = "[B, T]") -> None:
    if not condition:
        raise ValueError(
            explain(
                f"`{name}` must have shape {shape}.",
                fix="Add a batch axis to a single text: ids[None].",
                **{name: f"shape {value.shape}"},
            )
        )


def _check_range(name: str, ids: tf.Tensor, limit: int, what: str) -> None:
    """Checks ids where their values are known; inside a graph they are not."""
    if not (tf.executing_eagerly() and hasattr(ids, "numpy")) or not len(ids.shape):
        return
    values = np.asarray(ids)
    if values.size and not 0 <= values.min() <= values.max() < limit:
        wrong = values[(values < 0) | (values >= limit)]
        raise ValueError(
            explain(
                f"`{name}` must be in [0, {limit}), the size of the model's {what}.",
                fix="Use the tokenizer that belongs to the model."
                if what == "vocabulary"
                else "Shorten the text to the context of the model.",
                **{name: int(wrong.flat[0])},
            )
        )


def _past(
    config: GPT2Config, past_key_values: Sequence[Any] | None
) -> tuple[list[Memory] | None, tf.Tensor]:
    """Turns `past_key_values` into one memory per block, and their common length."""
    if past_key_values is None or all(past is None for past in past_key_values):
        return None, tf.constant(0, tf.int32)
    if len(past_key_values) != config.n_layer:
        raise ValueError(
            explain(
                f"`past_key_values` must hold one entry for each of the {config.n_layer} blocks.",
                fix="Pass the `past_key_values` of an earlier call unchanged.",
                entries=len(past_key_values),
            )
        )

    def append(key: tf.Tensor, value: tf.Tensor) -> Memory:
        return lambda new_key, new_value: (
            tf.concat([tf.cast(key, new_key.dtype), new_key], axis=2),  # [B, N, S, H]
            tf.concat([tf.cast(value, new_value.dtype), new_value], axis=2),
        )

    pairs = [tuple(past) if isinstance(past, (list, tuple)) else tf.unstack(past, num=2)
             for past in past_key_values]  # fmt: skip
    return [append(key, value) for key, value in pairs], tf.shape(pairs[0][0])[2]


def _check_length(config: GPT2Config, length: int | None, past: list[Memory] | None) -> None:
    if length is not None and past is None and length > config.n_positions:
        raise ValueError(
            explain(
                f"The text is longer than the model's context of {config.n_positions} tokens.",
                fix="Truncate it: tokenizer(text, max_length=...).",
                length=length,
            )
        )


def _visible(mask: tf.Tensor | None, length: tf.Tensor, past_length: tf.Tensor) -> tf.Tensor:
    """Joins the causal mask and the caller's mask over past and current tokens."""
    columns = tf.range(past_length + length)  # [S]
    causal = causal_mask(past_length + tf.range(length), columns)  # [1, 1, T, S]
    if mask is None:
        return causal
    _require(mask.shape.rank is None or mask.shape.rank >= 2, "attention_mask", mask)
    total = tf.get_static_value(past_length + length)
    given = mask.shape[-1]
    if total is not None and given is not None and total != given:
        raise ValueError(
            explain(
                "`attention_mask` must cover the past tokens and the current ones:"
                f" {total} columns.",
                fix="Concatenate the mask of the past with ones for the new tokens.",
                columns=given,
            )
        )
    mask = tf.cast(mask, tf.int32)
    mask = tf.reshape(mask, [-1, 1, 1, tf.shape(mask)[-1]])  # [B, 1, 1, S]
    return causal & (mask > 0)  # [B, 1, T, S]


def _encoder(
    config: GPT2Config, states: tf.Tensor | None, mask: tf.Tensor | None
) -> tf.Tensor | None:
    """Checks the encoder's states and shapes its mask."""
    if states is None:
        return None
    if not config.add_cross_attention:
        raise ValueError(
            explain(
                "`encoder_hidden_states` need a model with cross-attention.",
                fix="Build it from GPT2Config(add_cross_attention=True).",
                add_cross_attention=False,
            )
        )
    if mask is None:
        return None
    mask = tf.cast(mask, tf.bool)
    return mask[:, None, None, :] if mask.shape.rank == 2 else mask[:, None]  # [B, 1, 1 or T, E]


def _head_mask(config: GPT2Config, head_mask: tf.Tensor | None) -> list[tf.Tensor] | None:
    """float `[N]` or `[L, N]` -> one `[1, N, 1, 1]` per block."""
    if head_mask is None:
        return None
    head_mask = tf.convert_to_tensor(head_mask)
    if head_mask.shape not in ([config.n_head], [config.n_layer, config.n_head]):
        raise ValueError(
            explain(
                f"`head_mask` must have shape [{config.n_head}] or"
                f" [{config.n_layer}, {config.n_head}].",
                fix="Give 1 for each head that stays and 0 for each that is silenced.",
                head_mask=f"shape {head_mask.shape}",
            )
        )
    rows = tf.broadcast_to(head_mask, [config.n_layer, config.n_head])  # [L, N]
    return [row[None, :, None, None] for row in tf.unstack(rows)]

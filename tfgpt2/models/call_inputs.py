"""The checked inputs of a model call: keywords become one record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error
from tfgpt2.nn.append_kv import AppendKV, ConcatenateKV
from tfgpt2.nn.attention import causal_mask
from tfgpt2.nn.losses import IGNORED_LABEL

# The arguments of `call` that `check_inputs` takes.
CHECKED = (
    *("input_ids", "past_key_values", "attention_mask", "token_type_ids", "position_ids"),
    *("head_mask", "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask"),
)


class CallInputs(NamedTuple):
    """A model call's inputs after all checks; leading axes are flattened into `B`.

    Attributes:
        ids: int32 `[B, T]`, or None when embeddings are given.
        embeddings: Float `[B, T, D]`, or None.
        shape: int32, the shape `[..., T]` of the text, which outputs get back.
        static_shape: The same as far as it is known.
        positions: int `[B, T]` or `[1, T]`.
        visible: bool `[B, 1, T, S]` or `[1, 1, T, S]`.
        append_kv: Per block, the function that appends to the past; None without a past.
        token_type_ids: int `[B, T]` or None.
        encoder_states: Float `[B, E, D]` or None.
        encoder_visible: bool `[B, 1, 1 or T, E]` or None.
        head_mask: Per block, float `[1, N, 1, 1]`; or None.
    """

    ids: tf.Tensor | None
    embeddings: tf.Tensor | None
    shape: tf.Tensor
    static_shape: tf.TensorShape
    positions: tf.Tensor
    visible: tf.Tensor
    append_kv: list[AppendKV] | None
    token_type_ids: tf.Tensor | None
    encoder_states: tf.Tensor | None
    encoder_visible: tf.Tensor | None
    head_mask: list[tf.Tensor] | None


def check_inputs(
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
) -> CallInputs:
    """Checks the arguments of a `call` against the model and against each other.

    The shapes are those of `TFGPT2Model.call`. Values and sizes that are unknown while a graph is
    traced are not checked.

    Raises:
        ValueError: A shape, an id or a length does not fit.
    """
    text = _text_shape(config, input_ids, inputs_embeds)  # static [..., T]
    shape = tf.shape(input_ids) if inputs_embeds is None else tf.shape(inputs_embeds)[:-1]
    past = _past(config, past_key_values, text)
    _check_values("input_ids", input_ids, config.vocab_size)
    _check_values("token_type_ids", token_type_ids, config.vocab_size)
    _check_values("position_ids", position_ids, config.n_positions)
    _check_length(config, text, past, position_ids)
    one_row = tf.TensorShape([1]).concatenate(text[-1:])
    _check_shape("token_type_ids", token_type_ids, text, one_row)
    _check_shape("position_ids", position_ids, text, one_row, text[-1:])
    if position_ids is None:
        position_ids = (past.length + tf.range(shape[-1]))[None]  # [1, T]
    if inputs_embeds is not None:
        inputs_embeds = tf.reshape(inputs_embeds, [-1, shape[-1], config.n_embd])  # [B, T, D]
    return CallInputs(
        ids=_flatten(input_ids),
        embeddings=inputs_embeds,
        shape=shape,
        static_shape=text,
        positions=_flatten(position_ids),
        visible=_visible(attention_mask, shape[-1], text, past),
        append_kv=past.append_kv,
        token_type_ids=_flatten(token_type_ids),
        encoder_states=encoder_hidden_states,
        encoder_visible=_encoder(config, encoder_hidden_states, encoder_attention_mask, text),
        head_mask=_head_mask(config, head_mask),
    )


def check_labels(config: GPT2Config, labels: tf.Tensor, inputs: CallInputs) -> tf.Tensor:
    """Checks the labels of a language model, one for each token.

    Args:
        config: The configuration.
        labels: int `[..., T]` in `[0, V)`, or -100.
        inputs: The text.

    Returns:
        int32 `[B, T]`.

    Raises:
        ValueError: A label or the shape does not fit.
    """
    _check_values("labels", labels, config.vocab_size)
    _check_shape("labels", labels, inputs.static_shape)
    return _flatten(labels)


class _Past(NamedTuple):
    """The past: per block, the function that appends to it; its length."""

    append_kv: list[AppendKV] | None
    length: tf.Tensor | int
    static: int | None


def _text_shape(
    config: GPT2Config, ids: tf.Tensor | None, embeddings: tf.Tensor | None
) -> tf.TensorShape:
    """Returns the static shape `[..., T]` of the text."""
    if embeddings is None:
        text = ids.shape
        if text.rank is not None and text.rank < 2:
            raise value_error(
                "`input_ids` must have shape [B, T].",
                fix="Add a batch axis to a single text: ids[None].",
                input_ids=f"shape {text}",
            )
    else:
        shape = embeddings.shape
        if shape.rank is None or shape.rank < 3 or shape[-1] != config.n_embd:
            raise value_error(
                f"`inputs_embeds` must have shape [B, T, {config.n_embd}].",
                fix="Look ids up in the model's own table: model.transformer.wte(ids).",
                inputs_embeds=f"shape {shape}",
            )
        text = shape[:-1]
    if text.rank is not None and text[-1] == 0:
        raise value_error(
            "The text is empty; a model call needs at least one token per row.",
            fix="Begin texts with a token such as bos_token_id.",
            shape=text.as_list(),
        )
    return text


def _rows(text: tf.TensorShape) -> int | None:
    """Number of rows `B` of a text `[..., T]`, if known."""
    return None if text.rank is None else text[:-1].num_elements()


def _flatten(ids: tf.Tensor | None) -> tf.Tensor | None:
    """Int `[..., T]` -> int32 `[B, T]`."""
    if ids is None:
        return None
    static = ids.shape[-1]
    return tf.reshape(tf.cast(ids, tf.int32), [-1, tf.shape(ids)[-1] if static is None else static])


def _check_shape(name: str, value: tf.Tensor | None, *shapes: tf.TensorShape) -> None:
    if value is not None and not any(value.shape.is_compatible_with(shape) for shape in shapes):
        raise value_error(
            f"`{name}` must have the shape of the text, {_shown(shapes[0])}.",
            fix="Create it together with the ids.",
            **{name: f"shape {value.shape}"},
        )


def _shown(shape: tf.TensorShape) -> str:
    return "unknown" if shape.rank is None else str(shape.as_list())


def _check_values(name: str, ids: tf.Tensor | None, limit: int) -> None:
    """Checks ids whose values are known, as in eager mode."""
    if ids is None or not _is_known(ids):
        return
    values = ids.numpy()
    wrong = values[(values < 0) | (values >= limit)]
    if name == "labels":
        wrong = wrong[wrong != IGNORED_LABEL]
    size, fix = "vocabulary", "Use the tokenizer that belongs to the model."
    if name == "position_ids":
        size, fix = "context", "Shorten the text to the context of the model."
    if wrong.size:
        problem = f"`{name}` must be in [0, {limit}), the size of the model's {size}."
        raise value_error(problem, fix=fix, **{name: int(wrong[0])})


def _check_mask(name: str, mask: tf.Tensor) -> None:
    if _is_known(mask) and not np.isin(mask.numpy(), (0, 1)).all():
        raise value_error(
            f"`{name}` must hold 1 for tokens and 0 for padding, and nothing else.",
            fix="Convert an additive mask (0 and -10000) with `mask == 0`.",
            **{name: mask.numpy()},
        )


def _is_known(value: tf.Tensor) -> bool:
    return tf.executing_eagerly() and hasattr(value, "numpy")


def _check_length(
    config: GPT2Config, text: tf.TensorShape, past: _Past, position_ids: tf.Tensor | None
) -> None:
    # With explicit positions, padding may make a text wider than the context.
    if position_ids is not None or text.rank is None or None in (text[-1], past.static):
        return
    if past.static + text[-1] > config.n_positions:
        raise value_error(
            f"The text is longer than the model's context of {config.n_positions} tokens.",
            fix="Truncate it: tokenizer(text, max_length=...).",
            past=past.static,
            length=text[-1],
        )


def _past(config: GPT2Config, past_key_values: Sequence[Any] | None, text: tf.TensorShape) -> _Past:
    """Checks `past_key_values`."""
    if past_key_values is None:
        return _Past(None, 0, 0)
    if not isinstance(past_key_values, (list, tuple)) or len(past_key_values) != config.n_layer:
        raise value_error(
            f"`past_key_values` must hold one entry for each of the {config.n_layer} blocks.",
            fix="Pass the `past_key_values` of an earlier call unchanged.",
            past_key_values=f"{type(past_key_values).__name__} of {len(past_key_values)}"
            if hasattr(past_key_values, "__len__")
            else past_key_values,
        )
    if all(entry is None for entry in past_key_values):
        return _Past(None, 0, 0)
    pairs = [_pair(entry) for entry in past_key_values]
    static = next((key.shape[2] for key, _ in pairs if key.shape.rank == 4), None)
    for block, part in ((block, part) for block, pair in enumerate(pairs) for part in pair):
        heads = len(config.kept_heads(block))
        expected = tf.TensorShape([_rows(text), heads, static, config.head_size])
        if not part.shape.is_compatible_with(expected):
            raise value_error(
                "`past_key_values` must hold keys and values of shape"
                f" {expected.as_list()} (rows, heads, past tokens, head size).",
                fix="Pass the `past_key_values` of an earlier call on the same rows.",
                shape=part.shape.as_list(),
            )

    return _Past([ConcatenateKV(*pair) for pair in pairs], tf.shape(pairs[0][0])[2], static)


def _pair(entry: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Keys and values of one block, from `[2, B, N, S, H]` or from a pair."""
    try:
        if not isinstance(entry, (list, tuple)):
            entry = tf.unstack(tf.convert_to_tensor(entry), num=2)
        key, value = (tf.convert_to_tensor(part) for part in entry)
    except (TypeError, ValueError) as error:
        raise value_error(
            "An entry of `past_key_values` must be a tensor [2, B, N, S, H] or a pair.",
            fix="Pass the `past_key_values` of an earlier call unchanged.",
            entry=getattr(entry, "shape", entry),
        ) from error
    return key, value


def _visible(
    mask: tf.Tensor | None, length: tf.Tensor, text: tf.TensorShape, past: _Past
) -> tf.Tensor:
    """Combines the causal mask with `attention_mask`, over past and current tokens."""
    columns = tf.range(past.length + length)  # [S]
    causal = causal_mask(past.length + tf.range(length), columns)  # [1, 1, T, S]
    if mask is None:
        return causal
    if mask.shape.rank == 4 and text.rank != 4:  # else it has the leading axes of the ids
        return _full_mask(mask, text, past)
    known = text.rank is not None and None not in (text[-1], past.static)
    total = past.static + text[-1] if known else None
    if not mask.shape.is_compatible_with(text[:-1].concatenate([total])):
        raise value_error(
            "`attention_mask` must cover the past tokens and the current ones of every row:"
            f" shape {_shown(text[:-1].concatenate([total]))}.",
            fix="Concatenate the mask of the past with ones for the new tokens; a mask for"
            " every pair of tokens has shape [B, 1, T, past + T].",
            attention_mask=f"shape {mask.shape}",
        )
    _check_mask("attention_mask", mask)
    mask = tf.reshape(mask, [-1, 1, 1, tf.shape(mask)[-1]])  # [B, 1, 1, S]
    return causal & tf.cast(mask, tf.bool)  # [B, 1, T, S]


def _full_mask(mask: tf.Tensor, text: tf.TensorShape, past: _Past) -> tf.Tensor:
    """Checks a mask for every pair of tokens, which includes the causal order."""
    length = None if text.rank is None else text[-1]
    total = None if None in (length, past.static) else past.static + length
    expected = tf.TensorShape([_rows(text), 1, length, total])
    if not mask.shape.is_compatible_with(expected):
        raise value_error(
            f"A mask for every pair of tokens must have shape {_shown(expected)}.",
            fix="Give one matrix [T, past + T] per row, 1 where a token may attend.",
            attention_mask=f"shape {mask.shape}",
        )
    _check_mask("attention_mask", mask)
    return tf.cast(mask, tf.bool)  # [B, 1, T, S]


def _encoder(
    config: GPT2Config, states: tf.Tensor | None, mask: tf.Tensor | None, text: tf.TensorShape
) -> tf.Tensor | None:
    """Checks the encoder's states and returns its mask."""
    if states is None and mask is None:
        return None
    if not config.add_cross_attention or states is None:
        raise value_error(
            "Encoder inputs need a model with cross-attention, and `encoder_hidden_states`.",
            fix="Build it from GPT2Config(add_cross_attention=True) and pass the states.",
            add_cross_attention=config.add_cross_attention,
            encoder_hidden_states=None if states is None else f"shape {states.shape}",
        )
    rows, width = _rows(text), states.shape[1] if states.shape.rank == 3 else None
    _check_encoder("encoder_hidden_states", states, [[rows, None, config.n_embd]])
    if mask is None:
        return None
    length = None if text.rank is None else text[-1]
    _check_encoder("encoder_attention_mask", mask, [[rows, width], [rows, length, width]])
    _check_mask("encoder_attention_mask", mask)
    mask = tf.cast(mask, tf.bool)
    return mask[:, None, None, :] if mask.shape.rank == 2 else mask[:, None]  # [B, 1, 1 or T, E]


def _check_encoder(name: str, value: tf.Tensor, shapes: list[list[int | None]]) -> None:
    if not any(value.shape.is_compatible_with(shape) for shape in shapes):
        raise value_error(
            f"`{name}` must have shape {' or '.join(map(str, shapes))}.",
            fix="Give one row of encoder states for each text.",
            **{name: f"shape {value.shape}"},
        )


def _head_mask(config: GPT2Config, head_mask: tf.Tensor | None) -> list[tf.Tensor] | None:
    """Float `[N]` or `[L, N]` -> one `[1, N, 1, 1]` per block."""
    if head_mask is None:
        return None
    if head_mask.shape not in ([config.n_head], [config.n_layer, config.n_head]):
        raise value_error(
            f"`head_mask` must have shape [{config.n_head}] or"
            f" [{config.n_layer}, {config.n_head}].",
            fix="Give 1 for each active head and 0 for each masked one.",
            head_mask=f"shape {head_mask.shape}",
        )
    rows = tf.broadcast_to(head_mask, [config.n_layer, config.n_head])  # [L, N]
    return [
        tf.gather(row, config.kept_heads(block))[None, :, None, None]
        for block, row in enumerate(tf.unstack(rows))
    ]

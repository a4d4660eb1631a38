"""Inputs of `model.generate`: checked, right-aligned and padded to a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.params import Prompt, PromptContext
from tfgpt2.generation.token_inputs import check_positions, check_token_types
from tfgpt2.nn.kv_cache import Encoder, Prefix, align_right, unpack


class GenerateInputs(NamedTuple):
    """Checked prompts as they were given.

    Attributes:
        ids: int32 `[B, P]`; a width of 0 where embeddings come without ids.
        mask: int32 `[B, P]` of what is read: `P` of the embeddings where ids have none.
        embeds: Float `[B, P, D]` or None.
        prefix: What was read before, or None.
        covered: Columns of `ids` that `prefix` holds: with `past_key_values`, not with `prefix`.
        encoder: Input of cross-attention, or None.
        token_types: int32 `[B, P]`, or None.
    """

    ids: np.ndarray
    mask: np.ndarray
    embeds: tf.Tensor | None
    prefix: Prefix | None
    covered: int
    encoder: Encoder | None
    token_types: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row that the model knows before it generates: int `[B]`."""
        lengths = self.mask.sum(axis=1)
        if self.prefix is not None and not self.covered:
            before = self.prefix.valid.numpy().sum(axis=1)
            lengths = lengths + np.broadcast_to(before, lengths.shape)
        return lengths


def check_inputs(
    model: Any,
    config: GenerationConfig,
    inputs: Any,
    *,
    input_ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    inputs_embeds: Any = None,
    past_key_values: Any = None,
    prefix: Prefix | None = None,
    encoder_hidden_states: Any = None,
    encoder_attention_mask: Any = None,
) -> GenerateInputs:
    """Checks the prompts, in whatever form they are passed.

    Raises:
        TypeError: There is no such input.
        ValueError: A shape, an id or a length does not fit.
    """
    named = {"attention_mask": attention_mask, "token_type_ids": token_type_ids,
             "position_ids": position_ids}  # fmt: skip
    inputs, named = _unpack(inputs, input_ids, named)
    attention_mask, embeds = named["attention_mask"], None
    if inputs_embeds is not None:
        embeds = _check_embeds(model, inputs_embeds)
        if past_key_values is not None or prefix is not None:
            raise value_error(
                "Embeddings cannot follow a prefix.",
                fix="Pass the ids, or embeddings of the whole text.",
                inputs_embeds=list(embeds.shape),
            )
        if inputs is None:
            inputs = np.zeros([embeds.shape[0], 0], np.int32)
            given = np.ones(embeds.shape[:2]) if attention_mask is None else attention_mask
            mask = (np.asarray(given) > 0).astype(np.int32)
            _check_mask(mask, embeds.shape[:2])
    if embeds is None or inputs.shape[1]:
        inputs, mask = _check_ids(model, config, inputs, attention_mask)
    if embeds is not None:
        _check_mask(mask, embeds.shape[:2])
    covered = 0
    if past_key_values is not None:
        prefix, covered = _from_past(past_key_values, inputs, mask, prefix)
    elif prefix is not None:
        _check_prefix(prefix, len(inputs))
    encoder = _encoder(model, encoder_hidden_states, encoder_attention_mask)
    types = check_token_types(model, named["token_type_ids"], mask)
    check_positions(named["position_ids"], mask)
    found = GenerateInputs(inputs, mask, embeds, prefix, covered, encoder, types)
    _check_lengths(model, found)
    return found


def right_aligned_prompt(inputs: GenerateInputs, limit: int) -> Prompt:
    """Pushes prompts against the right edge of a bucket.

    Args:
        inputs: Checked prompts.
        limit: The model's context.
    """
    buckets = default_buckets(limit)
    rest = slice(inputs.covered, None)
    mask = inputs.mask[:, rest]
    order, columns = _layout(mask, buckets)
    embeds, types = None, ()
    if inputs.token_types is not None:
        types = _place(inputs.token_types[:, rest], order, columns)  # [B, P]
    if inputs.ids.shape[1]:
        read = _place(inputs.ids[:, rest], order, columns)
    else:
        read = tf.zeros([len(mask), columns], tf.int32)
    aligned = _place(mask, order, columns)  # [B, P]
    if inputs.embeds is not None:
        embeds = _place(inputs.embeds, order, columns)  # [B, P, D]
    plain = embeds is None and inputs.prefix is None and inputs.encoder is None
    if plain and inputs.token_types is None:
        return Prompt(read * aligned, aligned)
    known = aligned if inputs.ids.shape[1] else tf.zeros_like(aligned)
    ids, whole = read * known, known
    prefix = () if inputs.prefix is None else inputs.prefix
    if prefix:
        rows = len(mask)
        shape = [rows, prefix.ids.shape[1]]
        before = tf.broadcast_to(tf.cast(prefix.valid, tf.int32), shape)
        own = tf.broadcast_to(prefix.ids, shape)
        if inputs.covered:  # the ids of a past are those of the input
            own = tf.constant(inputs.ids[:, : inputs.covered])
        ids, whole = align_right(
            tf.concat([own, ids], axis=1), tf.concat([before, whole], axis=1)
        )  # [B, S + P]
    context = PromptContext(
        ids=read * aligned,
        mask=aligned,
        embeds=() if embeds is None else embeds,
        prefix=prefix,
        encoder=() if inputs.encoder is None else inputs.encoder,
        token_types=types,
    )
    return Prompt(ids, whole, context)


def read_prefix(model: Any, inputs: Any, attention_mask: Any) -> Prefix:
    """Reads a text that others go on from; see `TFGPT2LMHeadModel.prefix`."""
    inputs, named = _unpack(inputs, None, {"attention_mask": attention_mask})
    ids, mask = _check_ids(model, GenerationConfig(), inputs, named["attention_mask"])
    _check_lengths(model, GenerateInputs(ids, mask, None, None, 0, None))
    columns = ids.shape[1]
    aligned, valid = align_right(tf.constant(ids), tf.constant(mask))  # [B, S]
    _, cache = model.prefill_hidden(aligned, valid, columns=tf.constant(columns))
    dtype = model.transformer.compute_dtype
    keys, values = (tuple(unpack(x, dtype) for x in part) for part in (cache.keys, cache.values))
    return Prefix(keys, values, cache.valid, aligned)


def negative_prompt(
    model: Any, config: GenerationConfig, inputs: GenerateInputs, ids: Any, mask: Any
) -> Prompt:
    """The negative prompt of guidance: the given ids, else the last token of each prompt.

    Source: transformers 4.57, `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """
    rows = len(inputs.ids)
    if ids is None:
        if not inputs.ids.shape[1]:
            raise value_error(
                "Guidance needs a negative prompt when there are no ids.",
                fix="Pass negative_prompt_ids=[[...]].",
                negative_prompt_ids=None,
            )
        last = inputs.mask.shape[1] - 1 - np.argmax(inputs.mask[:, ::-1], axis=1)
        ids, mask = inputs.ids[np.arange(rows), last][:, None], np.ones([rows, 1], np.int32)
    ids = np.asarray(ids)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids.repeat(rows, axis=0)
        mask = None if mask is None else np.asarray(mask).repeat(rows, axis=0)
    ids, mask = _check_ids(model, config, ids, mask)
    if len(ids) != rows:
        raise value_error(
            f"`negative_prompt_ids` must have 1 or {rows} rows.",
            fix="Give one for all prompts, or one for each.",
            negative_prompt_ids=list(ids.shape),
        )
    other = GenerateInputs(ids, mask, None, None, 0, inputs.encoder)
    _check_lengths(model, other)
    return right_aligned_prompt(other, model.config.n_positions)


def _layout(mask: np.ndarray, buckets: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Where each row's tokens are: the order that puts padding first, and the bucket."""
    longest = int(mask.sum(axis=1).max(initial=1))
    return np.argsort(mask, axis=1, kind="stable"), int(round_up(tf.constant(longest), buckets))


def _place(values: Any, order: np.ndarray, columns: int) -> tf.Tensor:
    """Puts `[B, P, ...]` in order and cuts or pads it on the left to `columns`."""
    values = np.asarray(values)  # eager numbers: NumPy has less to do before it starts
    order = order.reshape([*order.shape, *[1] * (values.ndim - 2)])
    values = np.take_along_axis(values, order, axis=1)[:, -columns:]
    padding = [[0, 0], [columns - values.shape[1], 0], *[[0, 0]] * (values.ndim - 2)]
    return tf.constant(np.pad(values, padding))


def _unpack(inputs: Any, input_ids: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Finds the ids, and what was named beside them, among the ways to pass them."""
    if inputs is not None and input_ids is not None:
        raise value_error(
            "Token ids were given twice.", fix="Pass `inputs` or `input_ids`.", input_ids=input_ids
        )
    inputs = input_ids if inputs is None else inputs
    if not isinstance(inputs, Mapping):
        return inputs, named
    given = dict(inputs)  # what the tokenizer returns
    inputs = given.pop("input_ids", None)
    unknown = sorted(given.keys() - named.keys())
    if unknown:
        raise type_error(
            f"generate() has no input {unknown[0]!r}.",
            fix=nearest(unknown[0], ["input_ids", *named]),
            inputs=unknown,
        )
    return inputs, {n: given.get(n) if value is None else value for n, value in named.items()}


def _check_ids(
    model: Any, config: GenerationConfig, inputs: Any, attention_mask: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Checks prompts and mask: int32 arrays `[B, P]`."""
    if inputs is None:
        if config.bos_token_id is None:
            raise value_error(
                "generate() needs token ids to continue, and there is no start token.",
                fix="Pass input_ids [B, P], for example model.generate(**tokenizer(text)).",
                input_ids=None,
                bos_token_id=None,
            )
        inputs = [[config.bos_token_id]]
    if tf.is_tensor(inputs) and tf.is_symbolic_tensor(inputs):
        raise type_error(
            "generate() runs eagerly and cannot be part of a graph.",
            fix="In graphs, use a TextGenerator, which is a Keras model from text to text.",
            input_ids=inputs,
        )
    try:
        ids = np.asarray(inputs)
    except ValueError as error:
        raise value_error(
            "`input_ids` must be a rectangle [B, P].",
            fix="Pad the rows and pass attention_mask, or use the tokenizer.",
            input_ids=inputs,
        ) from error
    mask = _inferred_mask(config, ids) if attention_mask is None else np.asarray(attention_mask)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or mask.shape != ids.shape:
        raise value_error(
            "`input_ids` must be integers [B, P] and `attention_mask` have the same shape.",
            fix="Pass the tokenizer's output unchanged.",
            input_ids=f"{ids.dtype} {list(ids.shape)}",
            attention_mask=f"{mask.dtype} {list(mask.shape)}",
        )
    mask = (mask > 0).astype(np.int32)
    inside, vocabulary = ids[mask > 0], model.config.vocab_size
    if inside.size and not 0 <= inside.min() <= inside.max() < vocabulary:
        raise value_error(
            f"`input_ids` must be in [0, {vocabulary}), the size of the model's vocabulary.",
            fix="Use the tokenizer that belongs to the model.",
            input_ids=[int(inside.min()), int(inside.max())],
        )
    return ids.astype(np.int32), mask


def _check_lengths(model: Any, inputs: GenerateInputs) -> None:
    """Checks that each row has something to read and leaves room."""
    lengths, limit = inputs.lengths, model.config.n_positions
    if not inputs.mask[:, inputs.covered :].sum(axis=1).all():
        raise value_error(
            "Every prompt needs at least one token.",
            fix="Start an empty prompt with the model's bos_token_id.",
            row=int(np.argmin(inputs.mask[:, inputs.covered :].sum(axis=1))),
        )
    if lengths.max(initial=0) >= limit:
        raise value_error(
            f"A prompt leaves no room in the model's context of {limit} tokens.",
            fix="Truncate it, or use TextGenerator(on_long_prompt='truncate_left').",
            tokens=int(lengths.max()),
        )


def _inferred_mask(config: GenerationConfig, ids: np.ndarray) -> np.ndarray:
    """Where no mask is given, a pad token that cannot be text is padding.

    Source: transformers 4.57, `generation/utils.py::_prepare_attention_mask_for_generation`.
    """
    if config.pad_token_id is None or config.pad_token_id in config.eos_ids:
        return np.ones(ids.shape, np.int32)
    return np.asarray(ids != config.pad_token_id).astype(np.int32)


def _check_embeds(model: Any, embeds: Any) -> tf.Tensor:
    """Checks embeddings: float `[B, P, D]`."""
    embeds, width = tf.convert_to_tensor(embeds), model.config.n_embd
    if embeds.shape.rank != 3 or not embeds.dtype.is_floating or embeds.shape[2] != width:
        raise value_error(
            f"`inputs_embeds` must be floats [B, P, {width}].",
            fix="Embed ids with model.get_input_embeddings().",
            inputs_embeds=f"{embeds.dtype.name} {list(embeds.shape)}",
        )
    return tf.cast(embeds, model.compute_dtype)


def _check_mask(mask: np.ndarray, shape: Any) -> None:
    if mask.shape != tuple(shape):
        raise value_error(
            "`attention_mask` and the ids must have the shape [B, P] of the embeddings.",
            fix="Pass a mask with one number for each embedding.",
            attention_mask=list(mask.shape),
            inputs_embeds=list(shape),
        )


def _check_prefix(prefix: Any, rows: int) -> None:
    if not isinstance(prefix, Prefix) or prefix.valid.shape[0] not in (1, rows):
        raise value_error(
            f"`prefix` must be what model.prefix(ids) returns, with 1 or {rows} rows.",
            fix="Read one text for all rows, or one for each.",
            prefix=type(prefix).__name__
            if not isinstance(prefix, Prefix)
            else list(prefix.valid.shape),
        )


def _from_past(
    past: Any, ids: np.ndarray, mask: np.ndarray, prefix: Prefix | None
) -> tuple[Prefix, int]:
    """Turns `past_key_values` of a call into a prefix, and says how many columns it covers."""
    if prefix is not None:
        raise value_error(
            "A past was given twice.", fix="Pass `past_key_values` or `prefix`.", prefix=prefix
        )
    try:
        pairs = [(tf.convert_to_tensor(pair[0]), tf.convert_to_tensor(pair[1])) for pair in past]
        rows, columns = pairs[0][0].shape[0], pairs[0][0].shape[2]
        fits = all(len(x.shape) == 4 and x.shape[2] == columns for pair in pairs for x in pair)
    except (TypeError, IndexError, ValueError):
        fits, rows, columns = False, 0, 0
    if not fits or rows != len(ids) or columns >= ids.shape[1]:
        raise value_error(
            "`past_key_values` must be what the model returned for the first columns of"
            " input_ids, which must continue after them.",
            fix="Pass the ids of the past, too: they come before the new ones.",
            past_key_values=[rows, columns],
            input_ids=list(ids.shape),
        )
    keys, values = zip(*pairs, strict=True)
    valid = tf.constant(mask[:, :columns] > 0)
    return Prefix(keys, values, valid, tf.constant(ids[:, :columns])), columns


def _encoder(model: Any, states: Any, mask: Any) -> Encoder | None:
    """Checks what cross-attention is to look at."""
    if states is None:
        if mask is not None:
            raise value_error("`encoder_attention_mask` comes with `encoder_hidden_states`.",
                              fix="Pass both.", encoder_hidden_states=None)  # fmt: skip
        return None
    states, width = tf.convert_to_tensor(states), model.config.n_embd
    visible = tf.ones(states.shape[:2]) if mask is None else tf.convert_to_tensor(mask)
    if states.shape.rank != 3 or states.shape[2] != width or visible.shape != states.shape[:2]:
        raise value_error(
            f"`encoder_hidden_states` must be floats [B, E, {width}], and their mask [B, E].",
            fix="Pass an encoder's last hidden states.",
            encoder_hidden_states=list(states.shape),
            encoder_attention_mask=list(visible.shape),
        )
    if not model.config.add_cross_attention:
        raise value_error(
            "The model has no cross-attention, so it cannot use an encoder.",
            fix="Set add_cross_attention=True in its configuration.",
            add_cross_attention=False,
        )
    return Encoder(tf.cast(states, model.compute_dtype), visible > 0)

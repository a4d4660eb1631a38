"""The state of the engine as tensors by name: slots, each with a row of its own age.

A state holds everything that its rows need to go on; nothing else is kept between calls.

    start     prompts and settings          -> a state, a slot for each prompt
    join      a state, another one, places  -> a state of the rows that go on, in those places
    advance   a state                       -> the same rows, some tokens further

`S` slots and `C` columns, the size of a row: prompts use the last of them, tokens and cache the
first. Sizes are rounded up to a few, so that XLA compiles few programs; what is generated does not
depend on them.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.guidance import GUIDANCE_SCALE
from tfgpt2.generation.logits.bias import SequenceBias, SequenceBiases, join_biases
from tfgpt2.generation.option_table import EXTRA_OPTIONS
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import Prompt, SamplingParams
from tfgpt2.generation.results import TopLogprobs
from tfgpt2.generation.stopping import StopState, StopStrings
from tfgpt2.generation.strategies.base import DecodeTask
from tfgpt2.generation.strategies.sampling import State, first_state
from tfgpt2.nn.kv_cache import resize_axis, row_cache, stored_dtype
from tfgpt2.serving.export.token_biases import TokenBiases, fit_biases
from tfgpt2.text.pipeline import EncodedTexts, TextPipeline, TextRequest
from tfgpt2.text.prompts import FINISH_REASONS

Tensors = dict[str, tf.Tensor]
_SMALLEST = 128  # columns of a state, where the context has as many
_SETTING = "setting_"  # begins the names of settings
_OWN = ("max_new_tokens", "seed")  # those that have tensors of their own
# Tensors `[S, C, ...]`, and whether it is the last columns that are used.
_COLUMNS = {"prompt_ids": True, "prompt_mask": True, "token_ids": False, "token_logprobs": False,
            "top_ids": False, "top_logprobs": False}  # fmt: skip


def can_serve(pipeline: TextPipeline, settings: Iterable[str]) -> bool:
    """Whether an engine can run what a pipeline is compiled for.

    Searches, several texts for a prompt, draft tokens and guidance need more than a row.

    Args:
        pipeline: The pipeline.
        settings: Names of the settings that requests hold.
    """
    spec, config = pipeline.spec, pipeline.config
    guided = config.asks(GUIDANCE_SCALE.name) or GUIDANCE_SCALE.name in settings
    one_row = spec.rows_per_prompt == 1 and not spec.num_draft_tokens and config.max_time is None
    return one_row and spec.strategy.streams and spec.use_cache and not guided


def state_sizes(context: int) -> tuple[int, ...]:
    """The sizes that a state can have, in columns.

    Example:
        >>> state_sizes(1024), state_sizes(100)
        ((128, 256, 512, 1024), (100,))
    """
    return tuple(size for size in default_buckets(context) if size >= min(context, _SMALLEST))


def state_specs(pipeline: TextPipeline, settings: Iterable[str]) -> dict[str, tf.TensorSpec]:
    """Types and shapes of a state's tensors.

    Args:
        pipeline: The pipeline.
        settings: Names of the settings that requests hold.
    """
    model, top = pipeline.model, pipeline.spec.top_logprobs
    known = REQUEST_OPTIONS | EXTRA_OPTIONS
    shapes = {_SETTING + name: (known[name].dtype,) for name in settings if name not in _OWN}
    shapes |= {
        "prompt_ids": ("int32", None), "prompt_mask": ("int32", None),
        "max_new_tokens": ("int32",), "seed": ("int64",),
        "stop_table": ("int16", None, None), "stop_lengths": ("int32", None),
        "bias_ids": ("int32", None), "bias_values": ("float32", None),
        "stop_tail": ("int16", None), "written_bytes": ("int32",), "stop_cut": ("int32",),
        "cached_tokens": ("int32",), "last_token": ("int32",), "num_tokens": ("int32",),
        "token_ids": ("int32", None), "token_logprobs": ("float32", None), "reason": ("int32",),
    }  # fmt: skip
    if pipeline.has_constraint:
        shapes["constraint_state"] = ("int32",)
    if top:
        shapes |= {"top_ids": ("int32", None, top), "top_logprobs": ("float32", None, top)}
    kept = stored_dtype(pipeline.decoder.cache_dtype or model.transformer.compute_dtype)
    for i, block in enumerate(model.transformer.h):
        layer = (kept.name, block.attn.heads, None, model.config.head_size)
        shapes |= {f"keys_{i}": layer, f"values_{i}": layer}
    return {
        name: tf.TensorSpec([None, *shape], dtype, name) for name, (dtype, *shape) in shapes.items()
    }


def start_rows(
    pipeline: TextPipeline, encoded: EncodedTexts, request: TextRequest, biases: TokenBiases
) -> Tensors:
    """Reads prompts but for their last tokens, with which `advance_rows` goes on.

    Args:
        pipeline: The pipeline.
        encoded: The prompts and settings, `S` rows.
        request: The same, as input of the decoder.
        biases: Those of single tokens.

    Returns:
        The state.
    """
    prompt, params, spec = request.prompt, request.params, pipeline.spec
    count = tf.reduce_sum(prompt.mask, axis=1)  # [S]
    size = _size(pipeline, count + params.max_new_tokens)
    cache = pipeline.decoder.prefill(spec, prompt)
    # The tokens that were read move to the first columns.
    order = tf.argsort(tf.cast(~cache.valid, tf.int32), axis=1, stable=True)[:, :size]  # [S, P]

    def move(layer: tf.Tensor) -> tf.Tensor:
        moved = tf.gather(layer, order, axis=2, batch_dims=1)  # [S, N, P, H]
        return resize_axis(tf.ensure_shape(moved, layer.shape), 2, size)  # [S, N, C, H]

    keys, values = tuple(map(move, cache.keys)), tuple(map(move, cache.values))
    buffer = tf.zeros([tf.shape(count)[0], size], tf.int32)  # [S, C]
    task = DecodeTask(None, prompt, params, spec, buffer)
    state = first_state(task, prompt.ids[:, -1], row_cache(keys, values, count - 1), vocab_size=0)
    refusal = encoded.status.refusal
    state = state._replace(reason=tf.where(refusal > 0, refusal, state.reason))
    settings = {_SETTING + n: x for n, x in encoded.values.items() if n not in _OWN}
    fixed = settings | {
        "prompt_ids": resize_axis(prompt.ids, 1, size, at_end=False),
        "prompt_mask": resize_axis(prompt.mask, 1, size, at_end=False),
        "max_new_tokens": params.max_new_tokens,
        "seed": params.seed,
        "stop_table": params.stop_strings.table,
        "stop_lengths": params.stop_strings.lengths,
        "bias_ids": biases.ids,
        "bias_values": biases.values,
    }
    return fixed | _changing(state)


def advance_rows(pipeline: TextPipeline, state: Tensors, steps: tf.Tensor) -> Tensors:
    """Chooses up to `steps` (int32 `[]`) tokens for each running row.

    Args:
        pipeline: The pipeline.
        state: The state.
        steps: How many.

    Returns:
        The tensors of the state that have changed.
    """
    prompt = Prompt(state["prompt_ids"], state["prompt_mask"])
    params, buffer = _params(pipeline, state, prompt), state["token_ids"]
    decode_state = _decode_state(state)
    decoder, spec = pipeline.decoder, pipeline.spec
    return _changing(decoder.advance_rows(spec, prompt, params, buffer, decode_state, steps))


def join_rows(pipeline: TextPipeline, state: Tensors, other: Tensors, source: tf.Tensor) -> Tensors:
    """Makes a state of rows of two.

    Args:
        pipeline: The pipeline.
        state: A state of `S` slots.
        other: Another state.
        source: int32 `[S']`, the row of each slot: those of `state` come first, then those of
            `other`. -1 is an empty slot.

    Returns:
        A state of `S'` slots, as small as these rows allow.
    """
    first, empty = tf.shape(state["reason"])[0], source < 0
    kept = tf.where(empty | (source >= first), 0, source)  # [S']
    slots = tf.where(source >= first)  # [n, 1], where rows of the other state go
    new = tf.gather_nd(source, slots) - first  # [n]

    def pick(one: tf.Tensor, two: tf.Tensor) -> tf.Tensor:
        # Written into what was gathered: the large tensors are copied once.
        return tf.tensor_scatter_nd_update(tf.gather(one, kept), slots, tf.gather(two, new))

    def needed(one: Tensors) -> tf.Tensor:
        return tf.reduce_sum(one["prompt_mask"], axis=1) + one["max_new_tokens"]  # [S]

    size = _size(pipeline, tf.where(empty, 0, pick(needed(state), needed(other))))
    columns = tf.maximum(*(tf.shape(one["stop_lengths"])[1] for one in (state, other)))
    stops = (resize_axis(one["stop_lengths"], 1, columns) for one in (state, other))
    count, width = stopping.table_size(tf.where(empty[:, None], 0, pick(*stops)))  # of [S', Q]
    biased = (tf.math.count_nonzero(o["bias_ids"] >= 0, 1, dtype=tf.int32) for o in (state, other))
    biased = tf.where(empty, 0, pick(*biased))  # [S']

    def resize(name: str, x: tf.Tensor) -> tf.Tensor:
        if name in _COLUMNS:
            return resize_axis(x, 1, size, at_end=not _COLUMNS[name])
        if name == "stop_lengths":
            return resize_axis(x, 1, count)
        if name == "stop_tail":
            return resize_axis(x, 1, width, filler=stopping.NO_BYTE, at_end=False)
        if name == "stop_table":
            x = resize_axis(x, 1, count, filler=stopping.NO_BYTE)
            return resize_axis(x, 2, width, filler=stopping.NO_BYTE)
        return x

    def resize_biases(one: Tensors) -> Tensors:
        biases = fit_biases(TokenBiases(one["bias_ids"], one["bias_values"]), biased)
        return {"bias_ids": biases.ids, "bias_values": biases.values}

    layers = [name for name in state if name.startswith(("keys_", "values_"))]

    def resize_layers(one: Tensors) -> Tensors:
        tensors = [one[name] for name in layers]
        sized = tf.cond(
            tf.shape(tensors[0])[2] == size,  # then they are not copied
            lambda: tensors,
            lambda: [resize_axis(x, 2, size) for x in tensors],
        )
        return dict(zip(layers, sized, strict=True))

    one, two = (
        {name: resize(name, x) for name, x in both.items()}
        | resize_layers(both)
        | resize_biases(both)
        for both in (state, other)
    )
    joined = {name: pick(x, two[name]) for name, x in one.items()}
    return joined | {
        "reason": tf.where(empty, stopping.LENGTH, joined["reason"]),
        "cached_tokens": tf.where(empty, 0, joined["cached_tokens"]),
    }


def finish_reasons(reason: tf.Tensor) -> tf.Tensor:
    """Names of finish reasons: int32 `[S]` -> string `[S]`, `"running"` before the end."""
    return tf.gather(tf.constant(FINISH_REASONS), reason)


def _size(pipeline: TextPipeline, needed: tf.Tensor) -> tf.Tensor:
    """The columns for rows that need so many, int32 `[S]` -> `[]`."""
    sizes = state_sizes(pipeline.model.config.n_positions)
    return round_up(tf.reduce_max(tf.pad(needed, [[0, 1]])), sizes)


def _changing(state: State) -> Tensors:
    """The tensors that change from token to token."""
    keys, values = state.cache.keys, state.cache.values
    tensors = {f"keys_{i}": x for i, x in enumerate(keys)}  # [S, N, C, H]
    tensors |= {f"values_{i}": x for i, x in enumerate(values)}
    tensors |= {
        "cached_tokens": state.cache.column,
        "last_token": state.token,
        "token_ids": state.tokens,
        "token_logprobs": state.logprobs,
        "num_tokens": state.count,
        "reason": state.reason,
        "stop_tail": state.stop.tail,
        "written_bytes": state.stop.length,
        "stop_cut": state.stop.cut,
    }
    if not isinstance(state.constraint, tuple):
        tensors["constraint_state"] = state.constraint
    if state.top:
        tensors |= {"top_ids": state.top.ids, "top_logprobs": state.top.logprobs}
    return tensors


def _decode_state(tensors: Tensors) -> State:
    """What `_changing` has taken apart."""
    layers = range(sum(name.startswith("keys_") for name in tensors))
    keys, values = ([tensors[f"{part}_{i}"] for i in layers] for part in ("keys", "values"))
    top = ()
    if "top_ids" in tensors:
        top = TopLogprobs(tensors["top_ids"], tensors["top_logprobs"])
    return State(
        token=tensors["last_token"],
        tokens=tensors["token_ids"],
        logprobs=tensors["token_logprobs"],
        count=tensors["num_tokens"],
        reason=tensors["reason"],
        steps=tf.constant(0),
        stop=StopState(tensors["stop_tail"], tensors["written_bytes"], tensors["stop_cut"]),
        constraint=tensors.get("constraint_state", ()),
        top=top,
        scores=(),
        logits=(),
        cache=row_cache(tuple(keys), tuple(values), tensors["cached_tokens"]),
        drafts=(),
    )


def _params(pipeline: TextPipeline, tensors: Tensors, prompt: Prompt) -> SamplingParams:
    """The settings of each row."""
    values = {
        name.removeprefix(_SETTING): value
        for name, value in tensors.items()
        if name.startswith(_SETTING)
    } | {name: tensors[name] for name in _OWN}
    before = tf.fill(tf.shape(tensors["stop_tail"]), tf.constant(stopping.NO_BYTE, tf.int16))
    stops = StopStrings(tensors["stop_table"], tensors["stop_lengths"], before)
    encoded = EncodedTexts(prompt, None, values, tensors["max_new_tokens"], stops)
    params = pipeline.make_request(encoded).params
    # As one of the options that a configuration can ask for.
    name = SequenceBias.option.name
    biases = SequenceBiases(tensors["bias_ids"][:, :, None], tensors["bias_values"])
    if name in params.options:
        biases = join_biases(params.options[name], biases)
    return params._replace(options={**params.options, name: biases})

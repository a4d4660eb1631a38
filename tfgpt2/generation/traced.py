"""`model.generate` inside `tf.function`: ids and mask are tensors of a graph, options are not.

A graph has no numbers to look at, so prompts are aligned by tensor operations, nothing about them
is checked, and results are padded to the most new tokens, as transformers' are in graphs.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.compiled import CompiledDecoder
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.from_config import build_params, extra_params
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.output_classes import TFGenerateOutput, output_class
from tfgpt2.generation.params import DecodeSpec, Prompt, option_rows
from tfgpt2.generation.results import Result
from tfgpt2.generation.stopping import StopStrings
from tfgpt2.generation.token_texts import TokenTexts
from tfgpt2.nn.kv_cache import align_right

# What a call in a graph can hold beside options.
INPUTS = ("input_ids", "attention_mask")
_NOT_IN_GRAPHS = ("max_time", "output_attentions", "output_hidden_states", "guidance_scale")


def check_traced(config: GenerationConfig, inputs: dict[str, Any]) -> None:
    """Checks that a call asks for nothing that a graph cannot do.

    Args:
        config: The options.
        inputs: Arguments that are not None, by name.

    Raises:
        TypeError: It does.
    """
    asked = {n: getattr(config, n) for n in _NOT_IN_GRAPHS if getattr(config, n)}
    asked |= {name: value for name, value in inputs.items() if name not in INPUTS}
    if asked:
        name = next(iter(asked))
        raise type_error(
            f"generate() cannot use `{name}` inside tf.function.",
            fix="Call model.generate outside of tf.function: it runs a compiled program anyway.",
            **{name: asked[name]},
        )


def generate_in_graph(
    model: Any,
    config: GenerationConfig,
    spec: DecodeSpec,
    decoder: CompiledDecoder,
    ids: tf.Tensor,
    mask: tf.Tensor | None,
    tokens: TokenTexts | None,
) -> tf.Tensor | TFGenerateOutput:
    """Continues token ids in a graph.

    Args:
        model: The model.
        config: The options, Python values.
        spec: The program that they ask for.
        decoder: The model's programs.
        ids: int `[B, P]`.
        mask: `[B, P]`, or None.
        tokens: The text of every id, where stop strings or constraints need it.

    Returns:
        int32 `[R, P + T]`, `T` the most new tokens; or a `TFGenerateOutput` of tensors.
    """
    ids = tf.cast(ids, tf.int32)
    mask = _inferred_mask(config, ids) if mask is None else tf.cast(mask, tf.int32)
    known, rows = ids.shape[0], tf.shape(ids)[0]
    aligned, valid = align_right(ids, mask)
    most, least = _lengths(config, ids)
    settings = config.request_values() | {"max_new_tokens": 0, "min_new_tokens": least}
    with tf.init_scope():  # numbers and strings that are the same in every call
        values = {n: option_rows(o, settings[n], known or 1) for n, o in REQUEST_OPTIONS.items()}
        extra = extra_params(config, known or 1, model.config.vocab_size, tokens)
        stops = _stop_strings(config, known or 1)
    if _is_fresh(settings["seed"]):  # another one in every call
        values["seed"] = tf.random.uniform([rows], maxval=2**62, dtype=tf.int64)
    elif known is None:
        values["seed"] += tf.range(rows, dtype=tf.int64)
    values = {n: tf.broadcast_to(value, [rows]) for n, value in values.items()}
    limit = tf.minimum(most, model.config.n_positions - tf.reduce_sum(valid, axis=1))  # [B]
    if stops:
        stops = StopStrings(*(tf.repeat(x, rows // tf.shape(x)[0], axis=0) for x in stops))
    params = build_params(config, spec, values, extra, limit=limit, rows=rows, stop_strings=stops)
    buffer = tf.zeros([rows * spec.rows_per_prompt, most], tf.int32)
    result = decoder.run(spec, Prompt(aligned, valid), params, buffer)
    return _output(config, ids, result, most)


def _lengths(config: GenerationConfig, ids: tf.Tensor) -> tuple[Any, Any]:
    """The most and the least new tokens; numbers where the width of the prompt is known."""
    width = ids.shape[1] if ids.shape[1] is not None else tf.shape(ids)[1]
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None:
        most = 20 if config.max_length is None else config.max_length - width
    if isinstance(most, (list, tuple)) or isinstance(least, (list, tuple)):
        raise value_error(
            "In a graph, all rows have the same numbers of new tokens.",
            fix="Pass one number.",
            max_new_tokens=most,
            min_new_tokens=least,
        )
    if isinstance(most, int) and most < 1:
        raise value_error(
            "There is no room for a new token.",
            fix="Pass max_new_tokens of 1 or more; max_length counts the prompt.",
            max_new_tokens=most,
        )
    if least is None:
        least = max(0, (config.min_length or 0) - (ids.shape[1] or 0))
    return most, least


def _inferred_mask(config: GenerationConfig, ids: tf.Tensor) -> tf.Tensor:
    if config.pad_token_id is None or config.pad_token_id in config.eos_ids:
        return tf.ones_like(ids)
    return tf.cast(ids != config.pad_token_id, tf.int32)


def _is_fresh(seed: Any) -> bool:
    return seed is None or (isinstance(seed, int) and seed < 0)


def _stop_strings(config: GenerationConfig, rows: int) -> StopStrings | tuple[()]:
    if not config.stop_strings:
        return ()
    checked = stopping.check_stop_strings("stop_strings", config.stop_strings, rows)
    return stopping.encode_stop_strings(checked)


def _output(
    config: GenerationConfig, ids: tf.Tensor, result: Result, most: Any
) -> tf.Tensor | TFGenerateOutput:
    returns = config.num_return_sequences or 1
    prompts = tf.repeat(ids, returns, axis=0)  # [R, P]
    ended = tf.range(most)[None] >= result.count[:, None]  # [R, T]
    new = tf.where(ended, config.padding_id, result.tokens[:, :most])
    sequences = tf.concat([prompts, new], axis=1)
    static = None if ids.shape[0] is None else ids.shape[0] * returns
    sequences = tf.ensure_shape(sequences, [static, None])
    if not config.return_dict_in_generate:
        return sequences
    tables = {
        name: tuple(tf.unstack(value, num=most, axis=1))
        for name in ("scores", "logits")
        if not isinstance(value := getattr(result, name), tuple) and isinstance(most, int)
    }
    return output_class(config)(
        sequences=sequences,
        sequences_scores=None if isinstance(result.score, tuple) else result.score,
        beam_indices=None if isinstance(result.beam_indices, tuple) else result.beam_indices,
        token_logprobs=result.logprobs,
        num_tokens=result.count,
        **tables,
    )

"""`model.generate`: transformers' arguments in, token ids out, around the compiled programs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.buckets import default_buckets, round_up
from tfgpt2.generation.compiled import CompiledDecoder, check_cache_dtype, decode_with_deadline
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.forward_outputs import forward_outputs
from tfgpt2.generation.from_config import build_params, decode_spec, extra_params
from tfgpt2.generation.inputs import (
    GenerateInputs,
    check_inputs,
    negative_prompt,
    right_aligned_prompt,
)
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.output_classes import TFGenerateOutput, output_class
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams, option_rows
from tfgpt2.generation.results import Result, check_finite, no_rows
from tfgpt2.generation.stopping import StopStrings
from tfgpt2.generation.token_texts import read_token_texts
from tfgpt2.generation.traced import check_traced, generate_in_graph

_DEFAULT_NEW_TOKENS = 20  # as in transformers
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds",
           "past_key_values", "prefix", "encoder_hidden_states",
           "encoder_attention_mask")  # fmt: skip


def generate(
    model: Any,
    inputs: Any = None,
    generation_config: GenerationConfig | None = None,
    *,
    tokenizer: Any = None,
    jit_compile: bool = True,
    cache_dtype: str | None = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    assistant_model: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    streamer: Any = None,
    **options: Any,
) -> tf.Tensor | TFGenerateOutput:
    """Continues token ids; see `TFGPT2LMHeadModel.generate`."""
    given = {name: options.pop(name) for name in _INPUTS if name in options}
    config = merge_config(model, generation_config, options)
    if not tf.executing_eagerly():
        others = {"streamer": streamer, "negative_prompt_ids": negative_prompt_ids}
        functions = (logits_processor, stopping_criteria)
        how = (tokenizer, jit_compile, assistant_model, cache_dtype)
        return _in_graph(model, config, inputs, given | others, functions, how)
    check_cache_dtype(cache_dtype)
    checked = check_inputs(model, config, inputs, **given)
    spec = decode_spec(
        config,
        model.config.vocab_size,
        assisted=assistant_model is not None,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
    )
    _check_call(model, config, checked, assistant_model, streamer, negative_prompt_ids)
    params, output_buffer = request_params(model, config, spec, checked, tokenizer)
    if len(checked.mask):
        prompt = right_aligned_prompt(checked, model.config.n_positions)
        if config.asks("guidance_scale"):
            other = negative_prompt(
                model, config, checked, negative_prompt_ids, negative_prompt_attention_mask
            )
            prompt = prompt._replace(negative=other)
        if params.stop_strings:
            stops = _after_prompts(params.stop_strings, prompt, spec, tokenizer)
            params = params._replace(stop_strings=stops)
        reads_text = tokenizer if params.stop_strings else None
        decoder = _decoder(model, reads_text, jit_compile, assistant_model, cache_dtype)
        request = (spec, prompt, params, output_buffer)
        if config.max_time is None and streamer is None:
            result = decoder.run(*request)
        else:
            result = decode_with_deadline(
                decoder, *request, seconds=config.max_time, streamer=streamer
            )
    else:
        result = no_rows(spec, model.config.vocab_size, beams=config.beams > 1)
    return _output(model, config, checked, result)


def merge_config(
    model: Any, generation_config: GenerationConfig | None, options: Mapping[str, Any]
) -> GenerationConfig:
    """Joins the configuration and the options of a call.

    Raises:
        TypeError: It is not a `GenerationConfig`, or an option is unknown.
        ValueError: A value is out of range, or contradicts another.
    """
    config = model.generation_config if generation_config is None else generation_config
    if not isinstance(config, GenerationConfig):
        raise type_error(
            "`generation_config` must be a tfgpt2.GenerationConfig.",
            fix="Use GenerationConfig.from_dict(values).",
            generation_config=generation_config,
        )
    return config.updated(**options)


def _check_call(
    model: Any,
    config: GenerationConfig,
    inputs: GenerateInputs,
    assistant: Any,
    streamer: Any,
    negative: Any,
) -> None:
    """Checks that the arguments of a call go together.

    Raises:
        ValueError: They do not.
    """
    strategy, guided = config.strategy, config.asks("guidance_scale")
    several = (config.num_return_sequences or 1) * (config.best_of or 1) > 1
    without_ids = not inputs.ids.shape[1]
    wrong = [
        (assistant is not None and not strategy.takes_draft_tokens, "An assistant proposes draft"
         " tokens for greedy decoding and sampling.", "Leave assistant_model out.",
         {"num_beams": config.beams}),
        (assistant is not None and config.prompt_lookup_num_tokens, "Draft tokens come from an"
         " assistant or from the sequence.", "Leave out assistant_model or"
         " prompt_lookup_num_tokens.",
         {"prompt_lookup_num_tokens": config.prompt_lookup_num_tokens}),
        (assistant is not None and assistant.config.vocab_size != model.config.vocab_size,
         "The assistant must have the model's vocabulary.", "Use a smaller model of the family.",
         {"vocab_size": getattr(getattr(assistant, "config", None), "vocab_size", None)}),
        (assistant is not None and without_ids, "An assistant needs the ids of the prompt.",
         "Pass input_ids, too.", {"inputs_embeds": inputs.embeds is not None}),
        (streamer is not None and (not strategy.streams or len(inputs.mask) != 1), "A streamer gets"
         " one sequence, as it grows.", "Pass one prompt, and no beams.",
         {"rows": len(inputs.mask), "num_beams": config.beams}),
        (streamer is not None and several, "A streamer gets one sequence.",
         "Leave num_return_sequences and best_of out.",
         {"num_return_sequences": config.num_return_sequences}),
        (not strategy.takes_prefix and (inputs.prefix is not None or without_ids),
         f"{strategy.name.capitalize()} compares tokens with the hidden states of the whole"
         " sequence.", "Pass all of it as input_ids.", {"penalty_alpha": config.penalty_alpha}),
        (guided and not strategy.takes_guidance, f"Guidance and {strategy.name} do not go"
         " together.", "Leave one out.", {"guidance_scale": config.guidance_scale}),
        (negative is not None and not guided, "A negative prompt acts with guidance only.",
         "Add guidance_scale=1.5.", {"guidance_scale": config.guidance_scale}),
    ]  # fmt: skip
    for contradiction, what, fix, received in wrong:
        if contradiction:
            raise value_error(what, fix=fix, **received)


def request_params(
    model: Any,
    config: GenerationConfig,
    spec: DecodeSpec,
    inputs: GenerateInputs,
    tokenizer: Any,
) -> tuple[SamplingParams, tf.Tensor]:
    """Returns the settings of each row, and the output buffer, int32 `[R, T]`."""
    rows, columns = len(inputs.mask), inputs.ids.shape[1]
    context, size = model.config.n_positions, model.config.vocab_size
    settings = config.request_values() | _lengths(config, columns)
    settings["seed"] = _joined_seed(settings["seed"], rows)
    values = {
        name: option_rows(option, settings[name], rows) for name, option in REQUEST_OPTIONS.items()
    }
    limit = tf.minimum(values["max_new_tokens"], context - tf.constant(inputs.lengths, tf.int32))
    tokens = (
        read_token_texts(tokenizer, size) if config.constraint and tokenizer is not None else None
    )
    extra = extra_params(config, rows, size, tokens)
    stops = _stop_strings(config, tokenizer, rows)
    params = build_params(config, spec, values, extra, limit=limit, rows=rows, stop_strings=stops)
    most = round_up(tf.reduce_max(tf.pad(limit, [[0, 1]])), default_buckets(context))
    return params, tf.zeros([rows * spec.rows_per_prompt, most], tf.int32)


def _joined_seed(seed: Any, rows: int) -> Any:
    """One seed for a pair, which is a single seed in transformers, where rows are not two."""
    if rows != 2 and np.shape(seed) == (2,) and np.min(seed) >= 0:
        return (int(seed[0]) + (int(seed[1]) << 32)) % 2**62
    return seed


def _lengths(config: GenerationConfig, columns: int) -> dict[str, Any]:
    """Turns lengths that include the prompt into numbers of new tokens.

    Source: transformers 4.57, `generation/utils.py::_prepare_generated_length`.
    """
    most, least = config.max_new_tokens, config.min_new_tokens
    if most is None and config.max_length is not None:
        most = config.max_length - columns
        if most <= 0:
            raise value_error(
                f"`max_length` includes the prompt, which has {columns} tokens already.",
                fix="Pass max_new_tokens.",
                max_length=config.max_length,
            )
    if least is None:
        least = max(0, (config.min_length or 0) - columns)
    return {
        "max_new_tokens": _DEFAULT_NEW_TOKENS if most is None else most,
        "min_new_tokens": least,
    }


def _decoder(
    model: Any, tokenizer: Any, jit_compile: bool, assistant: Any, cache_dtype: str | None
) -> CompiledDecoder:
    """Returns the model's programs, made once for each way to run them."""
    made = model.__dict__.setdefault("_decoders", weakref.WeakKeyDictionary())
    key = model.transformer if tokenizer is None else tokenizer
    spec = getattr(tokenizer, "spec", None)  # another one after `tokenizer.add_tokens`
    held, programs = made.get(key, (spec, {}))
    if held is not spec:
        programs = {}
    made[key] = (spec, programs)
    way = (jit_compile, None if assistant is None else id(assistant), cache_dtype)
    if way not in programs:
        token_bytes = None
        if tokenizer is not None:
            texts = read_token_texts(tokenizer, model.config.vocab_size)
            token_bytes = stopping.token_bytes(texts.written)
        programs[way] = CompiledDecoder(
            model,
            jit_compile=jit_compile,
            token_bytes=token_bytes,
            assistant=assistant,
            cache_dtype=cache_dtype,
        )
    return programs[way]


def _stop_strings(config: GenerationConfig, tokenizer: Any, rows: int) -> StopStrings | tuple[()]:
    """Encodes stop strings, for which the bytes of the tokens must be known."""
    strings = config.stop_strings
    if strings is None or strings == [] or strings == ():
        return ()
    _check_tokenizer(tokenizer)
    return stopping.encode_stop_strings(stopping.check_stop_strings("stop_strings", strings, rows))


def _check_tokenizer(tokenizer: Any) -> None:
    if not hasattr(tokenizer, "detokenize_bytes"):
        raise value_error(
            "`stop_strings` are matched on text, so generate() must know the tokenizer.",
            fix="Pass tokenizer=AutoTokenizer.from_pretrained(...).",
            tokenizer=tokenizer,
        )


def _after_prompts(
    stops: StopStrings, prompt: Prompt, spec: DecodeSpec, tokenizer: Any
) -> StopStrings:
    """Stop strings that may begin in the prompts, of which they see the last bytes.

    Source: transformers 4.57, `generation/stopping_criteria.py::StopStringCriteria`.
    """
    width = int(stops.table.shape[2])
    ids, mask = prompt.ids.numpy()[:, -width:], prompt.mask.numpy()[:, -width:]  # right-aligned
    texts = tokenizer.detokenize_bytes(ids.reshape([-1, 1]), skip_special_tokens=False).numpy()
    texts = texts.reshape(ids.shape)
    ends = [b"".join(row[keep > 0])[-width:] for row, keep in zip(texts, mask, strict=True)]
    before = np.full([len(ends), width], stopping.NO_BYTE, np.int16)
    for row, text in enumerate(ends):
        before[row, width - len(text) :] = np.frombuffer(text, np.uint8)
    return stops._replace(before=tf.repeat(tf.constant(before), spec.rows_per_prompt, axis=0))


def _in_graph(
    model: Any,
    config: GenerationConfig,
    inputs: Any,
    given: dict[str, Any],
    functions: tuple[Any, Any],
    how: tuple[Any, bool, Any, str | None],
) -> tf.Tensor | TFGenerateOutput:
    """Generates inside `tf.function`; see `traced`."""
    if isinstance(inputs, Mapping):
        given, inputs = given | dict(inputs), None
    given = {name: value for name, value in given.items() if value is not None}
    check_traced(config, given)
    ids = given.get("input_ids", inputs)
    if ids is None:
        ids = [[config.bos_token_id or 0]]
    tokenizer, jit_compile, assistant, cache_dtype = how
    check_cache_dtype(cache_dtype)
    with tf.init_scope():
        spec = decode_spec(
            config,
            model.config.vocab_size,
            assisted=assistant is not None,
            logits_processor=functions[0],
            stopping_criteria=functions[1],
        )
        reads_text = bool(config.stop_strings) or config.constraint is not None
        tokens = None
        if reads_text:
            _check_tokenizer(tokenizer)
            tokens = read_token_texts(tokenizer, model.config.vocab_size)
        reads = tokenizer if config.stop_strings else None
        decoder = _decoder(model, reads, jit_compile, assistant, cache_dtype)
    mask = given.get("attention_mask")
    return generate_in_graph(model, config, spec, decoder, tf.convert_to_tensor(ids), mask, tokens)


def _output(
    model: Any, config: GenerationConfig, inputs: GenerateInputs, result: Result
) -> tf.Tensor | TFGenerateOutput:
    """Returns a result in the form that the caller asked for."""
    returns = config.num_return_sequences or 1
    ids = inputs.ids.repeat(returns, axis=0)
    count = result.count.numpy()
    width = int(count.max(initial=0))
    logprobs = result.logprobs[:, :width]
    check_finite(logprobs.numpy())
    if not isinstance(result.score, tuple):
        check_finite(result.score.numpy())
    ended = np.arange(width)[None] >= count[:, None]  # [R, T]
    new = np.where(ended, config.padding_id, result.tokens.numpy()[:, :width])
    sequences = tf.constant(np.concatenate([ids, new], axis=1), tf.int32)  # [R, P + T]
    if not config.return_dict_in_generate:
        return sequences
    reasons = [stopping.FINISH_REASONS[code] for code in result.reason.numpy()]
    every = {name: getattr(result, name) for name in ("scores", "logits")}
    return output_class(config)(
        sequences=sequences,
        token_logprobs=logprobs,
        num_tokens=result.count,
        finish_reason=reasons,
        sequences_scores=_or_none(result.score),
        beam_indices=_or_none(result.beam_indices, lambda x: x[:, :width]),
        top_ids=result.top.ids[:, :width] if result.top else None,
        top_logprobs=result.top.logprobs[:, :width] if result.top else None,
        **{n: _or_none(x, lambda x: tuple(tf.unstack(x[:, :width], axis=1)) if width else ())
           for n, x in every.items()},
        **forward_outputs(model, config, inputs, new, ended),
    )  # fmt: skip


def _or_none(value: Any, change: Callable[[Any], Any] = lambda x: x) -> Any:
    """A field of a result, or None where the program has none."""
    return None if isinstance(value, tuple) else change(value)

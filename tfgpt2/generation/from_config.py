"""The one place where a configuration becomes what a program takes: `DecodeSpec` and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.constraints import masking
from tfgpt2.generation.constraints.compile import compile_constraint
from tfgpt2.generation.constraints.token_dfa import fewest_tokens
from tfgpt2.generation.guidance import GUIDANCE_SCALE
from tfgpt2.generation.logits.callables import adapt
from tfgpt2.generation.logits.id_lists import per_row
from tfgpt2.generation.logits.pipeline import PROCESSORS
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.generation.params import (
    DecodeSpec,
    SamplingParams,
    broadcast_rows,
    option_rows,
    sequence_seeds,
)
from tfgpt2.generation.stopping import StopStrings
from tfgpt2.generation.strategies.diverse_beam_search import DiverseBeamSearch
from tfgpt2.generation.token_texts import TokenTexts


def decode_spec(
    config: GenerationConfig,
    vocab_size: int,
    *,
    assisted: bool = False,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
) -> DecodeSpec:
    """The `DecodeSpec` of a configuration.

    Args:
        config: The configuration.
        vocab_size: `V`.
        assisted: Whether a smaller model proposes draft tokens.
        logits_processor: A user's function on scores, or several.
        stopping_criteria: A user's stopping function, or several.

    Raises:
        TypeError: `logits_processor` or `stopping_criteria` are not functions.
        ValueError: `top_logprobs` is larger than the vocabulary.
    """
    if (config.top_logprobs or 0) > vocab_size:
        raise value_error(
            f"`top_logprobs` must be at most {vocab_size}, the size of the model's vocabulary.",
            fix="Ask for fewer.",
            top_logprobs=config.top_logprobs,
        )
    drafts = config.num_assistant_tokens if assisted else config.prompt_lookup_num_tokens
    return DecodeSpec(
        strategy=config.strategy.from_config(config, vocab_size),
        num_return_sequences=config.num_return_sequences or 1,
        best_of=config.best_of or 0,
        num_draft_tokens=drafts or 0,
        max_matching_ngram_size=config.max_matching_ngram_size,
        top_logprobs=config.top_logprobs or 0,
        output_scores=bool(config.output_scores),
        output_logits=bool(config.output_logits),
        use_cache=config.use_cache is not False,
        logits_processors=tuple(map(adapt, _functions("logits_processor", logits_processor))),
        stopping_criteria=_functions("stopping_criteria", stopping_criteria),
    )


def extra_params(
    config: GenerationConfig, rows: int, vocab_size: int, tokens: TokenTexts | None
) -> SamplingParams:
    """The optional parameters that a configuration asks for.

    Args:
        config: The configuration.
        rows: `B`, for options that are lists with one value per prompt; 1 for defaults.
        vocab_size: `V`.
        tokens: The text of every token, for constraints; None where it is unknown.

    Returns:
        Parameters whose `options` and `constraint` have 1 or `B` rows; the fields that every
        program has are empty, see `build_params`.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or a constraint needs the tokenizer.
    """
    options: dict[str, Any] = {
        processor.option.name: processor.values(config, rows, vocab_size)
        for processor in PROCESSORS
        if processor.option.name not in REQUEST_OPTIONS and processor.is_asked(config)
    }
    values = config.strategy.option_values(config)
    for option in config.strategy.options:
        options[option.name] = option_rows(option, values[option.name], rows)
    if config.asks(GUIDANCE_SCALE.name):
        options[GUIDANCE_SCALE.name] = option_rows(GUIDANCE_SCALE, config.guidance_scale, rows)
    if issubclass(config.strategy, DiverseBeamSearch):
        pad = config.pad_token_id if config.pad_token_id is not None else (*config.eos_ids, -1)[0]
        options["pad_token_id"] = tf.constant([pad], tf.int32)
    constraint = _constraint(config, rows, vocab_size, tokens)
    return SamplingParams((), (), (), options, constraint=constraint)


def build_params(
    config: GenerationConfig,
    spec: DecodeSpec,
    values: Mapping[str, tf.Tensor],
    extra: SamplingParams,
    *,
    limit: tf.Tensor,
    rows: tf.Tensor | int,
    stop_strings: StopStrings | tuple[()] = (),
) -> SamplingParams:
    """Joins the settings of a request into the parameters of every row, in Python or in a graph.

    Args:
        config: The configuration.
        spec: What the program is compiled for.
        values: One tensor `[B]` for each of `REQUEST_OPTIONS`, seeds 0 or more; and for any other
            option of the request with one value per row.
        extra: What `extra_params` returned.
        limit: int32 `[B]`, most new tokens: what was asked for, as far as it fits.
        rows: `B`.
        stop_strings: Stop strings, `[B, ...]`.

    Returns:
        Parameters with `B * spec.rows_per_prompt` rows, those of a prompt side by side.
    """
    copies = spec.rows_per_prompt
    own = {n: value for n, value in values.items() if n not in ("max_new_tokens", "seed")}
    params = SamplingParams(
        max_new_tokens=limit,
        seed=values["seed"],
        eos_token_ids=eos_token_ids(config),
        options=extra.options | own,
        stop_strings=stop_strings,
        constraint=extra.constraint,
    )
    seeds = sequence_seeds(values["seed"], copies)
    return broadcast_rows(params, rows, copies)._replace(seed=seeds)


def eos_token_ids(config: GenerationConfig) -> tf.Tensor:
    """The ids that end a sequence: int32 `[1, E]`, -1 for none."""
    return tf.constant([config.eos_ids or [-1]], tf.int32)


def _functions(name: str, value: Any) -> tuple[Any, ...]:
    """A function, several, or none, as a tuple."""
    several = isinstance(value, (list, tuple))  # a list of processors can be called itself
    functions = () if value is None else tuple(value) if several else (value,)
    if not all(map(callable, functions)):
        raise type_error(
            f"`{name}` must be a function of tensors, or a list of such functions.",
            fix="It becomes part of the compiled program; see TFGPT2LMHeadModel.generate.",
            **{name: value},
        )
    return functions


def _constraint(
    config: GenerationConfig, rows: int, vocab_size: int, tokens: TokenTexts | None
) -> masking.Constraint | tuple[()]:
    """Compiles what the texts must match, for all rows or for each."""
    name = config.constraint
    if name is None:
        return ()
    if tokens is None:
        raise value_error(
            f"`{name}` is matched on text, so generate() must know the tokenizer.",
            fix="Pass tokenizer=TFGPT2Tokenizer.from_pretrained(...).",
            tokenizer=None,
        )
    values = per_row(name, getattr(config, name), rows, int(name == "choices"))
    dfas = [
        None if value is None else compile_constraint(
            tokens.written, **{name: value}, end_ids=config.eos_ids, special_ids=tokens.special
        )
        for value in values
    ]  # fmt: skip
    least = max((fewest_tokens(one) for one in dfas if one is not None), default=0)
    most = config.max_new_tokens
    if most is not None and np.min(np.asarray(most), initial=least) < least:
        raise value_error(
            f"The shortest text that fits `{name}` takes {least} tokens of this vocabulary.",
            fix=f"Pass max_new_tokens={least} or more.",
            max_new_tokens=most,
        )
    return masking.batch_dfas(dfas, vocab_size)

"""Checks of the parts and defaults of a `TextGenerator`, once, when it is made."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.generation import stopping
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.generation.option_table import EXTRA_OPTIONS
from tfgpt2.models.causal_lm import TFGPT2LMHeadModel
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer

# Options of `GenerationConfig` for texts; the others are for token ids.
TEXT_OPTIONS = tuple(
    name
    for name in GenerationConfig().to_dict()
    if not name.startswith("output_")
    and name not in ("max_length", "min_length", "return_dict_in_generate", "bos_token_id",
                     "pad_token_id", "eos_token_id", "stop_strings")
)  # fmt: skip

LONG_PROMPT_POLICIES = ("error", "truncate_left")


def check_parts(model: Any, tokenizer: Any, on_long_prompt: str, assistant: Any = None) -> None:
    """Checks that model and tokenizer belong together.

    Raises:
        TypeError: One of them is something else.
        ValueError: The policy is unknown, or the assistant has another vocabulary.

    Warns:
        UserWarning: The tokenizer has ids that the model does not have.
    """
    for name, value, kind in (
        ("model", model, TFGPT2LMHeadModel),
        ("tokenizer", tokenizer, TFGPT2Tokenizer),
    ):
        if not isinstance(value, kind):
            raise type_error(
                f"`{name}` must be a {kind.__name__}.",
                fix="Use TextGenerator.from_pretrained(name) to load both.",
                **{name: value},
            )
    if assistant is not None and (
        not isinstance(assistant, TFGPT2LMHeadModel)
        or assistant.config.vocab_size != model.config.vocab_size
    ):
        raise value_error(
            "`assistant` must be a TFGPT2LMHeadModel with the model's vocabulary.",
            fix="Use a smaller model of the same family.",
            assistant=getattr(getattr(assistant, "config", None), "vocab_size", assistant),
            model_vocab_size=model.config.vocab_size,
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        warnings.warn(
            f"The tokenizer has {tokenizer.vocab_size} ids and the model {model.config.vocab_size}:"
            " texts with the tokens above are refused, and none of them is generated. If they do"
            " not come from the same checkpoint, results are meaningless.",
            stacklevel=3,
        )
    if on_long_prompt not in LONG_PROMPT_POLICIES:
        raise value_error(
            f"`on_long_prompt` must be one of {', '.join(LONG_PROMPT_POLICIES)}.",
            fix=nearest(str(on_long_prompt), LONG_PROMPT_POLICIES),
            on_long_prompt=on_long_prompt,
        )


def check_defaults(config: GenerationConfig, prefix: str | None = None) -> None:
    """Checks that a configuration can serve as the defaults of any number of rows.

    Raises:
        TypeError: It is not a configuration.
        ValueError: A value is out of range, not supported, or a list with one value per row.
    """
    if not isinstance(config, GenerationConfig):
        raise type_error(
            "`generation_config` must be a tfgpt2.GenerationConfig.",
            fix="Use GenerationConfig.from_dict(values).",
            generation_config=config,
        )
    config.validate()
    if not config.strategy.takes_prefix and prefix is not None:
        raise value_error(
            f"{config.strategy.name.capitalize()} compares tokens with the hidden states of the"
            " whole sequence, and a prefix keeps none.",
            fix="Put the prefix into the prompts.",
            penalty_alpha=config.penalty_alpha,
            prefix=prefix,
        )
    options = config.request_values()
    options |= {name: getattr(config, name) for name in EXTRA_OPTIONS if config.asks(name)}
    for name, value in options.items():
        if np.ndim(value) > 0:
            raise value_error(
                f"The default of `{name}` must be one value, for prompts of any number.",
                fix=f"Pass one value per prompt to generate({name}=...).",
                **{name: value},
            )
    stopping.check_stop_strings("stop_strings", config.stop_strings or [], 1)


def with_end_token(
    config: GenerationConfig, model: TFGPT2LMHeadModel, tokenizer: TFGPT2Tokenizer
) -> GenerationConfig:
    """Returns a configuration whose texts end where the tokenizer ends texts.

    Models whose tokenizer puts a token such as `[SEP]` after each text learn to end with it, but
    their configurations often name GPT-2's end token, which their vocabulary does not have. Only
    then the tokenizer decides.
    """
    size = model.config.vocab_size
    ends = [one for one in tokenizer.spec.suffix_ids[-1:] if one < size]
    if not isinstance(config, GenerationConfig) or not ends:
        return config
    if any(0 <= one < size for one in config.eos_ids):
        return config
    return config.updated(eos_token_id=ends[0])

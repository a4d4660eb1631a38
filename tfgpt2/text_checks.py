"""What a `TextGenerator` is made of is checked once, when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfgpt2.errors import explain, nearest
from tfgpt2.generation import stopping
from tfgpt2.generation.config import GenerationConfig
from tfgpt2.modeling.heads import TFGPT2LMHeadModel
from tfgpt2.tokenizer.layer import TFGPT2Tokenizer

LONG_PROMPT_POLICIES = ("error", "truncate_left")


def check_parts(model: Any, tokenizer: Any, on_long_prompt: str) -> None:
    """Checks that model and tokenizer belong together.

    Raises:
        TypeError: One of them is something else.
        ValueError: The vocabulary is larger than the model's, or the policy is unknown.
    """
    for name, value, kind in (
        ("model", model, TFGPT2LMHeadModel),
        ("tokenizer", tokenizer, TFGPT2Tokenizer),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                explain(
                    f"`{name}` must be a {kind.__name__}.",
                    fix="Use TextGenerator.from_pretrained(name) to load both.",
                    **{name: value},
                )
            )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            explain(
                "The vocabulary does not fit the model: it has ids that the model has no"
                " embedding for.",
                fix="Load tokenizer and model from the same checkpoint.",
                tokenizer_vocab_size=tokenizer.vocab_size,
                model_vocab_size=model.config.vocab_size,
            )
        )
    if on_long_prompt not in LONG_PROMPT_POLICIES:
        raise ValueError(
            explain(
                f"`on_long_prompt` must be one of {', '.join(LONG_PROMPT_POLICIES)}.",
                fix=nearest(str(on_long_prompt), LONG_PROMPT_POLICIES),
                on_long_prompt=on_long_prompt,
            )
        )


def check_defaults(config: GenerationConfig) -> None:
    """Checks that a configuration can serve as the defaults of any number of rows.

    Raises:
        TypeError: It is no configuration.
        ValueError: A value is out of range, not supported, or a list with one value per row.
    """
    if not isinstance(config, GenerationConfig):
        raise TypeError(
            explain(
                "`generation_config` must be a tfgpt2.GenerationConfig.",
                fix="Use GenerationConfig.from_dict(values).",
                generation_config=config,
            )
        )
    config.validate()
    if config.beams > 1:
        raise ValueError(
            explain(
                "The generation option `num_beams` is not supported yet by TextGenerator.",
                fix="Use model.generate(num_beams=...) on token ids, or num_beams=1 here.",
                num_beams=config.num_beams,
            )
        )
    for name, value in config.row_options().items():
        if np.ndim(value) > 0:
            raise ValueError(
                explain(
                    f"The default of `{name}` must be one value, for prompts of any number.",
                    fix=f"Pass one value per prompt to generate({name}=...).",
                    **{name: value},
                )
            )
    strings = config.stop_strings or []
    stopping.stop_rows("stop_strings", strings, 1)

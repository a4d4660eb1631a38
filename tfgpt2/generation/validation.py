"""Contradictions between options of generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.generation.option_table import DEFAULTS, OPTIONS, SAMPLING_OPTIONS
from tfgpt2.generation.option_values import is_one_of
from tfgpt2.generation.options import CONSTRAINTS
from tfgpt2.generation.strategies.registry import STRATEGIES, strategy_of


def check_together(config: Any) -> None:
    """Checks that the options of a configuration go together.

    Raises:
        ValueError: Two of them contradict each other.
    """
    strategy, returns = strategy_of(config), config.num_return_sequences or 1
    groups, best_of = config.num_beam_groups or 1, config.best_of or 0
    most = strategy.max_sequences(config)
    given = tuple(name for name in CONSTRAINTS if getattr(config, name) is not None)
    search = ("num_beams", "penalty_alpha")
    wrong = [
        (most == 1 and returns > 1, "`num_return_sequences` above 1 needs sampling or beams: all"
         " sequences would be equal.", "Add do_sample=True or num_beams.",
         ("num_return_sequences", "do_sample")),
        (most is not None and returns > most, "`num_return_sequences` must not be larger than"
         " `num_beams`.", "Use as many beams.", ("num_return_sequences", "num_beams")),
        (best_of and most is not None, "`best_of` chooses among samples.", "Add do_sample=True.",
         ("best_of", "do_sample", "num_beams")),
        (best_of and best_of < returns, "`best_of` must not be smaller than"
         " `num_return_sequences`.", "Sample more sequences.", ("best_of", "num_return_sequences")),
        (config.beams % groups, "`num_beams` must be a multiple of `num_beam_groups`.",
         "Give every group as many beams.", ("num_beams", "num_beam_groups")),
        *strategy.contradictions(config),
        (config.prompt_lookup_num_tokens and not strategy.takes_draft_tokens, "Prompt lookup is for"
         " greedy decoding and sampling.", "Leave out prompt_lookup_num_tokens.",
         ("prompt_lookup_num_tokens", *search)),
        (len(given) > 1, "Only one of choices, regex and json_schema can hold.",
         "Write one regex.", given),
        (config.max_time is not None and not strategy.streams, "`max_time` can end greedy decoding"
         " and sampling, not a search.", "Use max_new_tokens.", ("max_time", *search)),
        (config.top_logprobs and not strategy.reports_top_logprobs, "`top_logprobs` is for greedy"
         " decoding and sampling.", "Use output_scores=True.", ("top_logprobs", *search)),
        (given and not strategy.takes_constraints, f"{strategy.name.capitalize()} cannot be"
         " constrained.", "Use sampling or beams.", ("penalty_alpha", *given)),
    ]  # fmt: skip
    for contradiction, what, fix, names in wrong:
        if contradiction:
            raise value_error(what, fix=fix, **{n: getattr(config, n) for n in names})


def check_asked(config: Any, options: Mapping[str, Any]) -> None:
    """Checks that what a call asks for acts on the strategy that it uses.

    Raises:
        ValueError: An option acts on another strategy only.
    """
    strategy = strategy_of(config)
    asked = {
        name: options[name]
        for name in SAMPLING_OPTIONS
        if name not in strategy.sampling_options
        and not _all_of(options.get(name), (None, DEFAULTS[name], OPTIONS[name].off))
    }
    if asked and not config.do_sample:
        raise value_error(
            f"`{next(iter(asked))}` acts on sampling only, and this is {strategy.name}.",
            fix="Add do_sample=True.",
            **asked,
        )
    if config.asks("diversity_penalty") != ((config.num_beam_groups or 1) > 1):
        raise value_error(
            "`diversity_penalty` and `num_beam_groups` go together.",
            fix="For example num_beams=4, num_beam_groups=2, diversity_penalty=0.5.",
            diversity_penalty=config.diversity_penalty,
            num_beam_groups=config.num_beam_groups,
        )
    for owner in reversed(STRATEGIES):  # the most general one first
        for name, default in ((option.name, option.default) for option in owner.options):
            foreign = name not in (option.name for option in strategy.options)
            if foreign and not is_one_of(options.get(name), (None, default, OPTIONS[name].off)):
                raise value_error(
                    f"`{name}` acts on {owner.name} only, and this is {strategy.name}.",
                    fix="Leave it out, or ask for that strategy, such as with num_beams=4.",
                    **{name: options[name]},
                )


def _all_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, or every entry of a list or an array, is one of some scalars."""
    if np.ndim(value) == 0:
        return is_one_of(value, choices)
    return all(is_one_of(one, choices) for one in np.asarray(value).reshape(-1).tolist())

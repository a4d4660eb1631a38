"""Which options of generation contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfgpt2.errors import explain
from tfgpt2.generation.known_options import BEAMS_ONLY, DEFAULTS, SAMPLING
from tfgpt2.generation.options import OPTIONS

if TYPE_CHECKING:
    from tfgpt2.generation.config import GenerationConfig


def check_together(config: GenerationConfig) -> None:
    """Checks that the options of a configuration go together.

    Raises:
        ValueError: Two of them contradict each other.
    """
    strategy, returns = config.strategy, config.num_return_sequences or 1
    groups, lookup = config.num_beam_groups or 1, config.prompt_lookup_num_tokens
    most = {"beams": config.beams, "sample": returns}.get(strategy, 1)
    best_of = config.best_of or 0
    given = [n for n in ("choices", "regex", "json_schema") if getattr(config, n) is not None]
    wrong = [
        (strategy in ("greedy", "contrastive") and returns > 1,
         "`num_return_sequences` above 1 needs sampling or beams: all texts would be equal.",
         "Add do_sample=True or num_beams.", ("num_return_sequences", "do_sample")),
        (returns > most, "`num_return_sequences` must not be larger than `num_beams`.",
         "Use as many beams.", ("num_return_sequences", "num_beams")),
        (best_of and strategy != "sample", "`best_of` chooses among samples.",
         "Add do_sample=True.", ("best_of", "do_sample", "num_beams")),
        (best_of and best_of < returns, "`best_of` must not be smaller than"
         " `num_return_sequences`.", "Sample more texts.", ("best_of", "num_return_sequences")),
        (config.beams % groups, "`num_beams` must be a multiple of `num_beam_groups`.",
         "Give every group as many beams.", ("num_beams", "num_beam_groups")),
        (groups > 1 and config.do_sample, "Groups of beams do not sample.",
         "Leave do_sample out.", ("num_beam_groups", "do_sample")),
        (config.asks("penalty_alpha") and config.do_sample, "Contrastive search does not sample.",
         "Leave out do_sample or penalty_alpha.", ("penalty_alpha", "do_sample")),
        (config.asks("penalty_alpha") and config.beams > 1, "Contrastive search has no beams.",
         "Leave out num_beams or penalty_alpha.", ("penalty_alpha", "num_beams")),
        (strategy == "contrastive" and not np.all(np.asarray(config.top_k or 0) > 1),
         "Contrastive search compares the `top_k` likeliest tokens, two or more.",
         "Pass top_k=4.", ("penalty_alpha", "top_k")),
        (strategy == "contrastive" and config.use_cache is False,
         "Contrastive search needs the cache.", "Leave use_cache out.",
         ("penalty_alpha", "use_cache")),
        (lookup and strategy in ("beams", "contrastive"), "Lookup decoding is for greedy"
         " decoding and sampling.", "Leave out prompt_lookup_num_tokens.",
         ("prompt_lookup_num_tokens", "num_beams", "penalty_alpha")),
        (len(given) > 1, "Only one of choices, regex and json_schema can hold.",
         "Write one regex.", tuple(given)),
        (config.max_time is not None and strategy in ("beams", "contrastive"), "`max_time` can end"
         " greedy decoding and sampling, not a search.", "Use max_new_tokens.",
         ("max_time", "num_beams", "penalty_alpha")),
        (strategy in ("beams", "contrastive") and (config.output_scores or config.output_logits
         or config.top_logprobs), "Searches report the scores of the tokens they chose, not those"
         " of the whole vocabulary.", "Use token_logprobs and sequences_scores.",
         ("output_scores", "output_logits", "top_logprobs", "num_beams", "penalty_alpha")),
        (given and strategy == "contrastive", "Contrastive search cannot be constrained.",
         "Use sampling or beams.", ("penalty_alpha", *given)),
        (given and strategy == "beams" and not config.eos_ids,
         "Constrained beams need an end token.", "Set eos_token_id.",
         ("eos_token_id", "num_beams", *given)),
    ]  # fmt: skip
    for contradiction, what, fix, names in wrong:
        if contradiction:
            raise ValueError(explain(what, fix=fix, **{n: getattr(config, n) for n in names}))


def check_asked(config: GenerationConfig, options: Mapping[str, Any]) -> None:
    """Checks that what a call asks for acts on the strategy that it uses.

    Raises:
        ValueError: An option acts on another strategy only.
    """
    sampling = {*SAMPLING} - ({"top_k"} if config.strategy == "contrastive" else set())
    asked = {
        name: options[name]
        for name in SAMPLING
        if name in sampling
        and not _all_of(options.get(name), (None, DEFAULTS[name], OPTIONS[name].off))
    }
    if asked and not config.do_sample:
        raise ValueError(
            explain(
                f"`{next(iter(asked))}` acts on sampling only, and decoding is"
                f" {'greedy' if config.strategy == 'greedy' else 'a search'}.",
                fix="Add do_sample=True.",
                **asked,
            )
        )
    asked = {
        name: options[name]
        for name in BEAMS_ONLY
        if not is_one_of(options.get(name), (None, DEFAULTS[name]))
    }
    if asked and config.beams == 1:
        raise ValueError(
            explain(
                f"`{next(iter(asked))}` acts on beam search only, and there is one beam.",
                fix="Add num_beams=4.",
                **asked,
            )
        )
    if config.asks("diversity_penalty") != ((config.num_beam_groups or 1) > 1):
        raise ValueError(
            explain(
                "`diversity_penalty` and `num_beam_groups` go together.",
                fix="For example num_beams=4, num_beam_groups=2, diversity_penalty=0.5.",
                diversity_penalty=config.diversity_penalty,
                num_beam_groups=config.num_beam_groups,
            )
        )


def is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, which may be an array, is one of some plain ones."""
    return any(value is one for one in choices) or (np.ndim(value) == 0 and value in choices)


def _all_of(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a value, or every entry of a list or an array, is one of some plain ones."""
    if np.ndim(value) == 0:
        return is_one_of(value, choices)
    return all(is_one_of(one, choices) for one in np.asarray(value).reshape(-1).tolist())

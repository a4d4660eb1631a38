"""transformers' names of the decoding methods."""

from __future__ import annotations

import enum
from typing import Any


class GenerationMode(enum.StrEnum):
    """A decoding method, as `GenerationConfig.get_generation_mode` returns it."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    GROUP_BEAM_SEARCH = "group_beam_search"


def mode_of(config: Any, *, assisted: bool = False) -> GenerationMode:
    """The method that a `GenerationConfig` chooses.

    Args:
        config: The configuration.
        assisted: Whether draft tokens are proposed for greedy decoding and sampling.
    """
    if (config.num_beam_groups or 1) > 1:
        return GenerationMode.GROUP_BEAM_SEARCH
    if config.beams > 1:
        return GenerationMode.BEAM_SAMPLE if config.do_sample else GenerationMode.BEAM_SEARCH
    if config.strategy.takes_draft_tokens and assisted:
        return GenerationMode.ASSISTED_GENERATION
    if config.do_sample:
        return GenerationMode.SAMPLE
    contrasts = not config.strategy.takes_draft_tokens
    return GenerationMode.CONTRASTIVE_SEARCH if contrasts else GenerationMode.GREEDY_SEARCH

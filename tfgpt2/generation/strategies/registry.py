"""The decoding strategies there are."""

from __future__ import annotations

from typing import Any

from tfgpt2.generation.strategies.base import Strategy
from tfgpt2.generation.strategies.beam_search import BeamSearch
from tfgpt2.generation.strategies.contrastive_search import ContrastiveSearch
from tfgpt2.generation.strategies.diverse_beam_search import DiverseBeamSearch
from tfgpt2.generation.strategies.sampling import GreedySearch, Sampling

# To add a strategy: a line here. The first that matches a configuration is taken.
STRATEGIES: tuple[type[Strategy], ...] = (
    DiverseBeamSearch,
    BeamSearch,
    ContrastiveSearch,
    Sampling,
    GreedySearch,
)


def strategy_of(config: Any) -> type[Strategy]:
    """The strategy that a `GenerationConfig` asks for."""
    return next(strategy for strategy in STRATEGIES if strategy.matches(config))

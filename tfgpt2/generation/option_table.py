"""All options of generation by name, derived from their owners."""

from __future__ import annotations

from tfgpt2.generation.guidance import GUIDANCE_SCALE
from tfgpt2.generation.logits.base import LogitsWarper
from tfgpt2.generation.logits.pipeline import PROCESSORS
from tfgpt2.generation.options import COUNTS, FLAGS, OTHERS, REQUEST_OPTIONS, Option
from tfgpt2.generation.strategies.registry import STRATEGIES

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        *REQUEST_OPTIONS.values(),
        *(processor.option for processor in PROCESSORS),
        GUIDANCE_SCALE,
        *(option for strategy in STRATEGIES for option in strategy.options),
        *FLAGS,
        *COUNTS,
        *OTHERS,
    )
}
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
# Options with one value per row.
ROW_OPTIONS = {name: option for name, option in OPTIONS.items() if option.dtype}
# Those that a program has only when they are asked for, and that an export may take as inputs.
EXTRA_OPTIONS = {
    name: option
    for name, option in ROW_OPTIONS.items()
    if name not in REQUEST_OPTIONS and name not in ("length_penalty", "early_stopping")
}
# Those that act where tokens are drawn.
SAMPLING_OPTIONS = tuple(
    processor.option.name for processor in PROCESSORS if isinstance(processor, LogitsWarper)
)

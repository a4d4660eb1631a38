"""The memory that a model's weights take, compared with the machine's before they are made."""

from __future__ import annotations

import math
import os
from pathlib import Path

import tensorflow as tf

from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error
from tfgpt2.nn import quantization

# Limits of a container: control groups of version 2 and 1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def count_weights(config: GPT2Config) -> int:
    """Returns the number of weights that a configuration asks for, without untied heads."""
    width, inner = config.n_embd, config.inner_size
    attention = 4 * width * (width + 1)  # of c_attn and c_proj, or of q_attn, c_attn and c_proj
    block = attention * (2 if config.add_cross_attention else 1) + 2 * width * inner
    tables = config.vocab_size + config.n_positions + config.num_labels
    return tables * width + config.n_layer * block


def check_memory(config: GPT2Config, dtype: str) -> None:
    """Checks that the weights fit into this machine, which might otherwise end the process.

    Args:
        config: The configuration of a model that is about to be built.
        dtype: Type of its weights.

    Raises:
        ValueError: The weights alone take more than the whole memory.
    """
    size = 1 if quantization.is_configured(config) else tf.as_dtype(dtype).size
    count, memory = count_weights(config), _total_memory()
    if count * size > memory:
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_inner", "num_labels")
        raise value_error(
            f"A model of these sizes has {count:.2g} weights, {count * size / 1e9:,.0f} GB, and"
            f" this machine has {memory / 1e9:,.0f} GB of memory.",
            fix="Check the sizes, in config.json if they come from a file.",
            **{name: getattr(config, name) for name in sizes},
        )


def _total_memory() -> float:
    """Returns the memory of this machine or container in bytes; infinite where it is unknown."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not POSIX
        total = math.inf
    for path in map(Path, _LIMITS):
        try:
            total = min(total, float(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total

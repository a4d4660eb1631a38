"""Count the XLA recompilations when the value of a generation option changes.

    python benchmarks/recompile.py [OPTION ...]

Without names, all options are measured.

For each option that can be set per row, the first call compiles; the next calls pass other values.
Tracing counts do not show compilations by XLA, so the calls are timed and the programs that XLA
dumps (`--xla_dump_to`) are counted. The last row is a control: `tf.math.top_k` with a tensor `k`,
which does recompile.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["XLA_FLAGS"] = f"--xla_dump_to={tempfile.mkdtemp()} --xla_dump_hlo_as_text"
import numpy as np
import tensorflow as tf

import tfgpt2

DUMP = Path(os.environ["XLA_FLAGS"].split()[0].split("=")[1])
PROMPTS = np.array([[3, 8, 1, 20], [5, 5, 2, 7]])
SAMPLE = {"do_sample": True, "temperature": 0.8}
# Name -> further options, and the values: the first compiles, the others must not.
OPTIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "max_new_tokens": ({}, [16, 9, [12, 3]]),
    "min_new_tokens": ({"eos_token_id": [4, 9]}, [0, 5, [3, 12]]),
    "temperature": ({"do_sample": True}, [0.7, 1.5, [0.0, 0.4]]),
    "top_k": (SAMPLE, [5, 0, [3, 17]]),
    "top_p": (SAMPLE, [0.9, 1.0, [0.2, 0.99]]),
    "min_p": (SAMPLE, [0.1, 0.0, [0.01, 0.5]]),
    "seed": (SAMPLE, [1, 2, [7, 2**40]]),
    "typical_p": (SAMPLE, [0.9, 0.3, [0.2, 0.99]]),
    "epsilon_cutoff": (SAMPLE, [0.01, 0.1, [0.001, 0.2]]),
    "eta_cutoff": (SAMPLE, [0.01, 0.1, [0.001, 0.2]]),
    "repetition_penalty": ({}, [1.3, 1.0, [0.7, 2.0]]),
    "encoder_repetition_penalty": ({}, [1.3, 2.0, [0.7, 2.0]]),
    "presence_penalty": ({}, [0.5, -1.0, [2.0, 0.1]]),
    "frequency_penalty": ({}, [0.5, -1.0, [2.0, 0.1]]),
    "no_repeat_ngram_size": ({}, [2, 3, [1, 5]]),
    "encoder_no_repeat_ngram_size": ({}, [2, 3, [1, 5]]),
    "bad_words_ids": ({}, [[[3], [1, 2]], [[9], [4, 4]], [[[5], [7, 1]], [[6], [8, 2]]]]),
    "sequence_bias": ({}, [[[[3], 2.0], [[1, 2], 1.0]], [[[9], -5.0], [[4, 4], 3.0]]]),
    "suppress_tokens": ({}, [[1, 2], [7, 9], [[3, 4], [5, 6]]]),
    "begin_suppress_tokens": ({}, [[1, 2], [7, 9], [[3, 4], [5, 6]]]),
    "forced_eos_token_id": ({}, [5, 9]),
    "exponential_decay_length_penalty": ({"eos_token_id": 4}, [(2, 1.1), (5, 2.0),
                                                              [(1, 1.5), (9, 3.0)]]),
    "guidance_scale": ({}, [1.5, 3.0, [0.5, 2.0]]),
    "eos_token_id": ({}, [[4, 9], [5, 6]]),
    "length_penalty": ({"num_beams": 2}, [1.0, 0.2, [2.0, -1.0]]),
    "early_stopping": ({"num_beams": 2}, [False, True, [True, "never"]]),
    "diversity_penalty": ({"num_beams": 4, "num_beam_groups": 2}, [0.5, 2.0, [0.1, 1.0]]),
    "penalty_alpha": ({"top_k": 4}, [0.6, 0.2, [0.1, 0.9]]),
}  # fmt: skip


def compiled() -> int:
    """Number of programs compiled by XLA so far."""
    return len(list(DUMP.glob("*before_optimizations.txt")))


def row(name: str, call: Callable[[Any], Any], values: list[Any]) -> bool:
    """Print the row of an option; return whether another value recompiled."""
    times, counts = [], []
    for value in values:
        before, start = compiled(), time.perf_counter()
        call(value)
        times.append(time.perf_counter() - start)
        counts.append(compiled() - before)
    print(
        f"| {name} | {times[0]:.2f} | {counts[0]} | {1000 * max(times[1:]):.0f} |"
        f" {max(times[1:]) / times[0]:.3f} | {sum(counts[1:])} |",
        flush=True,
    )
    return sum(counts[1:]) > 0


def main() -> None:
    """Print the table, and the options that recompiled."""
    config = tfgpt2.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=23, n_positions=48, eos_token_id=0
    )
    again = []
    print("| option | first call, s | programs | slowest other value, ms | share | programs |")
    print("|---|---|---|---|---|---|")
    chosen = sys.argv[1:] or list(OPTIONS)
    for name in chosen:
        others, values = OPTIONS[name]
        model = tfgpt2.TFGPT2LMHeadModel(config)  # a new model: nothing is compiled yet
        model(tf.constant([[1]]))
        asked = {"max_new_tokens": 16, "eos_token_id": None} | others
        call = lambda value: model.generate(PROMPTS, **(asked | {name: value}))  # noqa: B023, E731
        if row(name, call, values):
            again.append(name)
    top = tf.function(lambda x, k: tf.math.top_k(x, k).values, jit_compile=True)
    scores = tf.zeros([2, 9])
    seen = row("(tf.math.top_k)", lambda k: top(scores, tf.constant(k)), [3, 4])
    print(f"\n{len(chosen)} options; recompiled: {', '.join(again) or 'none'}")
    if not seen:
        print("The count is not reliable: it missed the recompilation of top_k.")


if __name__ == "__main__":
    main()

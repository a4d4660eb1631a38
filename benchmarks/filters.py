"""Top-k and top-p by bisection against sorting the vocabulary, compiled by XLA.

    python benchmarks/filters.py [rounds]

Bisection searches the smallest score that is kept, with one pass over the vocabulary per bit; the
alternatives sort. Rounds are interleaved and the table shows medians. `fixed k` is `tf.math.top_k`
with a compile-time `k`, which cannot support a `k` per row; it shows the cost of that. The kept
tokens are compared before anything is timed.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf

from tfgpt2.generation.logits.top_k import keep_top_k
from tfgpt2.generation.logits.top_p import keep_top_p

VOCABULARY = 50257
ROWS = (1, 8, 32)
FIXED = 50


def sorted_top_k(scores, k):
    """Sort, and gather each row's threshold."""
    order = tf.sort(scores, axis=-1, direction="DESCENDING")  # [B, V]
    edge = tf.gather(order, k - 1, batch_dims=1)[:, None]  # [B, 1]
    return (scores >= edge) | (k == 0)[:, None]


def fixed_top_k(scores, k):
    """`tf.math.top_k` with a compile-time `k`."""
    del k
    return scores >= tf.math.top_k(scores, FIXED).values[:, -1:]


def sorted_top_p(scores, p):
    """Sort, accumulate, and gather the score of the first token that reaches `p`."""
    order = tf.sort(scores, axis=-1, direction="DESCENDING")  # [B, V]
    reached = tf.cumsum(tf.nn.softmax(order), axis=-1)
    last = tf.reduce_sum(tf.cast(reached < p[:, None], tf.int32), axis=-1)  # [B]
    last = tf.minimum(last, tf.shape(scores)[1] - 1)
    edge = tf.gather(order, last, batch_dims=1)[:, None]  # [B, 1]
    return (scores >= edge) | (p >= 1)[:, None]


FILTERS = {
    "top-k": {"bisection": keep_top_k, "sort": sorted_top_k, "fixed k": fixed_top_k},
    "top-p": {"bisection": keep_top_p, "sort": sorted_top_p},
}


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print("| filter | rows | bisection, ms | sort, ms | fixed k, ms | sort / bisection |")
    print("|---|---|---|---|---|---|")
    for name, makers in FILTERS.items():
        for rows in ROWS:
            scores = tf.constant(
                np.random.RandomState(rows).standard_normal((rows, VOCABULARY)) * 3, tf.float32
            )
            setting = tf.fill([rows], FIXED) if name == "top-k" else tf.fill([rows], 0.9)
            programs = {
                which: tf.function(keep, autograph=False, jit_compile=True)
                for which, keep in makers.items()
            }
            check(programs, scores, setting)
            times = {which: [] for which in programs}
            for _ in range(rounds):
                for which, program in programs.items():
                    start = time.perf_counter()
                    program(scores, setting).numpy()
                    times[which].append(time.perf_counter() - start)
            medians = {which: np.median(values) * 1e3 for which, values in times.items()}
            fixed = f"{medians['fixed k']:.2f}" if "fixed k" in medians else "-"
            print(
                f"| {name} | {rows} | {medians['bisection']:.2f} | {medians['sort']:.2f} |"
                f" {fixed} | {medians['sort'] / medians['bisection']:.1f} |"
            )


def check(programs, scores, setting) -> None:
    """Compile all functions and compare the kept tokens; rounding may differ at the threshold."""
    kept = {which: program(scores, setting).numpy() for which, program in programs.items()}
    for which, mask in kept.items():
        difference = np.abs(mask.sum(1) - kept["bisection"].sum(1)).max()
        assert difference <= 2, f"{which} keeps {difference} more or fewer tokens in a row"


if __name__ == "__main__":
    main()

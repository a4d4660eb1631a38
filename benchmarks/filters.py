"""Top-k and top-p by bisection against a sort of the vocabulary, compiled, in one run.

    python benchmarks/filters.py [rounds]

Bisection searches the smallest score that stays, with a pass over the vocabulary for each bit;
the other programs sort it. Each round times every program once, in turn, so a machine that slows
down slows all; the table shows medians. `fixed k` is `tf.math.top_k`, whose `k`
is fixed when the program is compiled: it could not serve a `k` for each row, and is shown as the
price of that. Tokens that stay are compared before anything is timed.
"""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf

from tfgpt2.generation.logits.sampling import keep_top_k, keep_top_p

VOCABULARY = 50257
ROWS = (1, 8, 32)
FIXED = 50


def sorted_top_k(scores, k):
    """Sorts, and reads the edge at each row's own place."""
    order = tf.sort(scores, axis=-1, direction="DESCENDING")  # [B, V]
    edge = tf.gather(order, k - 1, batch_dims=1)[:, None]  # [B, 1]
    return (scores >= edge) | (k == 0)[:, None]


def fixed_top_k(scores, k):
    """`tf.math.top_k` with a `k` known to the compiler."""
    del k
    return scores >= tf.math.top_k(scores, FIXED).values[:, -1:]


def sorted_top_p(scores, p):
    """Sorts, adds up, and reads the score of the first token that reaches `p`."""
    order = tf.sort(scores, axis=-1, direction="DESCENDING")  # [B, V]
    reached = tf.cumsum(tf.nn.softmax(order), axis=-1)
    last = tf.reduce_sum(tf.cast(reached < p[:, None], tf.int32), axis=-1)  # [B]
    last = tf.minimum(last, tf.shape(scores)[1] - 1)
    edge = tf.gather(order, last, batch_dims=1)[:, None]  # [B, 1]
    return (scores >= edge) | (p >= 1)[:, None]


PROGRAMS = {
    "top-k": {"bisection": keep_top_k, "sort": sorted_top_k, "fixed k": fixed_top_k},
    "top-p": {"bisection": keep_top_p, "sort": sorted_top_p},
}


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print("| filter | rows | bisection, ms | sort, ms | fixed k, ms | sort / bisection |")
    print("|---|---|---|---|---|---|")
    for name, makers in PROGRAMS.items():
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
    """Compiles all programs and compares what they keep; sums may differ by a token at the edge."""
    kept = {which: program(scores, setting).numpy() for which, program in programs.items()}
    for which, mask in kept.items():
        difference = np.abs(mask.sum(1) - kept["bisection"].sum(1)).max()
        assert difference <= 2, f"{which} keeps other tokens: {difference} more or fewer in a row"


if __name__ == "__main__":
    main()

"""Decode steps after a short and a long context, with the cache in each dtype.

    python benchmarks/cache_dtype.py                # the 124M shape, random weights
    python benchmarks/cache_dtype.py --rounds 30 --context 1000

The prompt stands at the right edge of a bucket, as in `generate`. Rounds are interleaved. A call of
one step is subtracted from a call of `STEPS`, which leaves out the copy of the cache at the start.
CPU time is printed beside wall time: on a busy machine only it means something.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tensorflow as tf

import tfgpt2
from tfgpt2.nn.kv_cache import CACHE_DTYPES, cast_cache

STEPS, SHORT, BUCKETS, ROOM = 17, 32, (32, 1024), 64


def make_loop(model: Any) -> Any:
    """A compiled greedy loop `(token [1], cache, steps) -> token [1]`."""

    def loop(token: tf.Tensor, cache: Any, steps: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, token: tf.Tensor, cache: Any) -> Any:
            valid = tf.ones_like(token, tf.bool)[:, None]
            logits, cache = model.decode_step(token[:, None], valid, cache, in_place=True)
            return i + 1, tf.argmax(logits[:, 0], -1, tf.int32), cache

        return tf.while_loop(lambda i, *_: i < steps, body, (tf.constant(0), token, cache))[1]

    return tf.function(loop, jit_compile=True, autograph=False)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--context", type=int, default=800)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    model = tfgpt2.TFGPT2LMHeadModel(tfgpt2.GPT2Config(n_layer=options.layers))
    prefill = tf.function(
        lambda ids, mask, columns: model.prefill_hidden(ids, mask, columns=columns)[1],
        jit_compile=True,
        autograph=False,
    )
    random, loop, caches, times = np.random.default_rng(0), make_loop(model), {}, {}
    contexts = (SHORT, options.context)
    for context, bucket in zip(contexts, BUCKETS, strict=True):
        mask = (np.arange(bucket) >= bucket - context).astype(np.int32)[None]
        ids = mask * random.integers(0, 50257, mask.shape, np.int32)
        cache = prefill(tf.constant(ids), tf.constant(mask), tf.constant(bucket + ROOM))
        caches |= {(context, dtype): cast_cache(cache, dtype) for dtype in CACHE_DTYPES}
    for number in range(options.rounds + 1):
        for key, cache in caches.items():
            for steps in (1, STEPS):
                wall, cpu = time.perf_counter(), time.process_time()
                loop(tf.constant([5]), cache, tf.constant(steps)).numpy()
                spent = time.perf_counter() - wall, time.process_time() - cpu
                if number:  # the first round compiles
                    times.setdefault((*key, steps), []).append(spent)
    print("cache      context  wall, ms  CPU, ms   ratio of wall and of CPU time to the short one")
    for dtype in CACHE_DTYPES:
        best = {}
        for context in contexts:
            many, one = (np.min(times[context, dtype, n], axis=0) for n in (STEPS, 1))
            best[context] = (many - one) / (STEPS - 1) * 1e3
            ratio = best[context] / best[SHORT]
            wall, cpu = best[context]
            print(
                f"{dtype:9}  {context:7}  {wall:8.2f}  {cpu:7.2f}   {ratio[0]:.2f}  {ratio[1]:.2f}"
            )


if __name__ == "__main__":
    main()

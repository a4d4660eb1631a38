"""Roofline of the machine: memory bandwidth and float32 matrix throughput, measured with NumPy.

    python benchmarks/roofline.py

The two rates give a lower bound of the time of a decode step or a prefill: reading every weight and
the KV cache once, or doing the multiplications, whichever is longer.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

THREADS = "2"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, THREADS)

import numpy as np  # noqa: E402, after the settings above

MEGABYTES = 512  # many times the largest cache
SIDE = 2048
SHAPE = {"n_layer": 12, "n_embd": 768, "vocab_size": 50257}


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of the machine.

    Attributes:
        bandwidth: Memory read by both cores, in GB/s (10^9 bytes).
        matmul: float32 products of large matrices on both cores, in GFLOP/s.
    """

    bandwidth: float
    matmul: float


def fastest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(repeats: int = 4, megabytes: int = MEGABYTES, side: int = SIDE) -> Rates:
    """Measure both rates, in about two seconds.

    Args:
        repeats: Repetitions, of which the fastest counts.
        megabytes: Amount of memory to read.
        side: Rows and columns of the matrices.
    """
    threads = int(THREADS)
    parts = [np.ones(megabytes * 10**6 // 4 // threads, np.float32) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Which of these is fastest depends on how NumPy was built.
        readings = [
            fastest(lambda: list(pool.map(read, parts)), repeats)  # noqa: B023
            for read in (np.add.reduce, lambda part: np.dot(part, part), np.max)
        ]
    bandwidth = megabytes * 1e6 / min(readings) / 1e9
    a = np.ones((side, side), np.float32)
    matmul = 2 * side**3 / fastest(lambda: a @ a, repeats) / 1e9
    return Rates(bandwidth, matmul)


def matrix_weights(shape: dict[str, int] = SHAPE) -> int:
    """Number of weights in the matrices of the blocks and the output."""
    return shape["n_layer"] * 12 * shape["n_embd"] ** 2 + shape["vocab_size"] * shape["n_embd"]


def step_bound(
    rates: Rates,
    batch: int,
    columns: float,
    weight_bytes: float = 4,
    shape: dict[str, int] = SHAPE,
) -> float:
    """Lower bound of one decode step, in milliseconds.

    Args:
        rates: Rates of the machine.
        batch: Rows `B`.
        columns: Mean number of cached tokens.
        weight_bytes: Bytes per weight; for types other than float32 only reading is counted.
        shape: Shape of the model.
    """
    weights, width, layers = matrix_weights(shape), shape["n_embd"], shape["n_layer"]
    read = weights * weight_bytes + batch * columns * 2 * layers * width * 4
    flops = 2 * batch * weights + 4 * batch * columns * layers * width
    return 1e3 * max(read / rates.bandwidth / 1e9, _time(flops, rates, weight_bytes))


def prefill_bound(
    rates: Rates, tokens: int, weight_bytes: float = 4, shape: dict[str, int] = SHAPE
) -> float:
    """Lower bound of prefilling a prompt with causal attention, in milliseconds."""
    width, layers = shape["n_embd"], shape["n_layer"]
    output = shape["vocab_size"] * width  # computed for one token
    blocks = matrix_weights(shape) - output
    flops = 2 * tokens * blocks + 2 * output + 2 * tokens**2 * layers * width
    read = (blocks + output) * weight_bytes
    return 1e3 * max(read / rates.bandwidth / 1e9, _time(flops, rates, weight_bytes))


def _time(flops: float, rates: Rates, weight_bytes: float) -> float:
    """Seconds of float32 multiplications; rates of other types are not measured."""
    return flops / rates.matmul / 1e9 if weight_bytes == 4 else 0.0


def main() -> None:
    """Print the rates and some lower bounds."""
    rates = measure()
    print(f"memory bandwidth {rates.bandwidth:7.1f} GB/s")
    print(f"float32 matmul   {rates.matmul:7.0f} GFLOP/s")
    for batch in (1, 8, 32):
        bound = step_bound(rates, batch, 64)
        print(f"decode step of the 124M shape, batch {batch:2d}: at least {bound:6.1f} ms")
    print(f"prefill of 512 tokens: at least {prefill_bound(rates, 512):6.0f} ms")


if __name__ == "__main__":
    main()

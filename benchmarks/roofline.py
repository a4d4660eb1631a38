"""What the machine can do at most: reading memory and multiplying matrices, measured with NumPy.

    python benchmarks/roofline.py

From the two rates follows the least time that a piece of work needs, if it does nothing but read
every weight once, and the keys and values of the text so far, or do its multiplications.
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
    """Rates of the machine.

    Attributes:
        bandwidth: GB/s (10^9 bytes) read by both cores.
        matmul: GFLOP/s of float32 products of large matrices by both cores.
    """

    bandwidth: float
    matmul: float


def fastest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(repeats: int = 4, megabytes: int = MEGABYTES, side: int = SIDE) -> Rates:
    """Measures both rates; about two seconds.

    Args:
        repeats: Of each; the fastest counts, because it is the limit that is asked for.
        megabytes: Memory that is read.
        side: Rows and columns of the matrices.
    """
    threads = int(THREADS)
    parts = [np.ones(megabytes * 10**6 // 4 // threads, np.float32) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # Which of them is the faster depends on how NumPy was built.
        readings = [
            fastest(lambda: list(pool.map(read, parts)), repeats)  # noqa: B023
            for read in (np.add.reduce, lambda part: np.dot(part, part), np.max)
        ]
    bandwidth = megabytes * 1e6 / min(readings) / 1e9
    a = np.ones((side, side), np.float32)
    matmul = 2 * side**3 / fastest(lambda: a @ a, repeats) / 1e9
    return Rates(bandwidth, matmul)


def matrix_weights(shape: dict[str, int] = SHAPE) -> int:
    """Weights that every token is multiplied with: the blocks' matrices and the output's."""
    return shape["n_layer"] * 12 * shape["n_embd"] ** 2 + shape["vocab_size"] * shape["n_embd"]


def step_floor(
    rates: Rates,
    batch: int,
    columns: float,
    weight_bytes: float = 4,
    shape: dict[str, int] = SHAPE,
) -> float:
    """Least milliseconds of one decode step.

    Args:
        rates: Of the machine.
        batch: Rows `B`.
        columns: Tokens in the cache, on average.
        weight_bytes: Bytes of a weight; with other types than float32 only reading is counted.
        shape: Of the model.
    """
    weights, width, layers = matrix_weights(shape), shape["n_embd"], shape["n_layer"]
    read = weights * weight_bytes + batch * columns * 2 * layers * width * 4
    flops = 2 * batch * weights + 4 * batch * columns * layers * width
    return 1e3 * max(read / rates.bandwidth / 1e9, _time(flops, rates, weight_bytes))


def prefill_floor(
    rates: Rates, tokens: int, weight_bytes: float = 4, shape: dict[str, int] = SHAPE
) -> float:
    """Least milliseconds of reading a prompt: each token attends to those before it."""
    width, layers = shape["n_embd"], shape["n_layer"]
    output = shape["vocab_size"] * width  # asked for once
    blocks = matrix_weights(shape) - output
    flops = 2 * tokens * blocks + 2 * output + 2 * tokens**2 * layers * width
    read = (blocks + output) * weight_bytes
    return 1e3 * max(read / rates.bandwidth / 1e9, _time(flops, rates, weight_bytes))


def _time(flops: float, rates: Rates, weight_bytes: float) -> float:
    """Seconds of float32 multiplications; other types have rates that are not measured here."""
    return flops / rates.matmul / 1e9 if weight_bytes == 4 else 0.0


def main() -> None:
    """Prints the rates and some floors."""
    rates = measure()
    print(f"reading memory  {rates.bandwidth:7.1f} GB/s")
    print(f"float32 matmul  {rates.matmul:7.0f} GFLOP/s")
    for batch in (1, 8, 32):
        floor = step_floor(rates, batch, 64)
        print(f"decode step of the 124M shape, batch {batch:2d}: at least {floor:6.1f} ms")
    print(f"prefill of 512 tokens: at least {prefill_floor(rates, 512):6.0f} ms")


if __name__ == "__main__":
    main()

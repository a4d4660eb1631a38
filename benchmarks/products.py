"""The matrix products of a decode step in several forms, without the rest of the model.

    python benchmarks/products.py [--rows 1 2 4] [--rounds 9] [--steps 20]

All 48 products of the layers of GPT-2's 124M shape, with random numbers, in one compiled loop.
Rounds are interleaved; the table shows medians in ms per step. What a call does once (turning or
widening a matrix) is the difference between a call of one step and a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import tensorflow as tf

from tfgpt2.nn.one_row import held_in_step, multiply_one_row
from tfgpt2.nn.sixteen_bits import multiply_16_bits

LAYERS, WIDTH = 12, 768
SHAPES = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
SCALE = 1e-3  # of int8 and int4; any number


def float32(x, kernel):
    """`[in, out]`; a single row in eight parts."""
    if x.shape[0] > 1:
        return tf.matmul(x, kernel)
    parts, width = 8, x.shape[1] // 8
    kernel = tf.reshape(kernel, [parts, width, -1])
    return tf.reduce_sum(tf.matmul(tf.reshape(x, [parts, 1, width]), kernel), axis=0)


def sixteen_bits(x, kernel):
    """As the package does it."""
    return multiply_16_bits(x, kernel, transpose=False)


def widened(x, kernel):
    """As XLA does it: once per call."""
    return float32(x, tf.cast(kernel, tf.float32))


def int8(x, matrix):
    """`[out, in]`, a single row as it is."""
    return multiply_one_row(x, matrix) * SCALE


def halves(packed):
    """The low and the high numbers of bytes, -8 to 7, as float32."""
    four = tf.constant(4, tf.int8)
    low = tf.bitwise.right_shift(tf.bitwise.left_shift(packed, four), four)
    return (tf.cast(half, tf.float32) for half in (low, tf.bitwise.right_shift(packed, four)))


def int4_outputs(x, packed):
    """`[out / 2, in]`: a byte holds two outputs."""
    x /= tf.where(x < -float("inf"), 2.0, 1.0)
    packed, x = held_in_step(packed, x)
    products = [tf.matmul(x, half, transpose_b=True) for half in halves(packed)]
    return tf.concat(products, axis=1) * SCALE


def int4_inputs(x, packed):
    """`[out, in / 2]`: a byte holds two inputs of one output."""
    x /= tf.where(x < -float("inf"), 2.0, 1.0)
    packed, x = held_in_step(packed, x)
    parts = zip(tf.split(x, 2, axis=1), halves(packed), strict=True)
    return sum(tf.matmul(part, half, transpose_b=True) for part, half in parts) * SCALE


def integers(rows, columns):
    """Random bytes."""
    numbers = np.random.default_rng(0).integers(-127, 128, (rows, columns), np.int8)
    return tf.constant(numbers)


def floats(dtype):
    """Makes random matrices `[in, out]` of a type."""
    return lambda shape: tf.cast(tf.random.normal(shape, stddev=0.02), dtype)


# The form, what makes its matrices, and whether it is for a single row only.
FORMS = {
    "float32": (float32, floats(tf.float32), False),
    "bfloat16": (sixteen_bits, floats(tf.bfloat16), False),
    "float16": (sixteen_bits, floats(tf.float16), False),
    "bfloat16, widened": (widened, floats(tf.bfloat16), False),
    "int8": (int8, lambda shape: integers(shape[1], shape[0]), True),
    "int4, two outputs": (int4_outputs, lambda shape: integers(shape[1] // 2, shape[0]), True),
    "int4, two inputs": (int4_inputs, lambda shape: integers(shape[1], shape[0] // 2), True),
}


def make_steps(form, make):
    """A compiled function: rows and a number of steps -> rows."""
    layers = [[tf.Variable(make(shape)) for shape in SHAPES] for _ in range(LAYERS)]

    def step(count, x):
        for c_attn, attn_proj, c_fc, mlp_proj in layers:
            h = form(form(x, c_attn.read_value())[:, :WIDTH], attn_proj.read_value()) + x
            x = form(tf.nn.relu(form(h, c_fc.read_value())), mlp_proj.read_value()) + h
            x /= tf.reduce_max(tf.abs(x), axis=1, keepdims=True) + 1e-6
        return count + 1, x

    @tf.function(jit_compile=True, autograph=False)
    def steps(x, most):
        return tf.while_loop(lambda count, _: count < most, step, (tf.constant(0), x))[1]

    return steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} CPUs, {given.rounds} rounds")
    print("| rows | form | ms per step | of float32 | a call of one step, ms |")
    print("|---|---|---|---|---|")
    for rows in given.rows:
        x = tf.constant(np.random.default_rng(1).standard_normal((rows, WIDTH)), tf.float32)
        forms = {n: make_steps(f, m) for n, (f, m, one) in FORMS.items() if rows == 1 or not one}
        times = {(name, most): [] for name in forms for most in (1, given.steps + 1)}
        for number in range(given.rounds + 1):
            for name, most in times:
                start = time.perf_counter()
                forms[name](x, tf.constant(most)).numpy()
                if number:  # the first compiles
                    times[name, most].append((time.perf_counter() - start) * 1e3)
        medians = {key: statistics.median(values) for key, values in times.items()}
        each = {n: (medians[n, given.steps + 1] - medians[n, 1]) / given.steps for n in forms}
        for name, ms in each.items():
            ratio = ms / each["float32"]
            print(f"| {rows} | {name} | {ms:.2f} | {ratio:.2f} | {medians[name, 1]:.1f} |")


if __name__ == "__main__":
    main()

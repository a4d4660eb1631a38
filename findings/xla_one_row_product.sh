#!/bin/bash
# A product of one row with an int8 matrix inside a compiled loop: what XLA on a CPU makes of it.
#
# The good guess: `matmul(normed, cast(int8_matrix, float32))` in a `tf.while_loop` reads the bytes
# of the matrix once per step, and the layer norm before it is computed once per step.
#
# What happens, in the optimized program:
#   1. The cast is moved out of the loop, whose state then holds a float32 copy of the matrix: the
#      loop reads four times the bytes.
#   2. Where the cast is made to depend on the loop, it is joined with the product, as hoped; but so
#      are the multiplication and the addition at the end of the layer norm, which are then
#      computed again for each of the outputs.
#   3. A division between the two, by a vector of ones that XLA cannot know, keeps them apart.
#
# Version: tensorflow 2.21.0. Source: `experimental_get_compiler_ir(stage="optimized_hlo")`; the
# rules are those of XLA's CPU instruction fusion and of its motion of loop-invariant code.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0
cat > "$folder/show.py" <<'PY'
import re

import tensorflow as tf

print("tensorflow", tf.__version__)
WIDTH, OUTPUTS = 768, 2048
matrix = tf.Variable(tf.cast(tf.random.uniform([OUTPUTS, WIDTH], -127, 127, tf.int32), tf.int8))
gain, offset = tf.Variable(tf.random.normal([WIDTH])), tf.Variable(tf.random.normal([WIDTH]))
LEAST = -float("inf")


def norm(x):
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    size = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + 1e-5)
    return centred * size * gain + offset


def plain(x):
    return x, matrix


def in_the_loop(x):  # never true, and XLA cannot know
    return x, tf.where(x[0, 0] < LEAST, tf.zeros([], tf.int8), matrix)


def divided(x):
    x /= tf.where(x < LEAST, 2.0, 1.0)
    return in_the_loop(x)


def program(form):
    @tf.function(jit_compile=True, autograph=False)
    def loop(x, steps):
        def step(count, x):
            row, ints = form(norm(x))
            y = tf.matmul(row, tf.cast(ints, tf.float32), transpose_b=True) * 1e-3
            return count + 1, y[:, :WIDTH]

        return tf.while_loop(lambda count, _: count < steps, step, (0, x))[1]

    inputs = tf.ones([1, WIDTH]), tf.constant(3)
    return loop.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")


def look(form):
    text = program(form)
    state = max(re.findall(r"= \((.*?)\) while\(", text), key=len)
    bodies = re.findall(r"^%?fused_computation[^\n]*\{\n(.*?)^\}", text, re.M | re.S)
    joined = [body for body in bodies if " dot(" in body and " convert(" in body]
    repeated = bool(joined) and " add(" in joined[0]
    found = (f"f32[{OUTPUTS},{WIDTH}]" in state, bool(joined), repeated)
    print(f"{form.__name__:20} float32 copy in the loop's state: {found[0]!s:5}",
          f" cast joined with the product: {found[1]!s:5}  the norm's end in it: {found[2]}")
    return found


assert look(plain) == (True, False, False)
assert look(in_the_loop) == (False, True, True)
assert look(divided) == (False, True, False)
PY
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/show.py" 2>/dev/null

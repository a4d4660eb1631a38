#!/bin/bash
# XLA on a CPU: to write one row into a bfloat16 tensor that a loop carries, it converts all of it.
#
# The guess: `dynamic_update_slice` of one row of a buffer that is the state of a `tf.while_loop`
# writes that row in place, in bfloat16 as in float32, float16 and uint16: it moves bits.
# What happens: in float32, float16 and uint16 it does. In bfloat16 the whole buffer is converted to
# float32, updated there and converted back, in each step. With 1,024 rows of 768 numbers, 24 such
# buffers are all the keys and values of GPT-2: 77 million conversions per token. The bits as uint16
# are updated in place.
# Version: TensorFlow 2.21.0. Source: the optimized program that the script prints from; the pass
# that does it is probably xla/service/float_normalization.cc, for operations that a backend does not
# name as supporting bfloat16.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow==2.21.0
cat > "$folder/program.py" <<'PYTHON'
import re

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

ROWS, SIZE = 1024, 768


def optimized(dtype):
    """The program of a loop that writes row after row, as XLA has optimized it."""

    @tf.function(jit_compile=True, autograph=False)
    def program(buffer, row, steps):
        def body(i, buffer):
            return i + 1, xla.dynamic_update_slice(buffer, row, tf.stack([i, 0]))

        return tf.while_loop(lambda i, _: i < steps, body, (tf.constant(0), buffer))[1]

    buffer, row = tf.zeros([ROWS, SIZE], dtype), tf.ones([1, SIZE], dtype)
    return program.experimental_get_compiler_ir(buffer, row, tf.constant(9))(stage="optimized_hlo")


print("TensorFlow", tf.__version__)
whole = re.compile(rf"= \w+\[{ROWS},{SIZE}\]\S* convert\(")
found = {dtype: len(whole.findall(optimized(dtype)))
         for dtype in ("float32", "float16", "uint16", "bfloat16")}
for dtype, count in found.items():
    print(f"{dtype}: {count} conversions of the whole buffer in the program")
raise SystemExit(not (found.pop("bfloat16") >= 2 and not any(found.values())))
PYTHON
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/program.py"

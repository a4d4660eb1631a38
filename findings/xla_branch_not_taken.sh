#!/bin/bash
# A branch of `tf.cond` that is not taken, in a function that XLA compiles.
#
# The good guess: XLA compiles for concrete shapes, so a predicate such as `tf.shape(x)[0] >= 2`, and
# surely `tf.constant(False)`, is known and only the taken branch counts. Without XLA it is so: the
# other branch is never run, so what its shapes would be does not matter.
#
# What happens: both branches are translated before XLA drops one, also where the predicate is a
# constant. A slice that is empty, or `tf.ensure_shape`, in the branch that is not taken ends the
# call with an error about a tensor that no run would ever make. So each branch has to be valid, and
# to have the result's shape, for all numbers of rows: padded, for example.
#
# Version: tensorflow 2.21.0. Source: behaviour; the translation is `XlaIfOp` of
# tensorflow/compiler/tf2xla/kernels/if_op.cc.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0
cat > "$folder/show.py" <<'PY'
import tensorflow as tf

print("tensorflow", tf.__version__)


def second_row(x):
    return tf.ensure_shape(x[1:2], [1, 4])


def by_rows(x):
    return tf.cond(tf.shape(x)[0] >= 2, lambda: second_row(x), lambda: x[:1])


def by_constant(x):
    return tf.cond(tf.constant(False), lambda: second_row(x), lambda: x[:1])


def call(function, rows, compiled):
    spec = [tf.TensorSpec([None, 4])]
    function = tf.function(function, spec, autograph=False, jit_compile=compiled)
    try:
        return str(function(tf.ones([rows, 4])).shape)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return str(error).splitlines()[0]


found = {}
for function in (by_rows, by_constant):
    for compiled in (False, True):
        for rows in (2, 1):
            answer = call(function, rows, compiled)
            found[function.__name__, compiled, rows] = answer
            print(f"{function.__name__:12} XLA {compiled!s:5} rows {rows}: {answer}")
for (name, compiled, rows), answer in found.items():
    assert (answer == "(1, 4)") == (not compiled or rows == 2), (name, compiled, rows)
    if compiled and rows == 1:
        assert "not compatible with expected shape" in answer
PY
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/show.py" 2>/dev/null

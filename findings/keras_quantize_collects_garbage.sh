#!/bin/bash
# Keras: quantising a model runs a full garbage collection of the process for every layer.
#
# The guess: `model.quantize("int8")` costs what rounding its kernels costs; a collection to free
# them, if there is one, comes once, at the end.
# What happens: deleting an attribute that holds a weight (`del layer._kernel`) calls `gc.collect()`
# each time, and `quantize` deletes one per layer; so does any program that takes weights off
# layers, such as one that removes low-rank adapters (three per projection, 144 for GPT-2 of 12
# layers). A collection takes as long as the process is large: with TensorFlow, PyTorch and
# transformers imported 0.9 s were seen, whatever the size of the weight.
# Version: keras 3.15.1. Source: keras/src/layers/layer.py, `Layer.__delattr__`.
# What helps: `layer._untrack_variable(weight)` and `super(keras.Layer, layer).__delattr__(name)`, as
# tfgpt2/nn/lora.py does.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 "jax[cpu]==0.7.2"
cat > "$folder/program.py" <<'PYTHON'
import gc
import time

import keras

LAYERS = 24
model = keras.Sequential([keras.Input((8,)), *[keras.layers.Dense(8) for _ in range(LAYERS)]])
objects = [[i] for i in range(2_000_000)]  # what else a process may hold
collect, seconds = gc.collect, []


def timed(*arguments):
    start = time.perf_counter()
    found = collect(*arguments)
    seconds.append(time.perf_counter() - start)
    return found


gc.collect = timed
start = time.perf_counter()
model.quantize("int8")
whole = time.perf_counter() - start
print("keras", keras.__version__)
print(f"quantize of {LAYERS} layers: {len(seconds)} collections, "
      f"{sum(seconds) / whole:.0%} of {whole:.1f} s")
raise SystemExit(0 if len(seconds) >= LAYERS and sum(seconds) > whole / 2 else 1)
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/program.py"

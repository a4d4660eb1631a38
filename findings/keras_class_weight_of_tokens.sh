#!/bin/bash
# Keras: `class_weight` with one integer label per token weighs each row by the *place* of its
# largest label.
#
# The guess: `fit(x, y, class_weight=w)` with labels `[batch, time]`, as a tagger has them, weights
# the loss of each token by its own class, or it raises an error.
# What happens: labels of two axes are taken for one-hot rows. The largest number of a row is
# searched for, its place in the row counts as the class of the whole row, and all its tokens get
# that weight; a place for which there is no weight gets 1. Nothing is said.
# Version: keras 3.15.1. Source: keras/src/trainers/data_adapters/data_adapter_utils.py,
# `class_weight_to_sample_weights`.
# What helps: `sample_weight=numpy.take(weights, y)`, of the shape of the labels; tfgpt2 refuses
# `class_weight` for models whose texts have more than one label.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 "jax[cpu]==0.7.2"
cat > "$folder/program.py" <<'PYTHON'
import keras
import numpy as np

CLASSES = 3
model = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(5, CLASSES)])
model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.array([[1, 2, 3, 4]])
y = np.array([[0, 0, 2, 0]])  # the class of each token; the largest stands at place 2
weights = {0: 1.0, 1: 1.0, 2: 100.0}


def loss(**options):
    return model.fit(x, y, verbose=0, **options).history["loss"][0]


by_token = loss(sample_weight=np.take(list(weights.values()), y))
by_class = loss(class_weight=weights)
moved = np.array([[0, 2, 0, 0]])  # the same classes in another order: place 1
y, x = moved, x[:, [0, 2, 1, 3]]
elsewhere = loss(class_weight=weights)
plain = loss()
print("keras", keras.__version__)
print(f"no weights {plain:.3f}, each token by its class {by_token:.3f}, class_weight {by_class:.3f},")
print(f"class_weight with the same tokens in another order {elsewhere:.3f}")
as_described = np.isclose(by_class, 100 * plain) and np.isclose(elsewhere, plain)
raise SystemExit(0 if as_described and not np.isclose(by_class, by_token) else 1)
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/program.py"

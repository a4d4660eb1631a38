#!/bin/bash
# Keras: `fit` and `evaluate` drop `sample_weight` without a word when there are no targets.
#
# The guess: a model that computes its own loss (it overrides `compute_loss`, and the labels are
# among its inputs, so `y` is None) gets the weights of `fit(x, sample_weight=w)` as the argument
# `sample_weight` of `compute_loss`, as it does from `train_on_batch(x, sample_weight=w)`; or `fit`
# raises an error.
# What happens: `train_on_batch` and `test_on_batch` pass them on; `fit` and `evaluate` call
# `compute_loss` with `sample_weight=None`, and nothing is said.
# Version: keras 3.15.1. Source: keras/src/trainers/data_adapters/data_adapter_utils.py,
# `pack_x_y_sample_weight`, returns only `x` where `y` is None.
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 "jax[cpu]==0.7.2"
cat > "$folder/program.py" <<'PYTHON'
import keras
import numpy as np

seen = []


class OwnLoss(keras.Model):
    """Its loss is the mean square of its output; it notes whether it got weights."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        seen.append(sample_weight is not None)
        loss = keras.ops.square(y_pred)[:, 0]
        return keras.ops.mean(loss if sample_weight is None else loss * sample_weight)


def got_weights(run):
    seen.clear()
    run()
    return any(seen)


x, zeros = np.ones([8, 3], "float32"), np.zeros(8, "float32")
model = OwnLoss()
model.compile("sgd", run_eagerly=True)
found = {
    "train_on_batch": got_weights(lambda: model.train_on_batch(x, sample_weight=zeros)),
    "test_on_batch": got_weights(lambda: model.test_on_batch(x, sample_weight=zeros)),
    "fit": got_weights(lambda: model.fit(x, sample_weight=zeros, verbose=0)),
    "evaluate": got_weights(lambda: model.evaluate(x, sample_weight=zeros, verbose=0)),
}
print("keras", keras.__version__)
print("sample_weight reaches compute_loss:", found)
expected = {"train_on_batch": True, "test_on_batch": True, "fit": False, "evaluate": False}
raise SystemExit(found != expected)
PYTHON
KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/program.py"

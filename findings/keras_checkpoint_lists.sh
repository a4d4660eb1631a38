#!/bin/bash
# A Keras 3 model whose layers are in a list attribute, saved with `tf.train.Checkpoint`.
#
# The good guess: the checkpoint holds every weight of `model.weights`. Keras tracks lists, the
# issue about lists on the TensorFlow backend is closed as fixed, and tf-keras held them.
#
# What happens: the layers in the list are left out without a word. The file has only the layers
# that are attributes by themselves, a restore of it reports that all was consumed, and the layers
# of the list keep the values that they had. `model.save_weights` holds all.
#
# Version: keras 3.15.1, tensorflow 2.21.0. Source: keras-team/keras issue 18398 and pull request
# 18507; `KerasAutoTrackable` tracks what is a `Trackable`, and Keras' lists are none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1
cat > "$folder/show.py" <<'PY'
import sys

import keras
import numpy as np
import tensorflow as tf

print("keras", keras.__version__, "tensorflow", tf.__version__)


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(3) for _ in range(2)]
        self.head = keras.layers.Dense(2)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def make():
    model = Model()
    model(tf.ones([1, 3]))
    return model


model, other = make(), make()
path = tf.train.Checkpoint(model=model).write(sys.argv[1] + "/checkpoint")
held = [name for name, shape in tf.train.list_variables(path) if shape]
print(len(model.weights), "weights; the checkpoint holds", held)
tf.train.Checkpoint(model=other).read(path).assert_consumed()
print("a restore reports that all was consumed")
same = [np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights())]
print("equal afterwards:", same)
assert len(model.weights) == 6 and len(held) == 2, "lists are in checkpoints now"
assert not same[0] and not same[2], "the layers of the list were restored"
PY
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES= KERAS_BACKEND=tensorflow \
  "$folder/venv/bin/python" "$folder/show.py" "$folder" 2>/dev/null

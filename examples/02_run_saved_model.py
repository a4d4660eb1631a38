"""Runs an exported model with tensorflow and tensorflow_text alone.

    python examples/02_run_saved_model.py saved_models/shakespeare-tiny/1 "To be, or not to be"

The SavedModel contains the tokenizer, the model and the decode loop; this package is not imported.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)

directory = sys.argv[1]
prompt = sys.argv[2] if len(sys.argv) > 2 else "ROMEO:\n"

loaded = tf.saved_model.load(directory)
answer = loaded.generate(
    tf.constant([prompt]), max_new_tokens=tf.constant([150]), seed=tf.constant([7], tf.int64)
)

print(prompt + answer["text"][0].numpy().decode())
reason = answer["finish_reason"][0].numpy().decode()
print(f"\n[{directory}: {answer['num_tokens'][0]} tokens, finish_reason {reason}]")

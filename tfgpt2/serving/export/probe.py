"""Runs signatures of a SavedModel as a stranger would: with tensorflow and tensorflow_text only.

A program, not a module. It reads from its input
`{"directory": path, "requests": [{"signature": name, "inputs": {name: nested lists}}, ...]}`;
bytes travel as Latin-1 text. The answers are the last line of the output.
"""

import json
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)


def main() -> None:
    """Reads requests, runs them, prints the answers."""
    asked = json.load(sys.stdin)
    signatures = tf.saved_model.load(asked["directory"]).signatures
    answers = []
    for request in asked["requests"]:
        function = signatures[request["signature"]]
        specs = function.structured_input_signature[1]
        inputs = {
            name: tf.constant(_bytes(value) if specs[name].dtype == tf.string else value,
                              specs[name].dtype)
            for name, value in request["inputs"].items()
        }  # fmt: skip
        answers.append({name: _plain(value) for name, value in function(**inputs).items()})
    print(json.dumps(answers))


def _bytes(value: object) -> object:
    return [_bytes(one) for one in value] if isinstance(value, list) else value.encode("latin-1")


def _plain(value: tf.Tensor) -> object:
    array = value.numpy()
    if array.dtype == object:
        return np.vectorize(lambda raw: raw.decode("latin-1"), otypes=[object])(array).tolist()
    return array.tolist()


if __name__ == "__main__":
    main()

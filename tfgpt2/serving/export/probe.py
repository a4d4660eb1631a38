"""Runs signatures of a SavedModel with tensorflow and tensorflow_text only.

A program, not a module. It reads from its standard input
`{"directory": path, "requests": [{"signature": name, "inputs": {name: nested lists}}, ...]}`;
bytes are encoded as Latin-1 text. The answers are the last line of its output.
"""

import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)


def main() -> None:
    """Reads requests, runs them and prints the answers."""
    job = json.load(sys.stdin)
    signatures = tf.saved_model.load(job["directory"]).signatures
    answers = []
    for request in job["requests"]:
        function = signatures[request["signature"]]
        specs = function.structured_input_signature[1]
        inputs = {
            name: tf.constant(_bytes(value) if specs[name].dtype == tf.string else value,
                              specs[name].dtype)
            for name, value in request["inputs"].items()
        }  # fmt: skip
        outputs = function(**inputs)
        answers.append({name: value.numpy().tolist() for name, value in outputs.items()})
    print(json.dumps(answers, default=lambda raw: raw.decode("latin-1")))


def _bytes(value: object) -> object:
    return [_bytes(one) for one in value] if isinstance(value, list) else value.encode("latin-1")


if __name__ == "__main__":
    main()

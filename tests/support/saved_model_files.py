"""Reading a SavedModel's files without loading it, and a clean process that runs it."""

import json
import os
import subprocess
import sys

from tensorflow.core.protobuf import saved_model_pb2

RUNNER = """
import json, sys
import tensorflow as tf, tensorflow_text
model = tf.saved_model.load(sys.argv[1])
answers = {}
for name, (signature, inputs) in json.load(sys.stdin).items():
    function = model.signatures[signature]
    specs = function.structured_input_signature[1]
    if len(inputs) < len(specs):
        function = getattr(model, signature)  # which has defaults
    outputs = function(**{k: tf.constant(v, specs[k].dtype) for k, v in inputs.items()})
    answers[name] = {k: [v.dtype.name, list(v.shape), json.loads(json.dumps(v.numpy().tolist(),
                         default=lambda raw: raw.decode("latin-1")))] for k, v in outputs.items()}
ours = [name for name in sys.modules if name.split(".")[0] in ("tfgpt2", "keras_nlp", "keras_hub")]
print(json.dumps([answers, ours]))
"""


def read_meta_graph(directory):
    """The meta graph."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((directory / "saved_model.pb").read_bytes())
    return message.meta_graphs[0]


def list_nodes(graph):
    """All nodes, those inside functions included."""
    inside = (node for function in graph.library.function for node in function.node_def)
    return [*graph.node, *inside]


def list_operations(directory):
    """Names of all operations, those inside functions included."""
    return {node.op for node in list_nodes(read_meta_graph(directory).graph_def)}


def has_compiled_functions(directory):
    """Whether XLA is to compile any function."""
    graph = read_meta_graph(directory).graph_def
    marks = [
        one.attr.get("_XlaMustCompile") for one in (*graph.library.function, *list_nodes(graph))
    ]
    return any(mark is not None and mark.b for mark in marks)


def run_in_clean_process(directory, requests):
    """Answers of a process that imports tensorflow and tensorflow_text only."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(directory)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers, ours = json.loads(done.stdout.splitlines()[-1])
    assert ours == []
    return answers

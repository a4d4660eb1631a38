"""A signature and a servable that need no SavedModel."""

import threading

import numpy as np
import tensorflow as tf

from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.signature import Signature, TensorInfo


def tensor_info(dtype, *shape):
    return TensorInfo(np.dtype(tf.as_dtype(dtype).as_numpy_dtype), shape)


ECHO = Signature(
    "echo",
    {
        "text": tensor_info("string", -1),
        "n": tensor_info("int32", -1),
        "stop": tensor_info("string", -1, -1),
    },
    {"text": tensor_info("string", -1)},
    {"n": np.array([7], np.int32)},
)


def echo_request(*texts, n=1, stop=((b"",),)):
    return {
        "text": np.array([t.encode() for t in texts], object).reshape(len(texts)),
        "n": np.atleast_1d(np.array(n, np.int32)),
        "stop": np.array(stop, object),
    }


class FakeServable:
    """Returns its inputs as text, row by row, and records each batch.

    Runs wait while `gate` is cleared; a batch that contains the text `poison` fails.
    """

    batches_in_graph = has_engine = False
    first_runs = FirstRuns("m", compiles=False)

    def __init__(self, name="m", version=1, path=None):
        self.name, self.version = name, version
        self.signatures = {"echo": ECHO}
        self.batches, self.gate = [], threading.Event()
        self.gate.set()
        self.poison = None

    def run(self, signature, inputs):
        assert self.gate.wait(30)
        self.batches.append(inputs)
        if self.poison is not None and self.poison in inputs["text"].tolist():
            raise tf.errors.InvalidArgumentError(None, None, "poison")
        stops = [b"|".join(row) for row in inputs["stop"]]
        rows = zip(inputs["text"], inputs["n"], stops, strict=True)
        out = [b"%s %d %s" % row for row in rows]
        return {"text": np.array(out, object).reshape(len(out))}

    def warm_up(self):
        return 0

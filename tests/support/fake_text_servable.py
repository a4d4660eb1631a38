"""A servable that continues every text with the same token, and needs no SavedModel."""

import threading

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from tests.support.fake_servable import tensor_info
from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.signature import Signature

_STRING, _INT = tensor_info("string", -1), tensor_info("int32", -1)


class FakeTextServable:
    """Has the signatures that completions need. The arguments are those of a loader.

    Attributes:
        token: Text of each generated token.
        calls: Names of the signatures that ran.
        gate: Calls of `generate` wait while it is cleared.
        generating: Is set when a call of `generate` has begun.
    """

    batches_in_graph = True  # each request runs as it is
    has_engine = False
    first_runs = FirstRuns("m", compiles=False)
    chat_templates, special_tokens = {}, {}

    def __init__(self, name="m", version=1, path=None):
        self.name, self.version = name, version
        self.signatures = {
            "generate": Signature(
                "generate",
                {
                    "text": _STRING,
                    "max_new_tokens": _INT,
                    "temperature": tensor_info("float32", -1),
                },
                {"text": _STRING},
                {
                    "max_new_tokens": np.array([4], np.int32),
                    "temperature": np.array([1], np.float32),
                },
            ),
            "tokenize": Signature("tokenize", {"text": _STRING}, {}, {}),
            "detokenize": Signature("detokenize", {"ids": tensor_info("int32", -1, -1)}, {}, {}),
        }
        self.signature_defs = {key: meta_graph_pb2.SignatureDef() for key in self.signatures}
        self.token, self.calls = b"x", []
        self.gate, self.generating = threading.Event(), threading.Event()
        self.gate.set()

    def warm_up(self):
        return 0

    def describe_signatures(self):
        return {key: {} for key in self.signatures}

    def run(self, signature, inputs):
        self.calls.append(signature)
        if signature == "tokenize":
            # The generated token is 1, and any other byte is a token, too.
            first, *others = inputs["text"][0].split(self.token)
            ids = [2] * len(first)
            for other in others:
                ids += [1] + [2] * len(other)
            return {"ids": np.array([ids], np.int32), "num_tokens": np.array([len(ids)])}
        if signature == "detokenize":
            return {"text_bytes": np.array([self.token] * len(inputs["ids"]), object)}
        self.generating.set()
        assert self.gate.wait(60)
        rows, count = len(inputs["text"]), int(inputs["max_new_tokens"].max())
        text = np.array([self.token * count] * rows, object)
        return {
            "text": text,
            "text_bytes": text,
            "token_ids": np.ones((rows, count), np.int32),
            "num_tokens": np.full(rows, count, np.int32),
            "token_logprobs": np.full((rows, count), -1.0, np.float32),
            "logprob": np.full(rows, -1.0 * count, np.float32),
            "prompt_tokens": np.ones(rows, np.int32),
            "truncated": np.zeros(rows, np.int32),
            "finish_reason": np.array([b"length"] * rows, object),
        }

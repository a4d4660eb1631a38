"""A servable with a text model's signatures whose tokens are bytes; it needs no SavedModel."""

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

from tests.support.fake_servable import tensor_info
from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.signature import Signature

_TEXTS = tensor_info("string", -1)
_INTS = tensor_info("int32", -1)
_FLOATS = tensor_info("float32", -1)
_MAX_TOKENS = 16

GENERATE = Signature(
    "generate",
    {
        "text": _TEXTS,
        "max_new_tokens": _INTS,
        "temperature": _FLOATS,
        "top_k": _INTS,
        "seed": tensor_info("int64", -1),
        "stop": tensor_info("string", -1, -1),
    },
    {"text": _TEXTS, "token_ids": tensor_info("int32", -1, -1), "num_tokens": _INTS},
    {
        "max_new_tokens": np.array([4], np.int32),
        "temperature": np.array([0], np.float32),
        "top_k": np.array([0], np.int32),
        "seed": np.array([-1], np.int64),
        "stop": np.array([[b""]], object),
    },
)
_IDS_INPUTS = {"ids" if name == "text" else name: one for name, one in GENERATE.inputs.items()}


class ByteServable:
    """Continues every text with `xxx...`, and records the inputs of each call."""

    batches_in_graph = has_engine = False
    first_runs = FirstRuns("m", compiles=False)
    chat_templates, special_tokens = {}, {}

    def __init__(self, name="m", version=1, path=None):
        self.name, self.version, self.path, self.calls = name, version, path, []
        self.signatures = {
            "generate": GENERATE,
            "serving_default": Signature("serving_default", {"text": _TEXTS}, {"text": _TEXTS}, {}),
            "tokenize": Signature("tokenize", {"text": _TEXTS}, {"num_tokens": _INTS}, {}),
            "detokenize": Signature("detokenize", {"ids": tensor_info("int32", -1, -1)}, {}, {}),
            "generate_ids": GENERATE._replace(name="generate_ids", inputs=_IDS_INPUTS),
            "inspect_ids": Signature("inspect_ids", {"ids": _TEXTS}, {"num_tokens": _INTS}, {}),
        }
        self.signature_defs = {key: meta_graph_pb2.SignatureDef() for key in self.signatures}

    def warm_up(self):
        return 0

    def describe_signatures(self):
        return {key: {} for key in self.signatures}

    def run(self, signature, inputs):
        self.calls.append((signature, inputs))
        return getattr(self, f"_{signature}")(**inputs)

    def _serving_default(self, text):
        return {"text": text}

    def _tokenize(self, text):
        ids = np.zeros((len(text), max(map(len, text), default=0)), np.int32)
        for row, one in enumerate(text):
            ids[row, : len(one)] = list(one)
        return {"ids": ids, "num_tokens": _lengths(text)}

    def _detokenize(self, ids):
        rows = [bytes(i for i in row if 0 <= i < 256) for row in ids.tolist()]
        return {"text_bytes": np.array(rows, object)}

    def _generate_ids(self, ids, **settings):
        return self._generate(_texts(ids), **settings)

    def _inspect_ids(self, ids):
        text = _texts(ids)
        ids = self._tokenize(text)["ids"]
        tokens = np.array([[bytes([i]) for i in row] for row in ids], object).reshape(ids.shape)
        return {
            "num_tokens": _lengths(text),
            "truncated": np.zeros(len(text), np.int32),
            "token_bytes": tokens,
            "token_logprobs": np.full(ids.shape, -1, np.float32),
            "ranks": np.minimum(np.arange(ids.shape[1]), 1) * np.ones_like(ids),
            "top_bytes": np.repeat(tokens[..., None], 2, axis=2),
            "text_sizes": np.ones(ids.shape, np.int32),
            "top_logprobs": np.full((*ids.shape, 2), -1.5, np.float32),
        }

    def _generate(self, text, max_new_tokens, **settings):
        counts = np.clip(max_new_tokens, 0, _MAX_TOKENS)
        texts = np.array([b"x" * count for count in counts], object)
        return {
            "text": texts,
            "text_bytes": texts,
            "token_ids": np.full((len(text), counts.max()), ord("x"), np.int32),
            "token_logprobs": np.full((len(text), counts.max()), -0.5, np.float32),
            "num_tokens": counts,
            "prompt_tokens": _lengths(text),
            "truncated": np.zeros(len(text), np.int32),
            "finish_reason": np.full(len(text), b"length", object),
        }


def _texts(rows):
    return np.array([bytes(map(int, row.split())) for row in rows], object)


def _lengths(texts):
    return np.array([*map(len, texts)], np.int32)

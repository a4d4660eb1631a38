"""A version that is a LiteRT export, run without TensorFlow.

It has the signatures that completions, the playground and `:predict` need to generate and score;
what such an export does not compute (`inspect`, `embed`, `next_token`) is not among them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.errors import value_error
from tfgpt2.files import read_json_object
from tfgpt2.generation.options import REQUEST_OPTIONS
from tfgpt2.litert.generator import LiteRTGenerator
from tfgpt2.serving.chat_files import read_templates
from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.litert_engine import LiteRTEngine
from tfgpt2.serving.server.serving_error import ServingError, invalid
from tfgpt2.serving.server.signature import Arrays, Signature, TensorInfo
from tfgpt2.serving.server.text_model import STARTED_BY

_SPECIAL_TOKENS = "special_tokens_map.json"
# TensorFlow's names of types, in JSON.
_TYPES = {"string": "DT_STRING", "int32": "DT_INT32", "int64": "DT_INT64", "float32": "DT_FLOAT"}


class LiteRTModel:
    """A loaded LiteRT export; see `servable.Servable`.

    Args:
        name: The model's name.
        version: The version's number.
        path: The export.
        slot_counts: The numbers of slots that the engine will have.

    Raises:
        ValueError: The folder is damaged, or the engine is off.
    """

    batches_in_graph = True  # a call has a fixed number of rows, and rows are divided among calls
    has_engine = True

    def __init__(self, name: str, version: int, path: Path, slot_counts: Sequence[int] = ()):
        if not slot_counts:
            raise value_error(
                "A LiteRT export is served by the engine only.",
                fix="Leave out --no-engine.",
                path=str(path),
            )
        self.name, self.version = name, version
        self.chat_templates = read_templates(path)
        self.special_tokens = _read_special_tokens(path)
        self.first_runs = FirstRuns(name, compiles=False)
        self.scheduler: Any = None
        self._lock = threading.Lock()
        self._generator = LiteRTGenerator.from_pretrained(path)
        self.signatures = _signatures(self._generator)

    def make_engine(self) -> LiteRTEngine:
        """Makes the engine."""
        return LiteRTEngine(self._generator)

    def warm_up(self) -> int:
        """Generates a token on an engine."""
        engine, signature = self.make_engine(), self.signatures["engine_start_ids"]
        state, _ = engine.start(signature, [signature.defaults | {"ids": _objects([b"0"])}], 1)
        engine.join([(state, 1)], [], 1)
        engine.advance([True], 1)
        engine.clear()
        return 1

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs `score`, `tokenize` or `detokenize`; the others run on the engine.

        Raises:
            ServingError: UNIMPLEMENTED: it is the signature of an engine.
        """
        if signature not in _FUNCTIONS:
            raise ServingError(
                "UNIMPLEMENTED", f"`{signature}` is internal to this server. Use `generate`."
            )
        with self._lock:  # each text that is scored has a cache of the whole context
            return _FUNCTIONS[signature](self._generator, inputs)

    def describe_signatures(self) -> dict[str, Any]:
        """The signatures by name, as JSON of TensorFlow's messages."""
        return {
            name: {
                "inputs": _describe(signature.inputs),
                "outputs": _describe(signature.outputs),
                "method_name": "tensorflow/serving/predict",
                "defaults": {},
            }
            for name, signature in self.signatures.items()
        }


def _score(generator: LiteRTGenerator, inputs: Mapping[str, np.ndarray]) -> Arrays:
    try:
        scores = generator.score(inputs["text"].tolist())
    except ValueError as error:  # a token that the model lacks
        raise invalid(str(error), param="text") from error
    return {
        "logprob": np.array([one.logprob for one in scores], np.float32),
        "num_tokens": np.array([one.num_tokens for one in scores], np.int32),
        "perplexity": np.array([one.perplexity for one in scores], np.float32),
        "token_logprobs": _padded([one.token_logprobs for one in scores], np.float32),
        "truncated": np.array([one.truncated for one in scores], np.int32),
    }


def _tokenize(generator: LiteRTGenerator, inputs: Mapping[str, np.ndarray]) -> Arrays:
    ids = [generator.tokenize(text) for text in inputs["text"]]
    return {
        "ids": _padded(ids, np.int32),
        "num_tokens": np.array([len(one) for one in ids], np.int32),
    }


def _detokenize(generator: LiteRTGenerator, inputs: Mapping[str, np.ndarray]) -> Arrays:
    texts = [generator.detokenize(ids) for ids in inputs["ids"].tolist()]
    readable = [text.decode("utf-8", "replace").encode() for text in texts]
    return {"text": _objects(readable), "text_bytes": _objects(texts)}


_FUNCTIONS = {"score": _score, "tokenize": _tokenize, "detokenize": _detokenize}


def _signatures(generator: LiteRTGenerator) -> dict[str, Signature]:
    """The signatures, which are those of a SavedModel, with the folder's settings as defaults."""
    text, strings = {"text": _info(object)}, _info(object, 2)
    settings = {name: _info(option.dtype) for name, option in REQUEST_OPTIONS.items()}
    settings["stop"] = strings
    defaults = {
        name: np.array([value], REQUEST_OPTIONS[name].dtype)
        for name, value in generator.default_options().items()
    }
    stops = [one.encode() for one in generator.contract.stop_strings] or [b""]
    defaults["stop"] = np.array([stops], object)
    floats, counts = _info("float32"), _info("int32")
    generated = {
        "text": _info(object),
        "text_bytes": _info(object),
        "token_ids": _info("int32", 2),
        "num_tokens": counts,
        "prompt_tokens": counts,
        "truncated": counts,
        "logprob": floats,
        "token_logprobs": _info("float32", 2),
        "finish_reason": _info(object),
    }
    found = {
        "serving_default": Signature("serving_default", text, generated, {}),
        "generate": Signature("generate", text | settings, generated, defaults),
        "generate_ids": Signature(
            "generate_ids", {"ids": _info(object)} | settings, generated, defaults
        ),
        "score": Signature(
            "score",
            text,
            {
                "logprob": floats,
                "num_tokens": counts,
                "perplexity": floats,
                "token_logprobs": _info("float32", 2),
                "truncated": counts,
            },
            {},
        ),
        "tokenize": Signature(
            "tokenize", text, {"ids": _info("int32", 2), "num_tokens": counts}, {}
        ),
        "detokenize": Signature(
            "detokenize",
            {"ids": _info("int32", 2)},
            {"text": _info(object), "text_bytes": _info(object)},
            {},
        ),
    }
    for name, start in STARTED_BY.items():  # what the scheduler starts rows with
        if start not in found:
            like = found["generate" if name == "serving_default" else name]
            found[start] = like._replace(name=start, outputs={})
    return found


def _info(dtype: Any, rank: int = 1) -> TensorInfo:
    return TensorInfo(np.dtype(dtype), (-1,) * rank)


def _describe(infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    return {
        name: {
            "dtype": _TYPES[info.type_name],
            "tensor_shape": {
                "dim": [{"size": str(size), "name": ""} for size in info.shape],
                "unknown_rank": False,
            },
            "name": name,
        }
        for name, info in infos.items()
    }


def _padded(rows: Sequence[Sequence[Any]], dtype: Any) -> np.ndarray:
    """Rows of different lengths, filled up with zeros."""
    found = np.zeros([len(rows), max(map(len, rows), default=0)], dtype)
    for row, values in enumerate(rows):
        found[row, : len(values)] = values
    return found


def _objects(texts: Sequence[bytes]) -> np.ndarray:
    found = np.empty(len(texts), object)
    found[:] = texts
    return found


def _read_special_tokens(path: Path) -> dict[str, str]:
    """The special tokens of an export's tokenizer, by role."""
    tokens = path / _SPECIAL_TOKENS
    found = read_json_object(tokens, "tokenizer") if tokens.is_file() else {}
    return {name: token for name, token in found.items() if isinstance(token, str)}

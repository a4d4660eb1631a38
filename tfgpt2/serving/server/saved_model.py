"""A version that is a SavedModel: its signatures, its warm-up, and running it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfgpt2.quiet import quiet
from tfgpt2.serving.chat_files import read_chat_files
from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.graph_engine import GraphEngine
from tfgpt2.serving.server.serving_error import invalid
from tfgpt2.serving.server.signature import (
    Arrays,
    Signature,
    TensorInfo,
    find_signature,
)
from tfgpt2.serving.server.tensor_protos import inputs_from_protos
from tfgpt2.serving.server.text_model import (
    ENGINE,
    MAX_NEW_TOKENS,
    START_OUTPUTS,
    STARTED_BY,
    has_engine,
)

_log = logging.getLogger(__name__)

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000  # as TensorFlow Serving


class SavedModel:
    """A loaded SavedModel; see `servable.Servable`.

    Args:
        name: The model's name.
        version: The version's number.
        path: The version directory.
        slot_counts: The numbers of slots that the engine will have; none: it is not used.

    Attributes:
        signature_defs: Its signatures as TensorFlow's messages.
        batches_in_graph: The graph contains an operation that batches concurrent calls; their rows
            must not be batched twice.
    """

    def __init__(self, name: str, version: int, path: Path, slot_counts: Sequence[int] = ()):
        self.name, self.version, self.path = name, version, path
        self._slot_counts = slot_counts
        self.chat_templates, self.special_tokens = read_chat_files(path)
        graph = _read_serving_graph(path)
        self.signature_defs = dict(graph.signature_def)
        self.batches_in_graph = _has_operation(graph.graph_def, "BatchFunction")
        self.first_runs = FirstRuns(name, compiles=_is_compiled(graph.graph_def))
        self.scheduler: Any = None
        with quiet():  # devices and SentencePiece models report that they are there
            self._loaded = tf.saved_model.load(str(path))
        self._functions = dict(self._loaded.signatures)
        self.signatures = {
            key: _signature(key, graph.signature_def[key]) for key in self._functions
        }
        self.has_engine = has_engine(self.signatures)

    def make_engine(self) -> GraphEngine:
        """Makes the engine."""
        return GraphEngine(self.call)

    def describe_signatures(self) -> dict[str, Any]:
        """The signatures by name, as JSON; fields that are zero included."""
        return {
            name: json_format.MessageToDict(
                definition,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, definition in self.signature_defs.items()
        }

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs a signature; blocks, and may be called from several threads."""
        return {name: out.numpy() for name, out in self.call(signature, inputs).items()}

    def call(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Like `run`, with tensors as outputs, which may be inputs again."""
        infos = self.signatures[signature].inputs
        tensors = {
            name: inputs[name]
            if tf.is_tensor(inputs[name])
            else tf.constant(inputs[name], tf.string if info.is_string else info.dtype)
            for name, info in infos.items()
        }
        shapes = ()
        if self.first_runs.compiles:  # else nobody asks for them
            shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
        with self.first_runs.measure(signature, shapes):
            return dict(self._functions[signature](**tensors))

    def warm_up(self) -> int:
        """Runs the warm-up requests of the export and returns their number.

        Without a warm-up file each signature runs once with a dummy row. TensorFlow Serving does
        not do that: its first requests wait for TensorFlow to prepare the graph, for seconds in
        which a switch to a new version would fail requests by their deadline. An engine generates
        a token with each number of slots.

        Raises:
            Exception: The error of the first failing request of the file; TensorFlow Serving
                refuses to load such a version, too.
        """
        if not (self.path / WARMUP_FILE).is_file():
            return self._run_each_signature()
        count = 0
        for request in _read_warmup_requests(self.path / WARMUP_FILE):
            signature = find_signature(self.signatures, request.model_spec.signature_name)
            self.run(signature.name, inputs_from_protos(signature, request.inputs))
            count += 1
        if self._slot_counts and self.has_engine:
            self._run_engine(self.signatures[ENGINE[0]])
        return count

    def _run_each_signature(self) -> int:
        engine = self._slot_counts and self.has_engine
        for name, signature in self.signatures.items():
            # The engine runs in place of those that it can do, or is not used at all.
            if name in (*ENGINE[1:], *STARTED_BY) if engine else name in ENGINE:
                continue
            try:
                if engine and name == ENGINE[0]:
                    self._run_engine(signature)
                else:
                    self.run(name, dummy_inputs(signature))
            except Exception as error:  # the row may be invalid for this model
                _log.info("%s: no warm-up of %s: %s", self.name, name, type(error).__name__)
        return len(self.signatures)

    def _run_engine(self, start: Signature) -> None:
        """Generates a token on the engine with each number of slots."""
        row = self.call(start.name, dummy_inputs(start))
        row = {name: value for name, value in row.items() if name not in START_OUTPUTS}
        others = {f"other_{name}": value for name, value in row.items()}
        for count in self._slot_counts:
            source = np.array([0] + [-1] * (count - 1), np.int32)
            state = self.call("engine_join", row | others | {"source": source})
            controls = {"active": 1 + source, "steps": np.ones(1, np.int32)}
            self.call("engine_advance", state | controls)


def dummy_inputs(signature: Signature) -> Arrays:
    """Makes a row for any signature: defaults where there are some, else empty texts and ones."""
    inputs = {}
    for name, info in signature.inputs.items():
        shape = [max(size, 1) for size in info.shape or (1,)]
        inputs[name] = np.full(shape, b"" if info.is_string else 1, info.dtype)
        if name in signature.defaults and name != MAX_NEW_TOKENS:  # one token is enough
            inputs[name] = signature.defaults[name]
    return inputs


def _read_warmup_requests(path: Path) -> Iterator[Any]:
    """Yields the `PredictRequest`s of a warm-up file."""
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
        if number >= _MAX_WARMUP_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum of {_MAX_WARMUP_RECORDS}.")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise invalid("A warm-up record is not a `predict_log`; this server runs only those.")
        yield log.predict_log.request


def _read_serving_graph(path: Path) -> Any:
    """Returns the meta graph that servers load."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    for graph in message.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return graph
    raise invalid("The SavedModel has no graph with the tag 'serve'.")


def _signature(name: str, definition: Any) -> Signature:
    defaults = {key: tf.make_ndarray(value) for key, value in definition.defaults.items()}
    return Signature(name, _infos(definition.inputs), _infos(definition.outputs), defaults)


def _infos(protos: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(
            np.dtype(tf.as_dtype(info.dtype).as_numpy_dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(axis.size for axis in info.tensor_shape.dim),
        )
        for name, info in sorted(protos.items())
    }


def _is_compiled(graph: Any) -> bool:
    """Whether XLA compiles parts of an export."""
    mark = "_XlaMustCompile"
    return any(mark in one.attr and one.attr[mark].b for one in graph.library.function)


def _has_operation(graph: Any, operation: str) -> bool:
    functions = (node for function in graph.library.function for node in function.node_def)
    return any(node.op == operation for nodes in (graph.node, functions) for node in nodes)

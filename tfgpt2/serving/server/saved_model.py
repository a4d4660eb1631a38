"""One loaded version of a model: its signatures, its warm-up, and running it.

Imports tensorflow and tensorflow_text, and nothing that knows what the model is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfgpt2.serving.server.status import invalid

_log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]  # strings are object arrays of bytes

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
_MOST_WARM_UPS = 1000  # as the real server
_MOST_VALUES = 2**24  # of a tensor in a message: a few bytes can claim to be gigabytes
DEFAULT_SIGNATURE = "serving_default"


class TensorSpec(NamedTuple):
    """What a signature says of a tensor.

    Attributes:
        dtype: TensorFlow's type.
        shape: Length of each axis, -1 where any will do; None when the rank is open, too.
    """

    dtype: tf.DType
    shape: tuple[int, ...] | None

    @property
    def is_string(self) -> bool:
        """Whether it holds bytes."""
        return self.dtype == tf.string


class Signature(NamedTuple):
    """What a signature takes and gives.

    Attributes:
        name: Its key in the SavedModel.
        inputs: By name.
        outputs: By name.
        defaults: Values of inputs that a client may leave out (over gRPC).
    """

    name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    defaults: Arrays

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Checks types and shapes.

        Args:
            inputs: By name, all of them.

        Raises:
            ServingError: INVALID_ARGUMENT, naming the input.
        """
        for name, spec in self.inputs.items():
            array = inputs[name]
            if array.dtype != spec.dtype.as_numpy_dtype:
                raise invalid(
                    f"Input {name!r} must be {spec.dtype.name}."
                    f" Received: {_dtype_name(array)}. Send it as {spec.dtype.name}.",
                    param=name,
                )
            if spec.shape is not None and (
                len(spec.shape) != array.ndim
                or any(
                    want not in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
                )
            ):
                raise invalid(
                    f"Input {name!r} must have the shape {_shape_name(spec.shape)}."
                    f" Received: {list(array.shape)}.",
                    param=name,
                )


class Servable:
    """A version in memory.

    Args:
        name: The model's name.
        version: The version's number.
        path: The version directory.

    Attributes:
        name: As given.
        version: As given.
        signatures: What can be asked, by name.
        signature_defs: The same as TensorFlow's messages, for `/metadata`.
        batches_itself: The graph holds an operation that batches; rows must not be batched twice.
    """

    def __init__(self, name: str, version: int, path: Path):
        self.name, self.version, self.path = name, version, path
        graph = _serving_graph(path)
        self.signature_defs = dict(graph.signature_def)
        self.batches_itself = _has_operation(graph.graph_def, "BatchFunction")
        self._loaded = tf.saved_model.load(str(path))
        self._functions = dict(self._loaded.signatures)
        self.signatures = {
            key: _signature(key, graph.signature_def[key]) for key in self._functions
        }

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs a signature; blocks, and may be called from several threads.

        Args:
            signature: A key of `signatures`.
            inputs: All its inputs.

        Returns:
            All its outputs.
        """
        specs = self.signatures[signature].inputs
        tensors = {name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()}
        return {name: out.numpy() for name, out in self._functions[signature](**tensors).items()}

    def warm_up(self) -> int:
        """Runs the requests that came with the export; returns how many.

        Without such a file each signature runs once with a made-up row. The real server does
        not do that, and its first requests wait for TensorFlow to prepare the graph: seconds, in
        which a switch to a new version would fail requests by their deadline.

        Raises:
            Exception: Whatever the first failing request of the file raises; the real server
                refuses to load such a version, too.
        """
        if not (self.path / WARM_UP).is_file():
            return self._run_each_once()
        count = 0
        for request in _warm_up_requests(self.path / WARM_UP):
            signature = find(self.signatures, request.model_spec.signature_name)
            inputs = from_protos(signature, request.inputs)
            self.run(signature.name, inputs)
            count += 1
        return count

    def _run_each_once(self) -> int:
        for name, signature in self.signatures.items():
            try:
                self.run(name, made_up(signature))
            except (
                Exception
            ) as error:  # the row may mean nothing to this model: no fault of its own
                _log.info("%s: no warm-up of %s: %s", self.name, name, type(error).__name__)
        return len(self.signatures)


def made_up(signature: Signature) -> Arrays:
    """A row that any signature takes: defaults where there are some, else empty texts and ones.

    Args:
        signature: What to ask.
    """
    inputs = {}
    for name, spec in signature.inputs.items():
        shape = [max(size, 1) for size in spec.shape or (1,)]
        value = b"" if spec.is_string else 1
        inputs[name] = np.full(shape, value, spec.dtype.as_numpy_dtype)
        if name in signature.defaults and name != "max_new_tokens":  # one token will do
            inputs[name] = signature.defaults[name]
    return inputs


def find(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Looks a signature up; an empty name is `serving_default`.

    Raises:
        ServingError: There is none.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(
            f'Serving signature name: "{name}" not found in signature def.'
            f" The model has: {', '.join(sorted(signatures))}."
        )
    return signatures[name]


def from_protos(signature: Signature, messages: Mapping[str, Any]) -> Arrays:
    """Reads a gRPC request's tensors and adds the defaults of those that were left out.

    Args:
        signature: What is asked.
        messages: `TensorProto` by name.

    Returns:
        An array for each input of the signature.

    Raises:
        ServingError: INVALID_ARGUMENT: an input is missing, unknown or broken.
    """
    unknown = sorted(set(messages) - set(signature.inputs))
    missing = sorted(set(signature.inputs) - set(messages) - set(signature.defaults))
    if unknown or missing:
        # Source of the wording: tensorflow/serving predict_util.cc::VerifyRequestInputsSize.
        raise invalid(
            f"input size does not match signature: {len(messages)}!={len(signature.inputs)}."
            f" Sent extra: {{{','.join(unknown)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    given = {name: _from_proto(name, message) for name, message in messages.items()}
    return {name: given.get(name, signature.defaults.get(name)) for name in signature.inputs}


def _from_proto(name: str, message: Any) -> np.ndarray:
    values = 1
    for axis in message.tensor_shape.dim:
        values *= axis.size
    try:
        if not 0 <= values <= _MOST_VALUES or message.tensor_shape.unknown_rank:
            raise ValueError("its shape")
        array = tf.make_ndarray(message)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name}", param=name) from error
    return array


def _warm_up_requests(path: Path) -> Iterator[Any]:
    """The `PredictRequest`s of a warm-up file; none when it is absent."""
    if not path.is_file():
        return
    for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()):
        if number >= _MOST_WARM_UPS:
            raise invalid(f"Number of warmup records exceeds the maximum of {_MOST_WARM_UPS}.")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise invalid("A warm-up record is no `predict_log`: this server runs those only.")
        yield log.predict_log.request


def _serving_graph(path: Path) -> Any:
    """The meta graph that servers load."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    for graph in message.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return graph
    raise invalid("The SavedModel has no graph with the tag 'serve'.")


def _signature(name: str, definition: Any) -> Signature:
    defaults = {key: tf.make_ndarray(value) for key, value in definition.defaults.items()}
    return Signature(name, _specs(definition.inputs), _specs(definition.outputs), defaults)


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            tf.as_dtype(info.dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(axis.size for axis in info.tensor_shape.dim),
        )
        for name, info in sorted(infos.items())
    }


def _has_operation(graph: Any, operation: str) -> bool:
    functions = (node for function in graph.library.function for node in function.node_def)
    return any(node.op == operation for nodes in (graph.node, functions) for node in nodes)


def _dtype_name(array: np.ndarray) -> str:
    return "string" if array.dtype == object else array.dtype.name


def _shape_name(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('any' if size < 0 else str(size) for size in shape)}]"

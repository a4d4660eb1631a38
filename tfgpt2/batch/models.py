"""`BatchModel`: one signature of a checkpoint or of an export, ready to be called on batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)
from tensorflow.core.protobuf import saved_model_pb2

from tfgpt2.errors import value_error
from tfgpt2.serving.export.signatures.base import SignatureFn
from tfgpt2.serving.version_number import parse_version

Arrays = dict[str, np.ndarray]  # strings are object arrays of bytes


@dataclasses.dataclass(frozen=True, eq=False)
class BatchModel:
    """One signature.

    Attributes:
        function: The signature: tensors by name -> tensors by name.
        inputs: Type of each input.
        defaults: Value `[1, ...]` of each input that has one.
        count_tokens: Texts -> int `[B]`, by which rows are sorted.
        digest: Identifies weights, tokenizer and defaults.
    """

    function: Callable[..., Mapping[str, tf.Tensor]]
    inputs: Mapping[str, tf.DType]
    defaults: Arrays
    count_tokens: Callable[[Sequence[bytes]], np.ndarray]
    digest: str

    def run(self, inputs: Arrays) -> Arrays:
        """Runs a batch."""
        tensors = {name: tf.constant(value, self.inputs[name]) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self.function(**tensors).items()}


def from_signature(
    signature: SignatureFn, tokenizer: Any, model: Any, **identity: Any
) -> BatchModel:
    """A signature of a model in memory: the function that an export would have.

    Args:
        signature: The signature.
        tokenizer: The tokenizer.
        model: The model, for the digest.
        **identity: Further values that decide the results, as JSON.
    """
    parts = {"model": model.config.to_dict(), "tokenizer": tokenizer.get_config(), **identity}
    # Keras counts the names of layers in a process, and a configuration may hold its place.
    parts = {
        part: {key: value for key, value in values.items() if key not in ("name", "_name_or_path")}
        for part, values in parts.items()
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    weights = (weight.numpy().tobytes() for weight in model.weights)
    return BatchModel(
        signature.build(signature),
        {spec.name: spec.dtype for spec in signature.inputs},
        {name: value.numpy() for name, value in signature.default_inputs().items()},
        lambda texts: tokenizer.tokenize(tf.constant(texts, tf.string)).row_lengths().numpy(),
        _digest([text.encode(), *(b"%08x" % zlib.crc32(raw) for raw in weights)]),
    )


def find_export(name: str) -> Path | None:
    """The version directory of an export; None if the name is not one.

    Args:
        name: A version directory, or a model's directory, of which the largest version counts.
    """
    folder = Path(name)
    children = folder.iterdir() if folder.is_dir() else ()
    numbers = {path: parse_version(path.name) for path in children}
    versions = sorted((p for p, n in numbers.items() if n is not None), key=numbers.get)
    for path in (folder, *reversed(versions)):
        if (path / "saved_model.pb").is_file():
            return path
    return None


def from_export(directory: Path, name: str) -> BatchModel:
    """A signature of an export.

    Raises:
        ValueError: The export has no such signature.
    """
    message = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    graph = next(one for one in message.meta_graphs if "serve" in one.meta_info_def.tags)
    known = sorted(one for one in graph.signature_def if not one.startswith("__"))
    if name not in known:
        raise value_error(
            f"The export has no signature {name!r}.",
            fix="Export the model with it, or name a checkpoint.",
            model=str(directory),
            signatures=known,
        )
    definition = graph.signature_def[name]
    loaded = tf.saved_model.load(str(directory))
    count = _byte_lengths
    if "tokenize" in known:
        count = lambda texts: loaded.tokenize(tf.constant(texts, tf.string))["num_tokens"].numpy()  # noqa: E731
    # Of graph and weights, written since TensorFlow 2.12.
    fingerprint = directory / "fingerprint.pb"
    files = [fingerprint if fingerprint.is_file() else directory / "saved_model.pb"]
    return BatchModel(
        getattr(loaded, name),
        {key: tf.as_dtype(info.dtype) for key, info in definition.inputs.items()},
        {key: tf.make_ndarray(value) for key, value in definition.defaults.items()},
        count,
        _digest(path.read_bytes() for path in files),
    )


def _byte_lengths(texts: Sequence[bytes]) -> np.ndarray:
    return np.array([len(text) for text in texts])


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:32]

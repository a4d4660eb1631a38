"""`tf_model.h5` files that the TensorFlow classes of transformers 4 load."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from tfgpt2.checkpoints.names import HEADS, part, with_prefix
from tfgpt2.checkpoints.readers.h5 import WEIGHTS_NAME
from tfgpt2.checkpoints.writers.base import CheckpointWriter, Content, StoredTensor
from tfgpt2.errors import value_error

_MODEL = "tfgpt2lm_head_model"  # first part of the written names; transformers drops it
_MAX_ATTRIBUTE = 64_512  # bytes of one HDF5 attribute; Keras splits longer ones as well


class H5Writer(CheckpointWriter):
    """Writes a `tf_model.h5` and `config.json`."""

    format = "h5"
    dtypes = ("float64", "float32", "float16")  # HDF5 does not have bfloat16

    def write(self, content: Content, directory: Path) -> list[str]:
        """Writes weights and configuration; see `CheckpointWriter.write`."""
        directory.mkdir(parents=True, exist_ok=True)
        write_file(content.tensors, directory / WEIGHTS_NAME)
        content.config.save_pretrained(directory)
        return []


def write_file(tensors: Iterable[StoredTensor], path: Path) -> None:
    """Writes a `tf_model.h5` that transformers 4's TensorFlow classes load.

    Args:
        tensors: What to write.
        path: The file to write.

    Raises:
        ValueError: The model has an untied output matrix.
    """
    layers: dict[str, list[str]] = {}
    with h5py.File(path, "w") as file:
        for tensor in tensors:
            if part(tensor.key) == "lm_head":
                raise value_error(
                    "TensorFlow transformers ties the output matrix to the token embeddings; a"
                    " model with an untied one cannot be stored as tf_model.h5.",
                    fix="Store it as safetensors.",
                    key=tensor.key,
                )
            name, transposed = name_from_key(tensor.key)
            array = np.asarray(tensor.read(), tensor.dtype)
            if transposed:
                array = array.T
            elif array.ndim == 1 and not re.search(r"/(gamma|beta):0$", name):
                head = part(with_prefix(tensor.key)) in HEADS
                array = array if head else array[None]  # Conv1D's bias [1, out]
            layer, name = name.partition("/")[0], f"{_MODEL}/{name}"
            layers.setdefault(layer, []).append(name)
            file.create_dataset(f"{layer}/{name}", data=array)
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", "2.21.0"
        _write_names(file, "layer_names", list(layers))
        for layer, names in layers.items():
            _write_names(file[layer], "weight_names", names)


def _write_names(group: h5py.Group, attribute: str, names: Sequence[str]) -> None:
    """Writes a list of names, in numbered attributes when it is too large for one."""
    encoded = np.asarray([name.encode() for name in names])
    pieces = max(1, math.ceil(encoded.nbytes / _MAX_ATTRIBUTE))
    if pieces == 1:
        group.attrs[attribute] = encoded
        return
    for i, piece in enumerate(np.array_split(encoded, pieces)):
        group.attrs[f"{attribute}{i}"] = piece


def name_from_key(key: str) -> tuple[str, bool]:
    """Returns the TensorFlow weight name of a key, and whether its matrix is transposed.

    Example:
        >>> name_from_key("transformer.h.0.ln_1.weight"), name_from_key("score.weight")
        (('transformer/h_._0/ln_1/gamma:0', False), ('score/kernel:0', True))
    """
    words = re.sub(r"/h/(\d+)/", r"/h_._\1/", with_prefix(key).replace(".", "/")).split("/")
    layer, leaf = words[-2:]
    transposed = words[0] in HEADS and leaf == "weight"
    if transposed:
        words[-1] = "kernel"
    elif layer.startswith("ln_"):
        words[-1] = {"weight": "gamma", "bias": "beta"}[leaf]
    elif layer in ("wte", "wpe"):
        words[-1] = "embeddings"
    return "/".join(words) + ":0", transposed

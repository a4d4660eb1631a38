"""The `tf_model.h5` files of TensorFlow transformers.

Such a file has one group per layer of the Keras model, and in it one dataset per weight under the
weight's TensorFlow name. Names begin differently from version to version
(`tfgp_t2lm_head_model/transformer/...`, `transformer/...`), and shards drop their beginning; what
follows `transformer` is always the same.

Source: transformers 4.57, `modeling_tf_utils.py::load_tf_weights_from_h5, load_tf_shard`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from tfgpt2.checkpoints.names import HEADS
from tfgpt2.checkpoints.readers import base, hdf5
from tfgpt2.checkpoints.readers.base import CheckpointReader, Rename
from tfgpt2.errors import unreadable
from tfgpt2.hub import Find

WEIGHTS_NAME = "tf_model.h5"
INDEX_NAME = "tf_model.h5.index.json"

_PARTS = {"transformer", *HEADS}
_BODY = re.compile(r"h_\._\d+|wte|wpe|ln_f")
_LEAVES = {"gamma": "weight", "beta": "bias", "kernel": "weight", "embeddings": "weight"}


class _Entry(NamedTuple):
    """A tensor: its file, dataset, type, PyTorch's shape, and whether the dataset is transposed."""

    path: Path
    dataset: str
    dtype: np.dtype
    shape: tuple[int, ...]
    transposed: bool


class H5Reader(CheckpointReader):
    """The tensors of a `tf_model.h5`, under PyTorch's keys and in PyTorch's layout.

    Args:
        datasets: File and dataset by TensorFlow weight name, which may have a prefix.

    Raises:
        ValueError: A dataset is missing, is not a plain array of numbers, or is in another file.
    """

    format = "h5"
    file_names = (WEIGHTS_NAME, INDEX_NAME)
    suffixes = (".h5",)

    def __init__(self, datasets: Mapping[str, tuple[Path, str]]) -> None:
        self._entries: dict[str, _Entry] = {}
        paths = list(dict.fromkeys(path for path, _ in datasets.values()))
        self.path = paths[0]
        for path in paths:
            with hdf5.open_file(path) as file:
                for name, (owner, dataset) in datasets.items():
                    if owner == path:
                        self._add(name, path, file, dataset)

    def _add(self, name: str, path: Path, file: h5py.File, dataset: str) -> None:
        key, transposed = key_from_name(name)
        if key in self._entries:
            raise unreadable(path, f"{dataset!r} is a second tensor of this key", key=key)
        found = hdf5.checked_dataset(path, file, dataset, key)
        shape = base.pytorch_shape(key, found.shape, transposed)
        self._entries[key] = _Entry(path, dataset, hdf5.number_type(found), shape, transposed)

    @classmethod
    def from_files(cls, find: Find) -> H5Reader | None:
        """Opens a model's weights, sharded or not; see `CheckpointReader.from_files`."""
        if (single := find(WEIGHTS_NAME)) is not None:
            return cls({name: (single, name) for name in hdf5.list_datasets(single)})
        if (index := find(INDEX_NAME)) is None:
            return None
        # Shards name their datasets without the first part of the weight's name.
        shards = base.read_index(index, find)
        return cls({name: (path, name.partition("/")[2] or name) for name, path in shards.items()})

    @classmethod
    def renaming(cls, names: Iterable[str]) -> Rename | None:
        """Recognises TensorFlow's names in a safetensors file by their `:0`."""
        return _key_from_safetensors if any(name.endswith(":0") for name in names) else None

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        array = hdf5.read_dataset(entry.path, entry.dataset, key)
        return base.pytorch_layout(array, entry.shape, entry.transposed)


def key_from_name(name: str) -> tuple[str, bool]:
    """Returns PyTorch's key for a TensorFlow weight name, and whether its matrix is transposed.

    Args:
        name: Name of a weight of transformers' TensorFlow models.

    Example:
        >>> key_from_name("tfgp_t2lm_head_model/transformer/h_._0/attn/c_attn/weight:0")
        ('transformer.h.0.attn.c_attn.weight', False)
        >>> key_from_name("score/kernel:0"), key_from_name("wte/embeddings:0")
        (('score.weight', True), ('wte.weight', False))
    """
    parts = name.removesuffix(":0").split("/")
    starts = [i for i, word in enumerate(parts[:-1]) if word in _PARTS]
    if starts:
        parts = parts[starts[-1] :]
    else:
        bare = [i for i, word in enumerate(parts) if _BODY.fullmatch(word)]
        parts = parts[bare[0] if bare else 0 :]
    leaf = parts[-1]
    transposed = leaf == "kernel"  # a Keras Dense keeps [in, out], PyTorch's Linear [out, in]
    parts[-1] = _LEAVES.get(leaf, leaf)
    return re.sub(r"\bh_\._(\d+)\b", r"h.\1", ".".join(parts)), transposed


def _key_from_safetensors(name: str) -> tuple[str, bool]:
    """Does what `key_from_name` does for a name in a safetensors file."""
    # TensorFlow drops the head's name where nothing else stands before the weight's.
    key, transposed = key_from_name("score/kernel:0" if name == "kernel:0" else name)
    return f"multiple_choice_head.{key}" if key.startswith("summary.") else key, transposed

"""The `tf_model.h5` files of TensorFlow transformers: read, and written so that it loads them.

Such a file has one group per layer of the Keras model, and in it one dataset per weight under the
weight's TensorFlow name. Over the years these names began with different things
(`tfgp_t2lm_head_model/transformer/...`, `transformer/...`), and shards drop their beginning; what
follows `transformer` is always the same.

Source: transformers 4.57, `modeling_tf_utils.py::load_tf_weights_from_h5, load_tf_shard`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import ml_dtypes
import numpy as np

from tfgpt2.checkpoints.names import HEADS, part, with_prefix
from tfgpt2.checkpoints.readers.safetensors import Stored
from tfgpt2.checkpoints.shards import broken, read_index
from tfgpt2.errors import explain

WEIGHTS_NAME = "tf_model.h5"
INDEX_NAME = "tf_model.h5.index.json"

_PARTS = {"transformer", *HEADS}
_BODY = re.compile(r"h_\._\d+|wte|wpe|ln_f")
_LEAVES = {"gamma": "weight", "beta": "bias", "kernel": "weight", "embeddings": "weight"}
_MODEL = "tfgpt2lm_head_model"  # what written names begin with; transformers drops it
_MAX_ATTRIBUTE = 64_512  # bytes of one HDF5 attribute; Keras cuts longer ones into numbered ones


class _Entry(NamedTuple):
    """Where a tensor is: file, dataset, its type, our shape, and whether it lies transposed."""

    path: Path
    dataset: str
    dtype: np.dtype
    shape: tuple[int, ...]
    transposed: bool


class H5Reader:
    """The tensors of a `tf_model.h5`, under PyTorch's keys and in PyTorch's layout.

    Args:
        datasets: File and dataset by TensorFlow weight name, which may have more in front of it.

    Raises:
        ValueError: A dataset is missing, is no plain array of numbers, or is not in this file.
    """

    def __init__(self, datasets: Mapping[str, tuple[Path, str]]) -> None:
        self._entries: dict[str, _Entry] = {}
        for path in dict.fromkeys(path for path, _ in datasets.values()):
            with open_h5(path) as file:
                for name, (owner, dataset) in datasets.items():
                    if owner == path:
                        self._add(name, path, file, dataset)

    def _add(self, name: str, path: Path, file: h5py.File, dataset: str) -> None:
        key, transposed = key_from_name(name)
        if key in self._entries:
            raise broken(path, f"{dataset!r} is a second tensor of this key", key=key)
        found = checked_dataset(path, file, dataset, key)
        shape = found.shape
        if transposed:
            shape = shape[::-1]
        elif key.endswith(".bias") and len(shape) == 2 and shape[0] == 1:
            shape = shape[1:]  # TensorFlow's Conv1D keeps its bias as [1, out]
        self._entries[key] = _Entry(path, dataset, number_type(found), shape, transposed)

    @classmethod
    def from_files(cls, find: Callable[[str], Path | None]) -> H5Reader | None:
        """Opens a model's weights, sharded or not.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the model has no such file.

        Raises:
            FileNotFoundError: The index names a shard that does not exist.
            ValueError: A file is broken.
        """
        single = find(WEIGHTS_NAME)
        if single is not None:
            return cls({name: (single, name) for name in list_datasets(single)})
        index = find(INDEX_NAME)
        if index is None:
            return None
        # Shards name their datasets without the first part of the weight's name.
        return cls(
            {
                name: (path, name.partition("/")[2] or name)
                for name, path in read_index(index, find).items()
            }
        )

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return self._entries[key].dtype

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""
        entry = self._entries[key]
        with open_h5(entry.path) as file:
            array = read_dataset(entry.path, file, entry.dataset, key)
        return np.ascontiguousarray(array.T) if entry.transposed else array.reshape(entry.shape)


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


def name_from_key(key: str) -> tuple[str, bool]:
    """Returns the TensorFlow weight name of a key, and whether its matrix is transposed.

    Example:
        >>> name_from_key("transformer.h.0.ln_1.weight"), name_from_key("score.weight")
        (('transformer/h_._0/ln_1/gamma:0', False), ('score/kernel:0', True))
    """
    words = [
        word.replace("h_", "h_._") if word.startswith("h_") else word
        for word in re.sub(r"\bh\.(\d+)\.", r"h_\1.", with_prefix(key)).split(".")
    ]
    layer, leaf = words[-2:]
    transposed = words[0] in HEADS and leaf == "weight"
    if transposed:
        words[-1] = "kernel"
    elif layer.startswith("ln_"):
        words[-1] = {"weight": "gamma", "bias": "beta"}[leaf]
    elif layer in ("wte", "wpe"):
        words[-1] = "embeddings"
    return "/".join(words) + ":0", transposed


def write(tensors: Iterable[Stored], path: Path) -> None:
    """Writes a `tf_model.h5` that transformers 4's TensorFlow classes load.

    Args:
        tensors: What to write, under PyTorch's keys; each is read when its turn comes.
        path: The file to write.

    Raises:
        ValueError: The model has an output matrix of its own, which no TensorFlow class has, or
            a tensor's type is bfloat16, which HDF5 does not know.
    """
    layers: dict[str, list[str]] = {}
    with h5py.File(path, "w") as file:
        for tensor in tensors:
            _check_writable(tensor)
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


def _check_writable(tensor: Stored) -> None:
    if part(tensor.key) == "lm_head":
        raise ValueError(
            explain(
                "TensorFlow transformers ties the output matrix to the token table; a model with"
                " one of its own cannot be stored as tf_model.h5.",
                fix="Store it as safetensors.",
                key=tensor.key,
            )
        )
    if tensor.dtype.kind != "f":
        raise ValueError(
            explain(
                "HDF5 files of transformers hold float64, float32 or float16.",
                fix="Choose one of these as `dtype`, or store it as safetensors.",
                key=tensor.key,
                dtype=tensor.dtype.name,
            )
        )


def _write_names(group: h5py.Group, attribute: str, names: Sequence[str]) -> None:
    """Writes a list of names, in numbered pieces when one attribute cannot hold it."""
    encoded = np.asarray([name.encode() for name in names])
    pieces = max(1, math.ceil(encoded.nbytes / _MAX_ATTRIBUTE))
    if pieces == 1:
        group.attrs[attribute] = encoded
        return
    for i, piece in enumerate(np.array_split(encoded, pieces)):
        group.attrs[f"{attribute}{i}"] = piece


def list_datasets(path: Path) -> list[str]:
    """Lists the datasets that a file holds, by their path in it.

    The lists of names that Keras adds as attributes are not asked for: what they name and the
    file lacks is a missing weight in any case, and damaged ones keep HDF5 busy for ever.

    Args:
        path: The file.

    Raises:
        ValueError: The file is damaged, or holds no datasets.
    """
    names: list[str] = []
    with open_h5(path) as file:
        try:
            # Each object once, along the file's own groups: links to elsewhere are not followed.
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise broken(path, f"it cannot be listed ({error})") from error
    if not names:
        raise broken(path, "it holds no weights")
    # h5py gives bytes for a name that is no UTF-8; such a dataset is then not found again.
    return [name if isinstance(name, str) else name.decode("utf-8", "replace") for name in names]


def open_h5(path: Path) -> h5py.File:
    """Opens a file to read; one that is no HDF5 file raises ValueError."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise broken(path, f"it is no complete HDF5 file ({error})") from error


def checked_dataset(path: Path, file: h5py.File, name: str, key: str) -> h5py.Dataset:
    """Returns a dataset after checks that it is a plain array inside this very file.

    HDF5 can refer to other files (external links, external and virtual datasets) and can claim
    more than it stores (compressed or never written datasets); no checkpoint does.

    Args:
        path: The file's path, for the message.
        file: The open file.
        name: Path of the dataset in it.
        key: The key it is read for, for the message.

    Raises:
        ValueError: It is missing, or something else than that.
    """
    found = _child(path, file, name, key)
    if not isinstance(found, h5py.Dataset):
        raise broken(path, f"the dataset {name!r} is missing", key=key)
    try:
        elsewhere, numbers = found.external or found.is_virtual, number_type(found)
        size = None if found.shape is None else found.size * found.dtype.itemsize
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise broken(path, f"the dataset {name!r} is damaged ({error})", key=key) from error
    if elsewhere:
        raise broken(path, f"the dataset {name!r} refers to another file", key=key)
    if numbers is None or size is None:
        raise broken(path, f"the dataset {name!r} holds no numbers", key=key)
    stored = found.id.get_storage_size()
    if found.compression is not None or stored < size:
        raise broken(
            path,
            f"the dataset {name!r} stores {stored} bytes for shape {list(found.shape)} of"
            f" {found.dtype}; compressed and empty datasets are not accepted",
            key=key,
        )
    return found


def read_dataset(path: Path, file: h5py.File, name: str, key: str) -> np.ndarray:
    """Reads one checked dataset into an array of its own."""
    found = checked_dataset(path, file, name, key)
    array = np.empty(found.shape, found.dtype)
    try:
        if array.size:
            found.read_direct(array)
    except OSError as error:
        raise broken(path, f"the dataset {name!r} cannot be read ({error})", key=key) from error
    return array.view(number_type(found))


def number_type(dataset: h5py.Dataset) -> np.dtype | None:
    """Type of a dataset's numbers, or None when it holds something else.

    HDF5 has no bfloat16; Keras stores two opaque bytes and an attribute that says so.
    """
    if dataset.dtype.kind in "fiub":
        return dataset.dtype
    if dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2:
        if dataset.attrs.get("dtype") == "bfloat16":
            return np.dtype(ml_dtypes.bfloat16)
    return None


def _child(path: Path, file: h5py.File | h5py.Group, name: str, key: str) -> object:
    """Follows a path inside the file step by step, through its own groups only."""
    here: object = file
    for step in name.split("/"):
        if not isinstance(here, h5py.Group) or step in ("", ".", ".."):
            return None
        try:
            link = here.get(step, getlink=True)
            if link is not None and not isinstance(link, h5py.HardLink):
                raise broken(path, f"{name!r} is a link to somewhere else", key=key)
            here = here.get(step) if link is not None else None
        except (KeyError, RuntimeError, OSError) as error:
            raise broken(path, f"{name!r} cannot be read ({error})", key=key) from error
    return here

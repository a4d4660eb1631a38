"""KerasHub's GPT-2 presets, read without KerasHub.

KerasHub splits the fused projection: query, key and value are layers with kernels [D, N, H], and
the output projection is [N, H, D]. The heads are adjacent in both, so concatenating the parts
gives PyTorch's tensors.

Source: keras-hub 0.32, `gpt2_backbone.py`, `utils/transformers/convert_gpt2.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers import hdf5
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.errors import unreadable, value_error
from tfgpt2.files import try_read_json_object
from tfgpt2.hub import Find

_CLASSES = {"GPT2Backbone", "GPT2CausalLM"}
# KerasHub's layers of a block, and PyTorch's names for them. Names with `layernorm` are those of
# versions before 0.6.
_BLOCK = {
    "self_attention_layernorm": "ln_1",
    "self_attention_layer_norm": "ln_1",
    "feedforward_layernorm": "ln_2",
    "feedforward_layer_norm": "ln_2",
    "self_attention_layer/output_dense": "attn.c_proj",
    "feedforward_intermediate_dense": "mlp.c_fc",
    "feedforward_output_dense": "mlp.c_proj",
}
_QKV = [f"self_attention_layer/{part}_dense" for part in ("query", "key", "value")]
_TABLES = {"reversible_embedding": "wte", "token_embedding": "wte", "position_embedding": "wpe"}
_NORMS = ("layer_normalization", "layer_norm")
_LEAVES = ("weight", "bias")
_STATE = re.compile(r"/seed_generator/|(?:^|/)optimizer/")  # of dropout layers and of training
_BLOCK_NAME = re.compile(r"(?:transformer_decoder|transformer_layer)(?:_(\d+))?")
FIELDS = {
    "vocabulary_size": "vocab_size",
    "max_sequence_length": "n_positions",
    "hidden_dim": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "intermediate_dim": "n_inner",
}


class Part(NamedTuple):
    """One array of KerasHub: shape, type, and how to read it for a key."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[str], np.ndarray]


class _Entry(NamedTuple):
    """A tensor: its shape, type, and the arrays that are concatenated in it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: tuple[Part, ...]


class KerasHubReader(CheckpointReader):
    """The weights of a KerasHub GPT-2 backbone, under PyTorch's keys and in PyTorch's layout.

    Args:
        parts: The arrays of each key.
        path: The preset's weights file; None for a model in memory.
    """

    format = "keras_hub"
    file_names = ("model.weights.h5",)
    suffixes = (".weights.h5",)
    tokenizer_files = {
        "vocab.json": "assets/tokenizer/vocabulary.json",
        "merges.txt": "assets/tokenizer/merges.txt",
    }

    def __init__(self, parts: Mapping[str, tuple[Part, ...]], path: Path | None = None) -> None:
        self.path = path
        self._entries = {
            key: _Entry(_joined_shape(key, of_key[0].shape), of_key[0].dtype, of_key)
            for key, of_key in parts.items()
        }

    @classmethod
    def from_files(cls, find: Find) -> KerasHubReader | None:
        """Opens a preset; see `CheckpointReader.from_files`.

        Raises:
            ValueError: The file is damaged, or the preset is sharded, as only huge ones are.
        """
        if (path := find("model.weights.h5")) is not None:
            return cls(_parts_of(path), path)
        if (index := find("model.weights.json")) is not None:
            raise value_error(
                "This KerasHub preset is stored in several files, which is not supported.",
                fix="Load it with KerasHub and save it with a larger `max_shard_size`.",
                path=str(index),
            )
        return None

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any] | None:
        """Reads the fields of a `GPT2Config` from the `config.json` of a preset.

        Raises:
            ValueError: The preset holds another architecture, or the file is damaged.
        """
        values = try_read_json_object(path)  # damaged JSON is reported by `GPT2Config`
        return _config_fields(values, path) if cls.owns_json(values) else None

    @classmethod
    def owns_json(cls, values: Mapping[str, Any]) -> bool:
        """Whether a JSON file describes a Keras object."""
        return "class_name" in values and "config" in values

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        shape, _, parts = self._entries[key]
        arrays = [part.read(key) for part in parts]
        if len(arrays) == 1:
            return arrays[0].reshape(shape)
        third = (*shape[:-1], shape[-1] // 3)
        return np.concatenate([array.reshape(third) for array in arrays], axis=-1)


def _joined_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns PyTorch's shape of a tensor, from the shape of its first part."""
    if "attn.c_attn" in key:
        start = 1 if key.endswith("weight") else 0
        return (*shape[:start], 3 * int(np.prod(shape[start:])))  # [D, 3D], bias [3D]
    if key.endswith("attn.c_proj.weight"):
        return (int(np.prod(shape[:-1])), shape[-1])  # [D, D]
    return shape


def _parts_of(path: Path) -> dict[str, tuple[Part, ...]]:
    """Finds the datasets of every key in a weights file."""
    names: dict[str, str] = {}
    found: dict[str, Part] = {}
    datasets = hdf5.list_datasets(path)
    with hdf5.open_file(path) as file:
        for name in datasets:
            if _STATE.search(name):
                continue
            key = _key_of(name)
            if key is None:
                raise unreadable(path, f"it holds {name!r}, which is not part of GPT-2")
            if key in found:
                raise unreadable(path, f"{name!r} and {names[key]!r} are the same tensor", key=key)
            dataset = hdf5.checked_dataset(path, file, name, key)
            read = functools.partial(hdf5.read_dataset, path, name)
            names[key], found[key] = name, Part(dataset.shape, hdf5.number_type(dataset), read)
    parts: dict[str, tuple[Part, ...]] = {}
    for key, part in found.items():
        if ".query." in key:
            keys = [key.replace(".query.", f".{word}.") for word in ("query", "key", "value")]
            if missing := [key for key in keys if key not in found]:
                raise unreadable(path, "a projection is missing", key=missing[0])
            parts[key.replace(".query.", ".c_attn.")] = tuple(found[key] for key in keys)
        elif ".key." not in key and ".value." not in key:
            parts[key] = (part,)
    if not parts:
        raise unreadable(path, "it holds no weights")
    return parts


def _key_of(name: str) -> str | None:
    """Returns the key of a dataset, such as `layers/transformer_decoder_1/.../vars/0`, or None.

    Example:
        >>> _key_of("layers/transformer_decoder_1/_feedforward_output_dense/vars/1")
        'h.1.mlp.c_proj.bias'
    """
    match = re.fullmatch(r"([^/]+)((?:/[^/]+)*)/vars/([01])", _without_wrapper(name))
    if match is None:
        return None
    layer, inner, number = match[1], match[2].replace("/_", "/").strip("/"), int(match[3])
    leaf = _LEAVES[number]
    if not inner:
        if layer in _TABLES:
            return f"{_TABLES[layer]}.weight" if number == 0 else None
        return f"ln_f.{leaf}" if layer in _NORMS else None
    block = _BLOCK_NAME.fullmatch(layer)
    if block is None:
        return None
    prefix = f"h.{block[1] or 0}"
    if inner in _BLOCK:
        return f"{prefix}.{_BLOCK[inner]}.{leaf}"
    if inner in _QKV:
        return f"{prefix}.attn.{inner.removeprefix('self_attention_layer/')[:-6]}.{leaf}"
    return None


def _without_wrapper(name: str) -> str:
    """Drops everything before a layer's name."""
    words = name.split("/")
    known = [
        i
        for i, word in enumerate(words)
        if word in _TABLES or word in _NORMS or _BLOCK_NAME.fullmatch(word)
    ]
    return "/".join(words[known[0] :]) if known else name


def _config_fields(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the fields of a `GPT2Config` from a preset's parsed `config.json`."""
    name = values.get("class_name")
    if name not in _CLASSES:
        raise value_error(
            "The KerasHub preset holds another architecture; this package loads GPT-2.",
            fix="Point to a preset of a GPT2Backbone.",
            class_name=name,
            path=str(path),
        )
    inner = values.get("config")
    if isinstance(inner, Mapping) and isinstance(inner.get("backbone"), Mapping):
        inner = inner["backbone"].get("config")
    if not isinstance(inner, Mapping) or not FIELDS.keys() <= inner.keys():
        raise unreadable(path, f"its configuration lacks one of {', '.join(FIELDS)}")
    return fields_from_backbone(inner)


def fields_from_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `GPT2Config` from a backbone's arguments."""
    fields = {ours: values[theirs] for theirs, ours in FIELDS.items()}
    rate = values.get("dropout", 0.1)
    end = fields["vocab_size"] - 1  # <|endoftext|> is the last token of OpenAI's vocabulary
    return fields | {
        "resid_pdrop": rate,
        "embd_pdrop": rate,
        "attn_pdrop": rate,
        "bos_token_id": end,
        "eos_token_id": end,
    }

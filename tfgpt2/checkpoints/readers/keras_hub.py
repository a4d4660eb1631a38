"""KerasHub's GPT-2 presets, read without KerasHub.

KerasHub splits the fused projection: query, key and value are layers of their own with kernels
[D, N, H], the output projection is [N, H, D]. Heads lie next to each other in both, so that
putting the parts side by side gives PyTorch's tensors.

Source: keras-hub 0.32, `gpt2_backbone.py`, `utils/transformers/convert_gpt2.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfgpt2.checkpoints.readers.h5 import (
    checked_dataset,
    list_datasets,
    number_type,
    open_h5,
    read_dataset,
)
from tfgpt2.checkpoints.shards import broken
from tfgpt2.errors import explain

WEIGHTS_NAME = "model.weights.h5"
SHARDED_NAME = "model.weights.json"
CONFIG_NAME = "config.json"
# What a tokenizer's files are called here, by the name that transformers gives them.
TOKENIZER_FILES = {
    "vocab.json": "assets/tokenizer/vocabulary.json",
    "merges.txt": "assets/tokenizer/merges.txt",
}

_CLASSES = {"GPT2Backbone", "GPT2CausalLM"}
# Layers of a block in KerasHub, and what PyTorch calls them. The first names are those of
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


class Source(Protocol):
    """Where arrays come from: a file or a living model."""

    def shape(self, place: Any) -> tuple[int, ...]:
        """Shape of one array."""

    def dtype(self, place: Any) -> np.dtype:
        """Type of one array."""

    def read(self, place: Any, key: str) -> np.ndarray:
        """Reads one array for a key."""


class _Entry(NamedTuple):
    """A tensor: its shape, and the arrays that stand side by side in it."""

    shape: tuple[int, ...]
    places: tuple[Any, ...]


class KerasHubReader:
    """The weights of a KerasHub GPT-2 backbone, under PyTorch's keys and in PyTorch's layout.

    Args:
        source: Where the arrays are.
        table: The arrays of each key.
    """

    def __init__(self, source: Source, table: Mapping[str, tuple[Any, ...]]) -> None:
        self._source = source
        self._entries = {}
        for key, places in table.items():
            shape = source.shape(places[0])
            if "attn.c_attn" in key:  # [D, N, H] -> [D, 3D], and [N, H] -> [3D]
                shape = _flat(shape, 1 if key.endswith("weight") else 0)
                shape = (*shape[:-1], 3 * shape[-1])
            elif key.endswith("attn.c_proj.weight"):  # [N, H, D] -> [D, D]
                shape = (int(np.prod(shape[:-1])), shape[-1])
            self._entries[key] = _Entry(shape, places)

    @classmethod
    def from_files(cls, find: Callable[[str], Path | None]) -> KerasHubReader | None:
        """Opens a preset.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the directory is no preset.

        Raises:
            ValueError: The file is broken, or spread over several, as only huge presets are.
        """
        path = find(WEIGHTS_NAME)
        if path is not None:
            source = _File(path)
            return cls(source, source.table())
        index = find(SHARDED_NAME)
        if index is not None:
            raise ValueError(
                explain(
                    "This KerasHub preset is spread over several files, which is not supported.",
                    fix="Load it with KerasHub and save it with a larger `max_shard_size`.",
                    path=str(index),
                )
            )
        return None

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return self._source.dtype(self._entries[key].places[0])

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""
        shape, places = self._entries[key]
        parts = [self._source.read(place, key) for place in places]
        if len(parts) == 1:
            return parts[0].reshape(shape)
        third = (*shape[:-1], shape[-1] // 3)
        return np.concatenate([part.reshape(third) for part in parts], axis=-1)


def _flat(shape: tuple[int, ...], start: int) -> tuple[int, ...]:
    """Joins the axes from `start` on."""
    return (*shape[:start], int(np.prod(shape[start:])))


# Presets on disk ------------------------------------------------------------------------------


class _File:
    """Arrays in a Keras weights file, by the path of their dataset."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def table(self) -> dict[str, tuple[str, ...]]:
        """Finds the datasets of every key."""
        found: dict[str, str] = {}
        names = list_datasets(self._path)
        with open_h5(self._path) as file:
            for name in names:
                if _STATE.search(name):
                    continue
                key = _key_of(name)
                if key is None:
                    raise broken(self._path, f"it holds {name!r}, which no GPT-2 has")
                if key in found:
                    raise broken(self._path, f"{name!r} and {found[key]!r} are one tensor", key=key)
                dataset = checked_dataset(self._path, file, name, key)
                found[key], self._shapes[name] = name, (dataset.shape, number_type(dataset))
        table: dict[str, tuple[str, ...]] = {}
        for key, name in found.items():
            if ".query." in key:
                parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
                if missing := [part for part in parts if part not in found]:
                    raise broken(self._path, "a projection is missing", key=missing[0])
                joined = key.replace(".query.", ".c_attn.")
                table[joined] = tuple(found[part] for part in parts)
            elif ".key." not in key and ".value." not in key:
                table[key] = (name,)
        if not table:
            raise broken(self._path, "it holds no weights")
        return table

    def shape(self, place: str) -> tuple[int, ...]:
        return self._shapes[place][0]

    def dtype(self, place: str) -> np.dtype:
        return self._shapes[place][1]

    def read(self, place: str, key: str) -> np.ndarray:
        with open_h5(self._path) as file:
            return read_dataset(self._path, file, place, key)


def _key_of(name: str) -> str | None:
    """Returns the key of a dataset, such as `layers/transformer_decoder_1/.../vars/0`.

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
    """Drops what stands before a layer's name."""
    words = name.split("/")
    known = [
        i
        for i, word in enumerate(words)
        if word in _TABLES or word in _NORMS or _BLOCK_NAME.fullmatch(word)
    ]
    return "/".join(words[known[0] :]) if known else name


def config_from_preset(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Turns the `config.json` of a preset into the fields of a `GPT2Config`.

    Args:
        values: The parsed file.
        path: The file, for the message.

    Returns:
        Fields by name.

    Raises:
        ValueError: The preset is no GPT-2, or the file is damaged.
    """
    name = values.get("class_name")
    if name not in _CLASSES:
        raise ValueError(
            explain(
                "The KerasHub preset holds another architecture; this package loads GPT-2.",
                fix="Point to a preset of a GPT2Backbone.",
                class_name=name,
                path=str(path),
            )
        )
    inner = values.get("config")
    if isinstance(inner, Mapping) and isinstance(inner.get("backbone"), Mapping):
        inner = inner["backbone"].get("config")
    if not isinstance(inner, Mapping) or not FIELDS.keys() <= inner.keys():
        raise broken(path, f"its configuration lacks one of {', '.join(FIELDS)}")
    return fields_from(inner)


def fields_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a backbone's arguments into the fields of a `GPT2Config`."""
    fields = {ours: values[theirs] for theirs, ours in FIELDS.items()}
    rate = values.get("dropout", 0.1)
    end = fields["vocab_size"] - 1  # <|endoftext|> is the last token of OpenAI's vocabulary
    return fields | {
        "resid_pdrop": rate,
        "embd_pdrop": rate,
        "attn_pdrop": rate,
        "bos_token_id": end,
        "eos_token_id": end,
        "model_type": "gpt2",
    }


def is_preset_config(values: object) -> bool:
    """Says whether a parsed `config.json` is one of KerasHub and not one of transformers."""
    return isinstance(values, Mapping) and "class_name" in values and "config" in values


def read_config(path: Path) -> dict[str, Any]:
    """Reads the `config.json` of a preset into the fields of a `GPT2Config`.

    Raises:
        ValueError: It is damaged, or belongs to another architecture.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(path, f"it is no JSON ({error})") from error
    if not is_preset_config(values):
        raise broken(path, "it is no configuration of a KerasHub model")
    return config_from_preset(values, path)

"""GGUF files of GPT-2, the format of llama.cpp: weights, configuration and tokenizer in one file.

Source: https://github.com/ggml-org/llama.cpp, `convert_hf_to_gguf.py` (`GPT2Model`),
`gguf-py/gguf/constants.py` (names) and `src/llama-vocab.cpp` (tokenizer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.checkpoints.readers.base import CheckpointReader, read_into
from tfgpt2.checkpoints.readers.byte_level_json import make_tokenizer_json
from tfgpt2.checkpoints.readers.gguf_blocks import FLOATS, QUANTISED
from tfgpt2.checkpoints.readers.gguf_metadata import MAGIC, Contents, TensorInfo, read_contents
from tfgpt2.errors import unreadable, value_error
from tfgpt2.hub import Find

_FIELDS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "attention.head_count": "n_head",
}
_TABLES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_BLOCK_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # types of tokens
_ROLES = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}


class _Entry(NamedTuple):
    """A tensor: shape and type of its values, and its place and type in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    info: TensorInfo


class GGUFReader(CheckpointReader):
    """The weights of a GGUF file; quantised ones become float32.

    Args:
        path: The file.

    Raises:
        ValueError: It is damaged, holds another architecture, or an unsupported type.
    """

    format = "gguf"
    file_names = ("model.gguf",)
    config_name = "model.gguf"
    has_tokenizer = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = {}
        for name, info in _read(path).tensors.items():
            dtype = FLOATS.get(info.kind, np.dtype(np.float32))
            self._entries[_key(name)] = _Entry(info.shape, dtype, info)

    @classmethod
    def from_files(cls, find: Find) -> GGUFReader | None:
        """Opens a model's weights; see `CheckpointReader.from_files`."""
        path = find("model.gguf")
        return None if path is None else cls(path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file begins as GGUF does."""
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any]:
        """Reads the fields of a `GPT2Config` from the metadata.

        Raises:
            ValueError: See `GGUFReader`; or a size is missing.
        """
        contents = _read(path)
        values = contents.metadata
        if missing := sorted(name for name in _FIELDS if f"gpt2.{name}" not in values):
            raise unreadable(path, f"its metadata lack gpt2.{', gpt2.'.join(missing)}")
        fields = {ours: values[f"gpt2.{theirs}"] for theirs, ours in _FIELDS.items()}
        if (table := contents.tensors.get("token_embd.weight")) is not None:
            fields["vocab_size"] = table.shape[0]
        ids = {role: values.get(f"tokenizer.ggml.{role}") for role in _ROLES}
        return fields | {
            "n_inner": values.get("gpt2.feed_forward_length"),
            "layer_norm_epsilon": values.get("gpt2.attention.layer_norm_epsilon", 1e-5),
            "activation_function": "gelu_new",  # llama.cpp's GELU is the tanh approximation
            "tie_word_embeddings": _is_tied(path, contents),
            "bos_token_id": ids["bos_token_id"],
            "eos_token_id": ids["eos_token_id"],
            "pad_token_id": ids["padding_token_id"],
        }

    @classmethod
    def read_tokenizer(cls, find: Find) -> dict[str, dict[str, Any]]:
        """Reads the tokenizer in the metadata; see `CheckpointReader.read_tokenizer`.

        Raises:
            ValueError: The file is damaged, or its tokenizer is not GPT-2's byte-level BPE.
        """
        path = find("model.gguf")
        values = {} if path is None else _read(path).metadata
        return _tokenizer(values, path) if "tokenizer.ggml.tokens" in values else {}

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor; quantised values as float32, others in their stored type."""
        entry = self._entries[key]
        if entry.info.kind in FLOATS:
            array = np.empty(entry.shape, entry.dtype)
            read_into(array, self.path, entry.info.start, key)
            return array
        blocks = QUANTISED[entry.info.kind]
        data = np.empty((entry.info.nbytes // blocks.nbytes, blocks.nbytes), np.uint8)
        read_into(data, self.path, entry.info.start, key)
        with np.errstate(invalid="ignore", over="ignore"):  # a scale may be infinite or NaN
            return blocks.values(data).reshape(entry.shape)


def _read(path: Path) -> Contents:
    """Reads a file's header and checks that it is a whole GPT-2 model."""
    contents = read_contents(path)
    architecture = contents.metadata.get("general.architecture")
    if architecture != "gpt2":
        raise value_error(
            "The GGUF file holds another architecture; this package loads GPT-2.",
            fix="Point to a GGUF file whose general.architecture is 'gpt2'.",
            path=str(path),
            architecture=architecture,
        )
    if contents.metadata.get("split.count", 1) not in (0, 1):
        raise value_error(
            "The GGUF file is one of several that together hold the model.",
            fix="Join them: `llama-gguf-split --merge FIRST_FILE OUT.gguf`.",
            path=str(path),
        )
    return contents


def _key(name: str) -> str:
    """Returns PyTorch's key of a tensor; an unknown one is an unexpected part of the transformer.

    Example:
        >>> _key("blk.3.attn_qkv.weight"), _key("output_norm.bias")
        ('transformer.h.3.attn.c_attn.weight', 'transformer.ln_f.bias')
    """
    match = _BLOCK_NAME.fullmatch(name)
    if match is not None and match[2] in _BLOCK:
        return f"transformer.h.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"
    table, _, leaf = name.rpartition(".")
    return f"{_TABLES.get(table, f'transformer.{table}')}.{leaf}"


def _is_tied(path: Path, contents: Contents) -> bool:
    """Whether the output matrix is missing or has the bytes of the token table."""
    table, output = map(contents.tensors.get, ("token_embd.weight", "output.weight"))
    if table is None or output is None:
        return True
    if (table.shape, table.kind) != (output.shape, output.kind):
        return False
    arrays = np.empty((2, table.nbytes), np.uint8)
    for array, info in zip(arrays, (table, output), strict=True):
        read_into(array, path, info.start, "output.weight")
    return bool(np.array_equal(*arrays))


def _tokenizer(values: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Returns `tokenizer.json` and `tokenizer_config.json` of a tokenizer in the metadata."""
    start = "tokenizer.ggml."
    model, pre = values.get(f"{start}model"), values.get(f"{start}pre", "gpt-2")
    if model != "gpt2" or pre != "gpt-2":
        raise value_error(
            "The tokenizer in the GGUF file is not GPT-2's byte-level BPE.",
            fix="Pass ids that its own tokenizer makes to the model, or put the tokenizer's files"
            " into a directory and load it from there.",
            path=str(path),
            model=model,
            pre=pre,
        )
    tokens, merges = values[f"{start}tokens"], values.get(f"{start}merges", [])
    usual = [1] * len(tokens) if isinstance(tokens, list) else None
    types = values.get(f"{start}token_type", usual)
    kinds = ((tokens, str), (merges, str), (types, int))
    if not all(_is_list_of(each, kind) for each, kind in kinds) or len(types) != len(tokens):
        raise unreadable(path, "the lists of its tokenizer do not fit together")
    named = list(enumerate(zip(tokens, types, strict=True)))
    # Tokens of the type "unused" only pad the table.
    vocabulary = {token: i for i, (token, kind) in named if kind != _UNUSED}
    added = [
        {"id": i, "content": token, "special": kind == _CONTROL}
        for i, (token, kind) in named
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    ids = {role: values.get(f"{start}{key}") for key, role in _ROLES.items()}
    roles = {role: tokens[i] for role, i in ids.items() if i in range(len(tokens))}
    prefix = bool(values.get(f"{start}add_space_prefix", False))
    return {
        "tokenizer.json": make_tokenizer_json(vocabulary, merges, added, prefix),
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": bool(values.get(f"{start}add_bos_token", False)),
            "add_prefix_space": prefix,
            **roles,
        },
    }


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)

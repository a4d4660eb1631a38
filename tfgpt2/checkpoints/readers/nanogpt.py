"""The `ckpt.pt` of nanoGPT: a state dict, the model's arguments and the optimizer in one pickle.

The characters of a model like its `shakespeare_char` are in a pickle of their own, `meta.pkl`.

Source: https://github.com/karpathy/nanoGPT, `train.py` (`checkpoint`), `model.py::GPTConfig` and
`data/shakespeare_char/prepare.py` (`meta`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfgpt2.checkpoints.readers import torch_pickle
from tfgpt2.checkpoints.readers.byte_level_json import make_character_json, make_tokenizer_json
from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader, read_value
from tfgpt2.checkpoints.readers.torch_pickle import RefusedError, Tensor
from tfgpt2.errors import unreadable, value_error
from tfgpt2.hub import Find

_FIELDS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
_OTHER_ARGUMENTS = {"bias", "dropout"}
# What torch.compile and DistributedDataParallel put before the keys.
_WRAPPERS = re.compile(r"(?:_orig_mod\.|module\.)+")
_END_OF_TEXT = 50256  # of GPT-2's tokenizer, whose vocabulary nanoGPT pads to 50,304
_MAX_LISTED = 5
_TABLE, _OUTPUT = "transformer.wte.weight", "lm_head.weight"


class NanoGPTReader(TorchBinReader):
    """The weights of a nanoGPT checkpoint.

    Args:
        paths: The file.

    Raises:
        ValueError: See `TorchBinReader`.
    """

    format = "nanogpt"
    file_names = ("ckpt.pt",)
    config_name = "ckpt.pt"

    @classmethod
    def from_files(cls, find: Find) -> NanoGPTReader | None:
        """Opens a model's weights; see `CheckpointReader.from_files`."""
        path = find("ckpt.pt")
        return None if path is None else cls([path])

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file of `torch.save` holds nanoGPT's dict."""
        try:
            return super().recognises(path) and _is_checkpoint(read_value(path)[0])
        except ValueError:
            return False  # another reader says what is wrong with it

    @staticmethod
    def select(value: object) -> Mapping[str, Tensor]:
        """Returns the state dict, without the prefixes of wrappers; see `TorchBinReader`."""
        if not _is_checkpoint(value):
            raise RefusedError(
                "it is not a checkpoint of nanoGPT: there is no state dict under 'model' with its"
                " sizes under 'model_args'"
            )
        state = TorchBinReader.select(value["model"])
        tensors = {_WRAPPERS.sub("", key, count=1): tensor for key, tensor in state.items()}
        if len(tensors) < len(state):
            raise RefusedError("two of its keys differ only in the prefix of a wrapper")
        return tensors

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any]:
        """Reads the fields of a `GPT2Config` from `model_args`.

        Raises:
            ValueError: The file is damaged, or `model_args` has what only another program has.
        """
        value, _ = read_value(path)
        reader = cls([path])
        arguments = value["model_args"]
        if missing := sorted(_FIELDS.keys() - arguments.keys()):
            raise unreadable(path, f"its model_args lack {', '.join(missing)}")
        known = _FIELDS.keys() | _OTHER_ARGUMENTS
        unknown = {k: v for k, v in arguments.items() if k not in known and v not in (None, False)}
        if unknown:
            raise value_error(
                "The checkpoint is that of a program derived from nanoGPT, whose model has"
                f" arguments of its own: {', '.join(map(str, unknown))}.",
                fix="If they leave GPT-2's computation as it is, pass `config=GPT2Config(...)`.",
                path=str(path),
                model_args=arguments,
            )
        rate = arguments.get("dropout", 0.0)
        size = arguments["vocab_size"]
        end = _END_OF_TEXT if isinstance(size, int) and size > _END_OF_TEXT else None
        # nanoGPT replaced the tanh approximation by the exact GELU in June 2023, five months after
        # `bias` became an argument.
        return {ours: arguments[theirs] for theirs, ours in _FIELDS.items()} | {
            "activation_function": "gelu" if "bias" in arguments else "gelu_new",
            "tie_word_embeddings": _is_tied(reader),
            "resid_pdrop": rate,
            "embd_pdrop": rate,
            "attn_pdrop": rate,
            "bos_token_id": end,
            "eos_token_id": end,
        }

    @classmethod
    def read_tokenizer(cls, find: Find) -> dict[str, dict[str, Any]]:
        """Reads the characters in the `meta.pkl` beside a `ckpt.pt`; see `CheckpointReader`.

        Raises:
            ValueError: It is damaged, or not a table of characters.
        """
        path = find("meta.pkl")
        if path is None or find("ckpt.pt") is None:
            return {}
        with path.open("rb") as file:
            try:
                meta = torch_pickle.load(file)
            except RefusedError as error:
                raise unreadable(path, str(error), kind="character table") from error
        ids = meta.get("stoi") if type(meta) is dict else None
        if type(ids) is not dict or not all(type(i) is int for i in ids.values()):
            raise unreadable(path, "it has no `stoi`, ids by character", kind="character table")
        if other := [c for c in ids if type(c) is not str or len(c) != 1]:
            raise value_error(
                "The `stoi` of a nanoGPT model has keys that are not characters.",
                fix="Pass ids to the model: `[stoi[c] for c in text]`.",
                path=str(path),
                characters=other[:_MAX_LISTED],
            )
        if not all(map(str.isascii, ids)):
            return {"tokenizer.json": make_character_json(ids)}
        # Byte-level BPE without merges: every character is a token.
        return {"tokenizer.json": make_tokenizer_json({_spell(c): i for c, i in ids.items()})}


def _spell(char: str) -> str:
    """Returns the character that `vocab.json` has for an ASCII character.

    Example:
        >>> _spell("a"), _spell(" "), _spell(chr(10))
        ('a', 'Ġ', 'Ċ')
    """
    code = ord(char)
    return char if 33 <= code <= 126 else chr(256 + min(code, 33))


def _is_checkpoint(value: object) -> bool:
    return (
        type(value) is dict
        and type(value.get("model")) is dict
        and type(value.get("model_args")) is dict
    )


def _is_tied(reader: NanoGPTReader) -> bool:
    """Whether the output matrix is the token table, by its place in the file or its numbers."""
    if not {_TABLE, _OUTPUT} <= set(reader.keys()):
        return True
    table, output = reader.stored(_TABLE), reader.stored(_OUTPUT)
    return table == output or np.array_equal(reader.read(_TABLE), reader.read(_OUTPUT))

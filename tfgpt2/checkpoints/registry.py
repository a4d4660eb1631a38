"""Which format a model's files are in: one door to all readers, and to its configuration.

The formats are tried in this order; the first whose files exist is taken:

1. `safetensors`: `model.safetensors` (also with TensorFlow's or Flax's names in it)
2. `torch`: `pytorch_model.bin`
3. `h5`: `tf_model.h5`
4. `flax`: `flax_model.msgpack`
5. `tf1`: OpenAI's `checkpoint` and `model.ckpt.*`
6. `keras_hub`: `model.weights.h5` of a preset

So a repository that holds several gives the one that is safest and quickest to read. The first
four may be sharded, with an index beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfgpt2.checkpoints.names import with_prefix
from tfgpt2.checkpoints.readers import flax_msgpack, h5, keras_hub, safetensors, tf1, torch_bin
from tfgpt2.checkpoints.tokenizer_files import find_companion
from tfgpt2.config import GPT2Config
from tfgpt2.errors import explain

_GPT2 = re.compile(r"(?:transformer\.)?h\.\d+\.attn\.c_attn\.weight(?:_int8)?")
_TABLE = re.compile(r"(?:transformer\.)?wte\.weight(?:_int8)?")
_OTHERS = {
    r"bert\.": "BERT",
    r"roberta\.": "RoBERTa",
    r"model\.layers\.\d+\.self_attn\.": "Llama, Mistral or another model with rotary positions",
    r"model\.decoder\.layers\.": "OPT or an encoder-decoder",
    r"gpt_neox\.": "GPT-NeoX",
    r"(transformer\.)?h\.\d+\.attn\.attention\.": "GPT-Neo",
    r"(transformer\.)?h\.\d+\.attn\.q_proj\.": "GPT-J",
    r"(transformer\.)?h\.\d+\.self_attention\.": "BLOOM or Falcon",
    r"(encoder|decoder)\.block\.": "T5",
}
_LISTED = 5  # keys that an error shows


class Reader(Protocol):
    """What every format's reader does; tensors are read one at a time."""

    def keys(self) -> list[str]:
        """Names of the tensors, as PyTorch has them."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor, as PyTorch has it."""

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""


class Opened(NamedTuple):
    """A checkpoint that was found.

    Attributes:
        reader: Its tensors.
        format: `"safetensors"`, `"torch"`, `"h5"`, `"flax"`, `"tf1"` or `"keras_hub"`.
    """

    reader: Reader
    format: str


class _Format(NamedTuple):
    """A format, how to open it, and the files it is looked for by."""

    name: str
    open: Callable[[Callable[[str], Path | None]], Reader | None]
    files: tuple[str, ...]


_FORMATS = (
    _Format(
        "safetensors",
        safetensors.SafetensorsReader.from_files,
        (safetensors.WEIGHTS_NAME, safetensors.INDEX_NAME),
    ),
    _Format(
        "torch",
        torch_bin.TorchBinReader.from_files,
        (torch_bin.WEIGHTS_NAME, torch_bin.INDEX_NAME),
    ),
    _Format("h5", h5.H5Reader.from_files, (h5.WEIGHTS_NAME, h5.INDEX_NAME)),
    _Format(
        "flax",
        flax_msgpack.FlaxReader.from_files,
        (flax_msgpack.WEIGHTS_NAME, flax_msgpack.INDEX_NAME),
    ),
    _Format("tf1", tf1.TF1Reader.from_files, (tf1.CHECKPOINT_NAME, "model.ckpt.index")),
    _Format("keras_hub", keras_hub.KerasHubReader.from_files, (keras_hub.WEIGHTS_NAME,)),
)


def open_checkpoint(find: Callable[[str], Path | None], name: str = "") -> Opened:
    """Opens a model's weights, in whatever format they are.

    Args:
        find: From a file's name to its local path, or None when there is no such file; that of
            `tfgpt2.hub.Repository`.
        name: The model's name, for messages.

    Returns:
        The reader and the format's name.

    Raises:
        FileNotFoundError: There are no weights in any format, or a shard is missing.
        ValueError: A file is broken, or holds another architecture.

    Example:
        >>> from tfgpt2.hub import Repository
        >>> open_checkpoint(Repository("shakespeare-tiny").find).format  # doctest: +SKIP
        'safetensors'
    """
    for kind in _FORMATS:
        seen: list[Path] = []
        reader = kind.open(_noting(find, seen))
        if reader is not None:
            reader = _in_torch_names(reader)
            _check_architecture(reader, seen[0], name)
            return Opened(reader, kind.name)
    files = ", ".join(file for kind in _FORMATS for file in kind.files)
    raise FileNotFoundError(
        explain(
            f"The model has no weights in a known format: none of {files}.",
            fix="Name a directory or repository that holds one of these files.",
            name=name,
        )
    )


def load_config(find: Callable[[str], Path | None], name: str = "", **overrides: Any) -> GPT2Config:
    """Reads a model's configuration: of transformers, of a KerasHub preset, or OpenAI's.

    Args:
        find: From a file's name to its local path, or None when there is no such file.
        name: The model's name, for messages.
        **overrides: Fields that replace those in the file.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: There is neither `config.json` nor `hparams.json`.
        ValueError: A value is out of range, or the architecture is another one.
        TypeError: An override is no field of the configuration.
    """
    path = find("config.json")
    if path is not None:
        if keras_hub.is_preset_config(_parsed(path)):
            fields = keras_hub.read_config(path) | _end_of_text(find)
            return GPT2Config.from_dict(fields, **overrides)
        return GPT2Config.from_json_file(path, **overrides)
    path = find(tf1.HPARAMS_NAME)
    if path is not None:
        fields = tf1.config_from_hparams(path) | _end_of_text(find)
        return GPT2Config.from_dict(fields, **overrides)
    raise FileNotFoundError(
        explain(
            f"The model has no file 'config.json', nor OpenAI's {tf1.HPARAMS_NAME!r}.",
            fix="Point to a directory or repository that holds one, or pass `config=`.",
            name=name,
        )
    )


def _end_of_text(find: Callable[[str], Path | None]) -> dict[str, int]:
    """The id of <|endoftext|>, which configurations of other formats leave to the vocabulary."""
    path = find_companion(find, "vocab.json")
    vocabulary = _parsed(path) if path is not None else None
    end = vocabulary.get("<|endoftext|>") if isinstance(vocabulary, dict) else None
    return {} if end is None else {"bos_token_id": end, "eos_token_id": end}


def _parsed(path: Path) -> object:
    """Parses JSON; what is broken is left to `GPT2Config` to complain about."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None


def _noting(find: Callable[[str], Path | None], seen: list[Path]) -> Callable[[str], Path | None]:
    """Notes which files were found."""

    def noting(filename: str) -> Path | None:
        path = find(filename)
        if path is not None:
            seen.append(path)
        return path

    return noting


def _check_architecture(reader: Reader, path: Path, name: str) -> None:
    """Raises when the keys are not those of GPT-2."""
    keys = reader.keys()
    if any(_GPT2.fullmatch(key) for key in keys) and any(_TABLE.fullmatch(key) for key in keys):
        return
    guess = next(
        (label for pattern, label in _OTHERS.items() if any(re.match(pattern, k) for k in keys)),
        None,
    )
    wrapped = next((key for key in keys if re.search(r"\.h\.\d+\.attn\.c_attn\.weight$", key)), "")
    if wrapped:
        fix = f"Drop {wrapped.split('transformer.')[0].split('h.')[0]!r} from the keys."
    else:
        fix = "Point to a GPT-2 model."
    raise ValueError(
        explain(
            "The checkpoint holds another architecture; this package loads GPT-2"
            + (f", and this looks like {guess}." if guess else "."),
            fix=fix,
            path=str(path),
            first_keys=keys[:_LISTED],
            name=name,
        )
    )


def _in_torch_names(reader: Reader) -> Reader:
    """Renames the tensors of a safetensors file that TensorFlow or Flax transformers wrote."""
    keys = reader.keys()
    if any(key.endswith(":0") for key in keys):
        return _Renamed(reader, h5.key_from_name)
    if any(key.endswith(".kernel") for key in keys):
        return _Renamed(reader, flax_msgpack.key_from_name)
    return reader


class _Renamed:
    """A reader whose tensors have the names and layout of another framework."""

    def __init__(self, reader: Reader, rename: Callable[[str], tuple[str, bool]]) -> None:
        self._reader = reader
        self._names: dict[str, tuple[str, bool]] = {}
        for name in reader.keys():
            # TensorFlow drops the head's name where nothing else stands before the weight's.
            key, transposed = rename("score/kernel:0" if name == "kernel:0" else name)
            if key.startswith("summary."):
                key = f"multiple_choice_head.{key}"
            self._names[key] = (name, transposed and len(reader.shape(name)) == 2)

    def keys(self) -> list[str]:
        """Names of the tensors, as PyTorch has them."""
        return list(self._names)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor, as PyTorch has it."""
        name, transposed = self._names[key]
        shape = self._reader.shape(name)
        if transposed:
            return shape[::-1]
        return shape[1:] if self._is_row(key, shape) else shape

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return self._reader.dtype(self._names[key][0])

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""
        name, transposed = self._names[key]
        array = self._reader.read(name)
        return np.ascontiguousarray(array.T) if transposed else array.reshape(self.shape(key))

    @staticmethod
    def _is_row(key: str, shape: tuple[int, ...]) -> bool:
        """Says whether a bias is kept as [1, n], as TensorFlow's Conv1D does."""
        return with_prefix(key).endswith(".bias") and len(shape) == 2 and shape[0] == 1

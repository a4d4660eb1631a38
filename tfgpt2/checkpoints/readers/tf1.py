"""OpenAI's original checkpoints: TensorFlow 1 variables, `hparams.json`, `encoder.json`.

Fine-tuned ones (gpt-2-simple and others) have the same files under other names, and also hold the
optimizer's variables.

Source: https://github.com/openai/gpt-2, `src/model.py::model, default_hparams`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.errors import explain, unreadable
from tfgpt2.files import read_json_object
from tfgpt2.hub import Find

_FIELDS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
_WEIGHT = re.compile(
    r"model/(?:(wte|wpe)|(?:h(\d+)/)?((?:ln_[12f])|(?:attn|mlp)/c_(?:attn|proj|fc))/([wgb]))"
)
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)
_MAX_DATA_FILES = 64


class _Entry(NamedTuple):
    """A tensor: its variable, PyTorch's shape, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


class TF1Reader(CheckpointReader):
    """The weights of an original checkpoint, under PyTorch's keys.

    Args:
        prefix: Path of the checkpoint's files without `.index`.

    Raises:
        ValueError: The files are damaged, or do not hold a GPT-2 model.
    """

    format = "tf1"
    file_names = ("checkpoint", "model.ckpt.index")
    config_name = "hparams.json"
    tokenizer_files = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}

    def __init__(self, prefix: Path) -> None:
        self.path = prefix.with_name(f"{prefix.name}.index")
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        except _READ_ERRORS as error:
            raise unreadable(self.path, f"TensorFlow cannot open it ({error})") from error
        stored = sum(p.stat().st_size for p in prefix.parent.glob(f"{prefix.name}.data-*"))
        self._entries: dict[str, _Entry] = {}
        weights = {name for name in shapes if _WEIGHT.fullmatch(name)}
        for name in sorted(shapes):
            if not name.startswith("model/") or name.rpartition("/")[0] in weights:
                continue  # the optimizer's: step counters, and slots below a weight's name
            shape = tuple(shapes[name])
            # OpenAI's conv1d has a window of width one: [1, in, out].
            shape = shape[1:] if name.endswith("/w") and shape[:1] == (1,) else shape
            dtype = np.dtype(dtypes[name].as_numpy_dtype)
            if math.prod(shape) * dtype.itemsize > stored:
                raise unreadable(
                    self.path,
                    f"a variable of shape {list(shape)} has more numbers than its data files of"
                    f" {stored} bytes",
                    key=name,
                )
            self._entries[key_from_name(name)] = _Entry(name, shape, dtype)
        if not weights:
            first = ", ".join(sorted(shapes)[:5])
            raise unreadable(self.path, f"it does not hold GPT-2 but the variables {first}, ...")

    @classmethod
    def from_files(cls, find: Find) -> TF1Reader | None:
        """Opens a model's weights; see `CheckpointReader.from_files`."""
        listing = find("checkpoint")
        name = "model.ckpt" if listing is None else _latest(listing)
        index = find(f"{name}.index")
        if index is None and listing is None:
            return None
        # TensorFlow opens the files by name, so `find` must have downloaded all of them.
        if index is None or not _has_data(name, find):
            raise FileNotFoundError(
                explain(
                    "A file of the original checkpoint does not exist.",
                    fix="Download the whole directory again.",
                    checkpoint=str(listing),
                    missing=f"{name}.index" if index is None else f"{name}.data-00000-of-00001",
                )
            )
        return cls(index.with_name(index.name.removesuffix(".index")))

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any]:
        """Reads the fields of a `GPT2Config` from `hparams.json`.

        Raises:
            ValueError: It is damaged, or lacks a hyperparameter.
        """
        values = read_json_object(path)
        fields = {_FIELDS[name]: value for name, value in values.items() if name in _FIELDS}
        if missing := sorted(set(_FIELDS.values()) - fields.keys()):
            raise unreadable(path, f"it lacks {', '.join(missing)}")
        # OpenAI's last token is <|endoftext|>, which begins and ends a text.
        end = fields["vocab_size"] - 1 if isinstance(fields["vocab_size"], int) else None
        return fields | {"bos_token_id": end, "eos_token_id": end}

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        try:
            array = self._reader.get_tensor(entry.name)
        except _READ_ERRORS as error:
            raise unreadable(
                self.path, f"TensorFlow cannot read a variable ({error})", key=key
            ) from error
        return array.reshape(entry.shape)


def key_from_name(name: str) -> str:
    """Returns PyTorch's key for an original variable.

    Example:
        >>> key_from_name("model/h3/attn/c_attn/w"), key_from_name("model/wte")
        ('h.3.attn.c_attn.weight', 'wte.weight')
    """
    match = _WEIGHT.fullmatch(name)
    if match is None:
        return name.removeprefix("model/").replace("/", ".")
    table, block, layer, leaf = match.groups()
    if table:
        return f"{table}.weight"
    words = [*(["h", block] if block else []), layer.replace("/", ".")]
    return ".".join([*words, "bias" if leaf == "b" else "weight"])


def _latest(listing: Path) -> str:
    """Reads the name of the latest checkpoint from the file `checkpoint`."""
    try:
        text = listing.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise unreadable(listing, "it is not a text file") from error
    match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise unreadable(listing, "it names no `model_checkpoint_path`")
    # A path is that of the machine where it was trained; the files are in this directory.
    return re.split(r"[/\\]", match[1])[-1]


def _has_data(name: str, find: Find) -> bool:
    """Whether all data files exist; their names contain their number."""
    for count in range(1, _MAX_DATA_FILES + 1):
        if find(f"{name}.data-00000-of-{count:05d}") is not None:
            rest = (find(f"{name}.data-{i:05d}-of-{count:05d}") for i in range(1, count))
            return all(path is not None for path in rest)
    return False

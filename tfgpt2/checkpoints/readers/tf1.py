"""OpenAI's original checkpoints: TensorFlow 1 variables, `hparams.json`, `encoder.json`.

Fine-tuned ones (gpt-2-simple and others) have the same files under other numbers, and hold the
optimizer's variables beside the weights.

Source: https://github.com/openai/gpt-2, `src/model.py::model, default_hparams`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.shards import broken
from tfgpt2.errors import explain

CHECKPOINT_NAME = "checkpoint"
HPARAMS_NAME = "hparams.json"
# What a tokenizer's files are called here, by the name that transformers gives them.
TOKENIZER_FILES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}

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
_FAULTS = (tf.errors.OpError, ValueError, RuntimeError, LookupError)  # what TensorFlow raises
_MAX_DATA_FILES = 64


class TF1Reader:
    """The weights of an original checkpoint, under PyTorch's keys.

    Args:
        prefix: Path of the checkpoint's files without `.index`.

    Raises:
        ValueError: The files are damaged, or hold no GPT-2.
    """

    def __init__(self, prefix: Path) -> None:
        self._index = prefix.with_name(f"{prefix.name}.index")
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            self._types = self._reader.get_variable_to_dtype_map()
        except _FAULTS as error:
            raise broken(self._index, f"TensorFlow cannot open it ({error})") from error
        self._names: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        weights = {name for name in shapes if _WEIGHT.fullmatch(name)}
        for name in sorted(shapes):
            if not name.startswith("model/") or name.rpartition("/")[0] in weights:
                continue  # the optimizer's: step counters, and slots below a weight's own name
            key = key_from_name(name)
            self._names[key] = name
            shape = tuple(shapes[name])
            # OpenAI's conv1d has a window of width one in front: [1, in, out].
            self._shapes[key] = shape[1:] if name.endswith("/w") and shape[:1] == (1,) else shape
        if not weights:
            first = ", ".join(sorted(shapes)[:5])
            raise broken(self._index, f"it holds no GPT-2 but the variables {first}, ...")

    @classmethod
    def from_files(cls, find: Callable[[str], Path | None]) -> TF1Reader | None:
        """Opens a model's weights.

        Args:
            find: From a file's name to its local path, or None when there is no such file.

        Returns:
            A reader, or None when the model has no such files.

        Raises:
            FileNotFoundError: The file `checkpoint` names files that do not exist.
            ValueError: A file is broken.
        """
        listing = find(CHECKPOINT_NAME)
        name = "model.ckpt" if listing is None else _latest(listing)
        index = find(f"{name}.index")
        if index is None and listing is None:
            return None
        # All of a checkpoint's files must be at hand: from the hub, `find` fetches them.
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

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._names)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._shapes[key]

    def dtype(self, key: str) -> np.dtype:
        """Type of one tensor."""
        return np.dtype(self._types[self._names[key]].as_numpy_dtype)

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""
        try:
            array = self._reader.get_tensor(self._names[key])
        except _FAULTS as error:
            raise broken(
                self._index, f"TensorFlow cannot read a variable ({error})", key=key
            ) from error
        return array.reshape(self._shapes[key])


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


def config_from_hparams(path: Path) -> dict[str, Any]:
    """Reads `hparams.json` into the fields of a `GPT2Config`.

    Args:
        path: The file.

    Returns:
        Fields by name.

    Raises:
        ValueError: It is no table of OpenAI's hyperparameters.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = {_FIELDS[name]: value for name, value in values.items() if name in _FIELDS}
    except (ValueError, AttributeError, RecursionError) as error:
        raise broken(path, f"it is no table of hyperparameters ({error!r})") from error
    if missing := sorted(set(_FIELDS.values()) - found.keys()):
        raise broken(path, f"it lacks {', '.join(missing)}")
    end = found["vocab_size"] - 1 if isinstance(found["vocab_size"], int) else None
    # OpenAI's last token is <|endoftext|>, which begins and ends a text.
    return found | {"bos_token_id": end, "eos_token_id": end, "model_type": "gpt2"}


def _latest(listing: Path) -> str:
    """Reads from the file `checkpoint` which checkpoint is the latest."""
    try:
        text = listing.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise broken(listing, "it is no text") from error
    match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise broken(listing, "it names no `model_checkpoint_path`")
    # An absolute path is that of the machine it was trained on; the files are beside this one.
    return re.split(r"[/\\]", match[1])[-1]


def _has_data(name: str, find: Callable[[str], Path | None]) -> bool:
    """Finds the files with the numbers: one, or several that say how many they are."""
    for count in range(1, _MAX_DATA_FILES + 1):
        if find(f"{name}.data-00000-of-{count:05d}") is not None:
            rest = (find(f"{name}.data-{i:05d}-of-{count:05d}") for i in range(1, count))
            return all(path is not None for path in rest)
    return False

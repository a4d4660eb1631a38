"""The `.bin` checkpoints of llm.c: a header of 256 integers, then the parameters kind by kind.

Source: https://github.com/karpathy/llm.c, `train_gpt2.py::write_model` and
`train_gpt2.cu::gpt2_build_from_checkpoint`, versions 3 (float32) and 5 (bfloat16).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tfgpt2.checkpoints.readers.base import CheckpointReader, read_into
from tfgpt2.errors import unreadable, value_error
from tfgpt2.hub import Find

_MAGIC = 20240326
_HEADER_BYTES = 1024
_DTYPES = {3: np.dtype(np.float32), 5: np.dtype(ml_dtypes.bfloat16)}
# Other files of llm.c, by their first number.
_OTHER_FILES = {
    20240327: "the debugging state of one training step",
    20240328: "a tokenizer",
    20240520: "token data",
    20240527: "the state of an optimizer",
    20240803: "a Llama 3 model",
}
_END_OF_TEXT = 50256  # llm.c always uses GPT-2's tokenizer


class _Header(NamedTuple):
    """Sizes of the model: the numbers after magic and version."""

    n_positions: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    padded_vocab_size: int


class _Entry(NamedTuple):
    """A tensor: shape, type, and position of its first byte."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int


class LLMCReader(CheckpointReader):
    """The weights of an llm.c checkpoint; the rows that pad its token table are left out.

    Args:
        path: The file.

    Raises:
        ValueError: It is damaged, of another version, or another file of llm.c.
    """

    format = "llm_c"
    file_names = ("model.bin",)
    config_name = "model.bin"

    def __init__(self, path: Path) -> None:
        self.path = path
        header, dtype = _read_header(path)
        self._entries: dict[str, _Entry] = {}
        start = _HEADER_BYTES
        for kind, count, shape in _kinds(header):
            for i in range(count):
                self._entries[kind.format(i)] = _Entry(shape, dtype, start)
                start += math.prod(shape) * dtype.itemsize
        table = self._entries["transformer.wte.weight"]
        shape = (header.vocab_size, header.n_embd)
        self._entries["transformer.wte.weight"] = table._replace(shape=shape)

    @classmethod
    def from_files(cls, find: Find) -> LLMCReader | None:
        """Opens a model's weights; see `CheckpointReader.from_files`."""
        path = find("model.bin")
        return None if path is None else cls(path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file begins with a number of llm.c."""
        return _numbers(path)[:1] in [[magic] for magic in (_MAGIC, *_OTHER_FILES)]

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any]:
        """Reads the fields of a `GPT2Config` from the header.

        Raises:
            ValueError: See `LLMCReader`.
        """
        header, _ = _read_header(path)
        fields = header._asdict()
        del fields["padded_vocab_size"]
        end = _END_OF_TEXT if header.vocab_size > _END_OF_TEXT else None
        return fields | {
            "activation_function": "gelu_new",
            "bos_token_id": end,
            "eos_token_id": end,
        }

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor, in its stored type."""
        entry = self._entries[key]
        array = np.empty(entry.shape, entry.dtype)
        read_into(array, self.path, entry.start, key)
        return array


def _numbers(path: Path) -> list[int]:
    """Returns the header's numbers; fewer where the file ends."""
    with path.open("rb") as file:
        data = file.read(_HEADER_BYTES)
    return np.frombuffer(data[: len(data) // 4 * 4], "<i4").tolist()


def _read_header(path: Path) -> tuple[_Header, np.dtype]:
    """Reads and checks the header; returns the sizes and the type of the tensors."""
    numbers = _numbers(path)
    magic = numbers[0] if numbers else None
    if magic in _OTHER_FILES:
        raise value_error(
            f"The file of llm.c holds {_OTHER_FILES[magic]}, not a model.",
            fix="Name the file of the model, such as model_00019560.bin or gpt2_124M.bin.",
            path=str(path),
        )
    if magic != _MAGIC or len(numbers) < _HEADER_BYTES // 4:
        raise unreadable(path, "it does not begin with the header of an llm.c checkpoint")
    version = numbers[1]
    header = _Header(*numbers[2 : 2 + len(_Header._fields)])
    # Files of 2024's first months have other versions, among them a 3 without padded size.
    if version not in _DTYPES or header.padded_vocab_size == 0:
        raise value_error(
            "The checkpoint of llm.c must be of version 3 (float32) or 5 (bfloat16), with the"
            " padded size of the vocabulary.",
            fix="Write it again with the current llm.c.",
            path=str(path),
            version=version,
        )
    if min(header) <= 0 or header.padded_vocab_size < header.vocab_size:
        raise unreadable(path, "a size in its header is not possible", **header._asdict())
    dtype = _DTYPES[version]
    size = sum(count * math.prod(shape) * dtype.itemsize for _, count, shape in _kinds(header))
    if path.stat().st_size != _HEADER_BYTES + size:
        raise unreadable(
            path,
            f"it has {path.stat().st_size} bytes; its header asks for {_HEADER_BYTES + size}",
        )
    return header, dtype


def _kinds(header: _Header) -> list[tuple[str, int, tuple[int, ...]]]:
    """Returns key, number and shape of each kind of tensor, in the file's order.

    All tensors of a kind stand together; `{}` in a key is the number of the block.
    """
    width, blocks = header.n_embd, header.n_layer
    block = "transformer.h.{}."
    return [
        ("transformer.wte.weight", 1, (header.padded_vocab_size, width)),
        ("transformer.wpe.weight", 1, (header.n_positions, width)),
        (f"{block}ln_1.weight", blocks, (width,)),
        (f"{block}ln_1.bias", blocks, (width,)),
        (f"{block}attn.c_attn.weight", blocks, (3 * width, width)),
        (f"{block}attn.c_attn.bias", blocks, (3 * width,)),
        (f"{block}attn.c_proj.weight", blocks, (width, width)),
        (f"{block}attn.c_proj.bias", blocks, (width,)),
        (f"{block}ln_2.weight", blocks, (width,)),
        (f"{block}ln_2.bias", blocks, (width,)),
        (f"{block}mlp.c_fc.weight", blocks, (4 * width, width)),
        (f"{block}mlp.c_fc.bias", blocks, (4 * width,)),
        (f"{block}mlp.c_proj.weight", blocks, (width, 4 * width)),
        (f"{block}mlp.c_proj.bias", blocks, (width,)),
        ("transformer.ln_f.weight", 1, (width,)),
        ("transformer.ln_f.bias", 1, (width,)),
    ]

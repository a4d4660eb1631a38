"""minGPT's `model.pt`, a state dict, and the `config.json` that its projects write beside it.

Source: https://github.com/karpathy/minGPT, `mingpt/model.py::GPT` and `mingpt/utils.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfgpt2.checkpoints.readers.torch_bin import TorchBinReader
from tfgpt2.errors import nearest, unreadable, value_error
from tfgpt2.files import try_read_json_object
from tfgpt2.hub import Find

# n_layer, n_head, n_embd by `model_type`.
_SIZES = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}
_SIZE_FIELDS = ("n_layer", "n_head", "n_embd")


class MinGPTReader(TorchBinReader):
    """The weights of a minGPT model.

    Args:
        paths: The file.

    Raises:
        ValueError: See `TorchBinReader`.
    """

    format = "mingpt"
    file_names = ("model.pt",)

    @classmethod
    def from_files(cls, find: Find) -> MinGPTReader | None:
        """Opens a model's weights; see `CheckpointReader.from_files`."""
        path = find("model.pt")
        return None if path is None else cls([path])

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file has minGPT's name; by its content it is like any state dict."""
        return path.name == "model.pt" and super().recognises(path)

    @classmethod
    def read_config(cls, path: Path) -> dict[str, Any] | None:
        """Reads the fields of a `GPT2Config` from minGPT's `config.json`.

        Raises:
            ValueError: `model_type` is unknown, or a size is missing.
        """
        values = try_read_json_object(path).get("model")  # else reported by `GPT2Config`
        if not isinstance(values, Mapping) or "block_size" not in values:
            return None
        kind = values.get("model_type")
        if kind is not None and kind not in _SIZES:
            raise value_error(
                "`model_type` in a minGPT config.json must be one of minGPT's.",
                fix=nearest(str(kind), _SIZES),
                model_type=kind,
                path=str(path),
            )
        sizes = {name: values.get(name) for name in _SIZE_FIELDS}
        if kind is not None:
            sizes = dict(zip(_SIZE_FIELDS, _SIZES[kind], strict=True))
        sizes |= {"vocab_size": values.get("vocab_size"), "n_positions": values["block_size"]}
        if missing := sorted(name for name, size in sizes.items() if size is None):
            raise unreadable(path, f"it lacks {', '.join(missing)}")
        rates = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
        return sizes | {
            "activation_function": "gelu_new",
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
            **{name: values[name] for name in rates if name in values},
        }

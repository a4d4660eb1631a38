"""Loading a checkpoint's tensors into a model that is being built."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import HEADS, is_buffer, key_from_path, part, with_prefix
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.checkpoints.readers.safetensors import ALIGNMENT, aligned_array
from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error

_SHAREABLE = (np.float32, np.float64, np.float16, np.int8)  # DLPack has no bfloat16 for numpy
_MAX_LISTED = 5  # keys of one kind that an error shows
_BLOCK = re.compile(r"transformer\.h\.(\d+)\.")
# Parts that other tools save beside a GPT-2 model, by the first part of their keys.
_TOOLS = {"v_head": "trl's value head"}


class WeightLoader:
    """Reads the initial weights of a model from a checkpoint, and records what does not fit.

    Args:
        reader: The checkpoint.
        may_lack: Parts of the model that may be missing; they are newly initialised.
        ignore_mismatched_sizes: Whether weights of another shape are newly initialised, too.

    Attributes:
        fresh: Keys of the weights that the checkpoint lacks and that are newly initialised.
        mismatched: Weights of another shape that are newly initialised: key, shape in the file,
            shape in the model.
        unused: Keys of parts that no GPT-2 model has, which are not read.

    Example:
        >>> from tfgpt2.checkpoints.readers.safetensors import SafetensorsReader
        >>> from tfgpt2.hub import Repository
        >>> reader = SafetensorsReader.from_files(Repository("shakespeare-tiny").find)
        >>> WeightLoader(reader).read("m/transformer/ln_f/bias", (224,), "float32").dtype.name
        'float32'
    """

    def __init__(
        self,
        reader: CheckpointReader,
        *,
        may_lack: Collection[str] = (),
        ignore_mismatched_sizes: bool = False,
    ) -> None:
        self._reader, self._may_lack = reader, may_lack
        self._ignore_mismatched_sizes = ignore_mismatched_sizes
        self._stored: dict[str, str] = {}
        self._twice: list[str] = []
        for key in reader.keys():
            if is_buffer(key):
                continue
            if with_prefix(key) in self._stored:
                self._twice.append(key)
            self._stored[with_prefix(key)] = key
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._misfits: list[str] = []
        self.fresh: list[str] = []
        self.mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        self.unused = [k for k in self._stored if part(k) not in ("transformer", *HEADS)]

    def check_sizes(self, config: GPT2Config, name: str) -> None:
        """Raises when a configuration asks for larger sizes than are stored, before it is built.

        Args:
            config: The configuration.
            name: The checkpoint's name, for the error.

        Raises:
            ValueError: Lists the sizes that are larger than those of the stored tensors.
        """
        blocks = {match[1] for match in map(_BLOCK.match, self._stored) if match}
        sizes = [("n_layer", config.n_layer, len(blocks))]
        tables = {"wte": ("vocab_size", "n_embd"), "wpe": ("n_positions", "n_embd")}
        for table, fields in tables.items():
            for key in (f"transformer.{table}.weight", f"transformer.{table}.weight_int8"):
                if (stored := self._stored.get(key)) is None:
                    continue
                shape = self._reader.shape(stored)
                sizes += [(f, getattr(config, f), n) for f, n in zip(fields, shape, strict=False)]
        larger = [
            f"`{field}` is {asked} in the configuration and {found} in the weights"
            for field, asked, found in dict.fromkeys(sizes)
            if asked > found
        ]
        if larger:
            raise _misfit("; ".join(larger), name)

    def read(self, path: str, shape: tuple[int, ...], dtype: str) -> tf.Tensor | None:
        """Returns the value of one weight; see `tfgpt2.nn.layers.initial_weights`.

        The value of a weight that does not fit is empty: `check` will raise, and until then the
        model must not allocate the memory that a wrong configuration asks for.
        """
        key = key_from_path(path)
        empty = tf.zeros([0] * len(shape), dtype)
        if key not in self._stored:
            if part(key) in self._may_lack:
                self.fresh.append(key)
                return None
            self._missing.append(key)
            return empty
        self._used.add(key)
        stored = self._stored[key]
        found, kind = self._reader.shape(stored), self._reader.dtype(stored)
        if found != tuple(shape) and self._ignore_mismatched_sizes:
            self.mismatched.append((key, tuple(found), tuple(shape)))
            return None
        if found != tuple(shape):
            self._misfits.append(
                f"{stored} is {list(found)} in the file, {list(shape)} in the model"
            )
            return empty
        if dtype == "int8" and kind != np.int8:
            self._misfits.append(f"{stored} holds {kind} in the file, not int8")
            return empty
        if dtype != "int8" and not tf.as_dtype(kind).is_floating:
            self._misfits.append(f"{stored} holds {kind} in the file, not floating-point numbers")
            return empty
        return _as_tensor(self._reader.read(stored), dtype)

    def check(self, name: str) -> None:
        """Raises when the checkpoint does not fit the model.

        Keys of heads that the model does not have are ignored: a body can be loaded without its
        head, and a tied output matrix repeats the token embeddings.

        Args:
            name: The checkpoint's name, for the error.

        Raises:
            ValueError: Lists missing, unexpected and mis-shaped keys together.
        """
        unread = sorted(self._stored.keys() - self._used - set(self.unused))
        kinds = {
            "missing": self._missing,
            "unexpected": [self._stored[key] for key in unread if part(key) not in HEADS],
            "of another shape or type": self._misfits,
            "stored twice": self._twice,
        }
        problems = [
            f"{kind} ({len(keys)}): {_listed(keys)}" for kind, keys in kinds.items() if keys
        ]
        if problems:
            raise _misfit("; ".join(problems), name)


def unused_message(name: str, model: str, keys: Collection[str]) -> str:
    """Returns a warning that lists the stored tensors that a model does not have.

    Args:
        name: The checkpoint's name.
        model: Name of the model's class.
        keys: The keys.

    Example:
        >>> unused_message("my-model", "TFGPT2LMHeadModel", ["v_head.summary.weight"])
        "'my-model' has weights that TFGPT2LMHeadModel does not have and does not use: \
v_head.summary.weight (trl's value head)."
    """
    tools = dict.fromkeys(_TOOLS[part(key)] for key in keys if part(key) in _TOOLS)
    known = f" ({', '.join(tools)})" if tools else ""
    return (
        f"{name!r} has weights that {model} does not have and does not use:"
        f" {_listed(sorted(keys))}{known}."
    )


def mismatched_message(
    name: str, model: str, shapes: Collection[tuple[str, tuple[int, ...], tuple[int, ...]]]
) -> str:
    """Returns a warning that lists the weights of another shape that are newly initialised.

    Args:
        name: The checkpoint's name.
        model: Name of the model's class.
        shapes: `WeightLoader.mismatched`.
    """
    listed = _listed([f"{key} {list(old)} -> {list(new)}" for key, old, new in shapes])
    return (
        f"Weights of {name!r} have another shape in {model}: {listed}. They are freshly"
        f" initialised, so train {model} before using its results."
    )


def _listed(keys: Collection[str]) -> str:
    """Joins the first of some keys, each of which may be as long as a file's author likes."""
    shown = ", ".join(key[:120] for key in list(keys)[:_MAX_LISTED])
    return shown + (", ..." if len(keys) > _MAX_LISTED else "")


def _misfit(problems: str, name: str) -> ValueError:
    return value_error(
        "The checkpoint's tensors do not fit the model that its configuration describes."
        f" {problems}.",
        fix="Check that config.json belongs to the weights and that the class fits.",
        checkpoint=name,
    )


def _as_tensor(array: np.ndarray, dtype: str) -> tf.Tensor:
    """Returns a tensor that takes over an array's memory, with at most one copy at a time.

    A plain conversion copies twice, and the token embeddings are half of a small model. Shared
    memory has to be aligned as TensorFlow's own.
    """
    kind = tf.as_dtype(dtype).as_numpy_dtype
    if kind not in _SHAREABLE or not array.size:
        return tf.convert_to_tensor(array.astype(kind, copy=False))
    in_place = array.dtype == kind and array.flags.c_contiguous
    if not in_place or array.ctypes.data % ALIGNMENT:
        aligned = aligned_array(array.shape, kind)
        aligned[...] = array
        array = aligned
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())

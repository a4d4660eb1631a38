"""Base class of the checkpoint writers, and what they are given to write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import key_from_path
from tfgpt2.config import GPT2Config
from tfgpt2.errors import value_error

FLOAT_DTYPES = ("float64", "float32", "float16", "bfloat16")


class StoredTensor(NamedTuple):
    """A tensor to write.

    Attributes:
        key: Its checkpoint key.
        dtype: The type to store it in.
        shape: Its shape.
        read: Returns its values; called when the tensor is written.
    """

    key: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Vocabulary(NamedTuple):
    """A tokenizer's vocabulary.

    Attributes:
        ids: Ids by token, added tokens included.
        merges: Merges as `"left right"`, most important first.
    """

    ids: dict[str, int]
    merges: list[str]


class Content(NamedTuple):
    """What a checkpoint is to hold.

    Attributes:
        tensors: Weights of one model.
        config: The configuration that `stored_config` returned.
        vocabulary: The tokenizer's vocabulary, for formats that store it.
    """

    tensors: Sequence[StoredTensor]
    config: GPT2Config
    vocabulary: Vocabulary | None = None


class CheckpointWriter:
    """Base class of the writers, one class for each format that can be written.

    Tensors are read when they are written, so that a model is never held twice. To add a format,
    write `checkpoints/writers/x.py` with a subclass, and add the class to
    `tfgpt2.checkpoints.registry.WRITERS`. A format that is written needs a reader of the same
    name, because `tfgpt2.convert` reads back what it has written.

    Attributes:
        format: Name of the format.
        dtypes: Types in which it can store weights.
        keeps_tokenizer_files: Whether transformers' tokenizer files belong beside the weights;
            otherwise `write` stores the vocabulary.
    """

    format: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]] = FLOAT_DTYPES
    keeps_tokenizer_files: ClassVar[bool] = True

    def write(self, content: Content, directory: Path) -> list[str]:
        """Writes a checkpoint.

        Args:
            content: What to write.
            directory: Created if necessary.

        Returns:
            Notes for the user, such as a setting that the format cannot represent.

        Raises:
            ValueError: The format cannot represent the model.
        """
        raise NotImplementedError


def stored_tensors(
    weights: Iterable[keras.Variable], dtype: str | None = None
) -> list[StoredTensor]:
    """Describes weights as they are to be stored.

    Args:
        weights: The variables of one model.
        dtype: Type to store (`"float16"`, `"bfloat16"`, ...); None keeps the type of each weight.

    Raises:
        ValueError: `dtype` is not a floating-point type.
    """
    if dtype is not None and dtype not in FLOAT_DTYPES:
        raise value_error(
            "`dtype` must be a floating-point type to store weights in.",
            fix=f"Choose one of {', '.join(FLOAT_DTYPES)}.",
            dtype=dtype,
        )
    return [_stored_tensor(weight, dtype or weight.dtype) for weight in weights]


def _stored_tensor(weight: keras.Variable, dtype: str) -> StoredTensor:
    numpy_type = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    return StoredTensor(
        key_from_path(weight.path),
        numpy_type,
        tuple(weight.shape),
        lambda: np.asarray(weight.value).astype(numpy_type, copy=False),
    )


def stored_config(config: GPT2Config, class_name: str, dtype: str) -> GPT2Config:
    """Returns the configuration that is stored beside weights.

    Args:
        config: The model's configuration.
        class_name: The model's class here, such as `"TFGPT2LMHeadModel"`.
        dtype: Type of the stored weights.

    Returns:
        A copy that names PyTorch's class and the type.
    """
    stored = GPT2Config.from_dict(config.to_dict())
    stored.architectures = [class_name.removeprefix("TF")]
    stored.dtype = dtype
    return stored

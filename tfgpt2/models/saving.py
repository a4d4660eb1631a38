"""How `save_pretrained` writes weights: format and size of the files."""

from __future__ import annotations

import re

from tfgpt2.checkpoints.writers.base import CheckpointWriter
from tfgpt2.checkpoints.writers.h5 import H5Writer
from tfgpt2.checkpoints.writers.safetensors import SafetensorsWriter
from tfgpt2.errors import value_error

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+)\s*([KMG]I?B)\s*", re.IGNORECASE)


def size_in_bytes(size: int | str) -> int:
    """Reads the size of a file.

    Args:
        size: A number of bytes, or a text such as `"200MB"` or `"5GiB"`.

    Raises:
        ValueError: It is neither, or not positive.

    Example:
        >>> size_in_bytes("5GB"), size_in_bytes("1KiB"), size_in_bytes(7)
        (5000000000, 1024, 7)
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    count = int(found[1]) * _UNITS[found[2].upper()] if found else size
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise value_error(
            "`max_shard_size` must be a positive number of bytes, or a text such as '200MB'.",
            fix="Leave it out for 5 GB.",
            max_shard_size=size,
        )
    return count


def weight_writer(max_shard_size: int | str, safe_serialization: bool) -> CheckpointWriter:
    """Returns the writer of safetensors files, or of one `tf_model.h5`.

    Args:
        max_shard_size: Size above which safetensors weights are split over several files.
        safe_serialization: Whether to write safetensors.

    Raises:
        ValueError: The size is not one.
    """
    size = size_in_bytes(max_shard_size)
    return SafetensorsWriter(size) if safe_serialization else H5Writer()

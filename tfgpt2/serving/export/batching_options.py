"""Options of batching: allowed batch sizes, `Batching`, and TensorFlow Serving's file for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tfgpt2.errors import nearest, type_error, value_error

DEFAULT_SIZES = (1, 2, 4, 8, 16, 32)
MAX_ROWS = 1024  # of a request
PARAMETERS_FILE = "batching_params.pbtxt"
_KINDS = ("graph", "server")
_LOWEST = {"batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}


class Batching(NamedTuple):
    """How concurrent requests share a batch; the names are those of TensorFlow Serving.

    Attributes:
        kind: `"graph"`: an operation of the SavedModel batches them, on any server without a flag.
            `"server"`: TensorFlow Serving does, configured by a file beside the SavedModel.
        batch_timeout_micros: Longest time that a request waits for others, in microseconds.
        num_batch_threads: Batches that run at the same time.
        max_enqueued_batches: Batches that may wait; beyond that a request fails with
            `UNAVAILABLE`.
    """

    kind: str = "graph"
    batch_timeout_micros: int = 2000
    num_batch_threads: int = 1
    max_enqueued_batches: int = 100


def check_sizes(sizes: Sequence[int] | str | None, *, jit_compile: bool) -> tuple[int, ...] | None:
    """Checks batch sizes and returns them in order.

    Args:
        sizes: Numbers of rows; `"auto"` is `DEFAULT_SIZES` with XLA and None without; None pads
            no batch.
        jit_compile: Whether XLA compiles the export.

    Raises:
        ValueError: They are not distinct integers in [1, 1024], or another word.

    Example:
        >>> check_sizes([8, 1], jit_compile=True), check_sizes("auto", jit_compile=False)
        ((1, 8), None)
    """
    if sizes == "auto":
        sizes = DEFAULT_SIZES if jit_compile else None
    if sizes is None:
        return None
    listed = tuple(sizes) if isinstance(sizes, (list, tuple)) else ()
    fits = all(type(size) is int and 1 <= size <= MAX_ROWS for size in listed)
    if not listed or not fits or len(set(listed)) != len(listed):
        problem = f"`batch_sizes` must be distinct integers in [1, {MAX_ROWS}], 'auto' or None."
        raise value_error(problem, fix=f"For example {DEFAULT_SIZES}.", batch_sizes=sizes)
    return tuple(sorted(listed))


def check_batching(batching: Batching | str | None) -> Batching | None:
    """Checks the option `batching` of an export.

    Args:
        batching: `"graph"`, `"server"`, a `Batching`, or None.

    Raises:
        ValueError: The kind is unknown, or a number is out of range.
        TypeError: It has another type.

    Example:
        >>> check_batching("graph").num_batch_threads
        1
    """
    if batching is None:
        return None
    if isinstance(batching, str):
        batching = Batching(batching)
    if not isinstance(batching, Batching):
        problem = "`batching` must be 'graph', 'server', a Batching or None."
        fix = "Use Batching('graph', batch_timeout_micros=2000) to set its numbers."
        raise type_error(problem, fix=fix, batching=batching)
    if batching.kind not in _KINDS:
        problem = "`batching` must be 'graph', 'server' or None."
        fix = nearest(str(batching.kind), _KINDS)
        raise value_error(problem, fix=fix, batching=batching.kind)
    for name, low in _LOWEST.items():
        value = getattr(batching, name)
        if type(value) is not int or value < low:
            problem = f"`{name}` of batching must be an integer of {low} or more."
            fix = f"The default is {getattr(Batching(), name)}."
            raise value_error(problem, fix=fix, **{name: value})
    return batching


def write_parameters(directory: Path, batching: Batching, sizes: Sequence[int] | None) -> None:
    """Writes `batching_params.pbtxt`, for a server with per-model batching.

    Args:
        directory: The version directory.
        batching: Time limit, threads and queue.
        sizes: Allowed batch sizes, in ascending order; None is `DEFAULT_SIZES`.

    Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     write_parameters(Path(directory), Batching("server"), (1, 8))
        ...     print(Path(directory, PARAMETERS_FILE).read_text().splitlines()[0])
        max_batch_size { value: 8 }
    """
    sizes = sizes or DEFAULT_SIZES
    values = {"max_batch_size": sizes[-1]} | {name: getattr(batching, name) for name in _LOWEST}
    lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
    lines += [f"allowed_batch_sizes: {size}" for size in sizes]
    (directory / PARAMETERS_FILE).write_text("\n".join(lines) + "\n")

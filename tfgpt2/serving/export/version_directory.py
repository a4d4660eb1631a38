"""Version directories: their numbers, and the publication of a SavedModel in one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfgpt2.errors import explain, value_error
from tfgpt2.serving.export.allowed_ops import check_operations, read_operations
from tfgpt2.serving.export.report import ExportReport
from tfgpt2.serving.export.self_check import ProbeInputs, SelfCheck
from tfgpt2.serving.version_number import LARGEST_VERSION, parse_version


def next_version(base: str | os.PathLike[str]) -> int:
    """The number after the largest version in a model's directory; 1 where there is none.

    Args:
        base: The directory that holds the version directories; it need not exist.

    Example:
        >>> next_version("no/such/directory")
        1
    """
    base = Path(base)
    names = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    return 1 + max([0, *(parse_version(name) or 0 for name in names)])


def new_version(path: str | os.PathLike[str], version: int | str | None) -> Path:
    """The version directory of an export.

    Args:
        path: The version directory, or with a version the model's directory.
        version: A number, `"next"` or None.

    Raises:
        FileExistsError: The directory exists.
        ValueError: The version is neither a number that servers read nor `"next"`.
    """
    path = Path(path)
    if version is not None:
        if version == "next":
            version = next_version(path)
        if type(version) is not int or not 1 <= version <= LARGEST_VERSION:
            problem = "`version` must be a number of 1 or more, below 2**63, or 'next'."
            fix = "Leave it out where the path ends in the version."
            raise value_error(problem, fix=fix, version=version)
        path = path / str(version)
    if os.path.lexists(path):
        problem = "The version directory exists, and an export never overwrites one."
        number = next_version(path.parent)
        fix = f"Export to the next version: {path.parent / str(number)}, or --next (in Python"
        fix += f" version='next') with {str(path.parent)!r}."
        raise FileExistsError(explain(problem, fix=fix, path=str(path)))
    return path


def publish(
    path: Path,
    functions: Mapping[str, Any],
    resources: list[Any],
    probe_inputs: ProbeInputs | None,
    *,
    compiled: bool,
    add_files: Callable[[Path], None] = lambda directory: None,
) -> ExportReport:
    """Writes a SavedModel beside its version directory, checks it, and renames it.

    Args:
        path: The version directory.
        functions: Signatures by name.
        resources: Everything that has state and that the functions use.
        probe_inputs: Inputs of the self-check by signature; None skips it.
        compiled: Whether operations of XLA are allowed.
        add_files: Writes further files into the directory.

    Returns:
        What was written, without the fields that only a generator's export fills.

    Raises:
        RuntimeError: The self-check found a difference, or an operation that servers lack; nothing
            is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the last step is a rename; a server ignores names that are
    # not version numbers.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    check = None if probe_inputs is None else SelfCheck(functions, probe_inputs)
    try:
        _write(functions, resources, beside)
        operations = read_operations(beside)
        check_operations(operations, compiled=compiled)
        add_files(beside)
        if check is not None:
            check.run(beside)
        beside.chmod(0o755)  # mkdtemp's 0700 would keep a server's user out
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        if check is not None:
            check.close()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ExportReport(
        path, tuple(functions), size / 1e6, check is not None, "float32", operations
    )


def _write(functions: Mapping[str, Any], resources: list[Any], directory: Path) -> None:
    """Writes the SavedModel, with everything that has state and that the signatures use."""
    module = tf.Module()
    module.resources = resources
    for name, function in functions.items():
        setattr(module, name, function)  # for Python: loaded.generate(text), with defaults
    # The functions, not traces of them: only those have the defaults of their arguments.
    tf.saved_model.save(module, str(directory), signatures=dict(functions))

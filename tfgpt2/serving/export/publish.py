"""A SavedModel on its way to a version directory: written beside it, checked, then moved there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.serving.export.allowed_ops import check_operations, read_operations
from tfgpt2.serving.export.report import ExportReport
from tfgpt2.text.records import check_numbers

_PROGRAM = Path(__file__).with_name("probe.py")
Case = tuple[str, dict[str, tf.Tensor]]  # a signature's name and its inputs
_FLOAT_TOLERANCE = 1e-3  # nats; the two processes may use different kernels


def check_absent(path: str | os.PathLike[str]) -> None:
    """Refuses a path that exists.

    Raises:
        FileExistsError: It does.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(
            explain(
                "The version directory exists, and an export never overwrites one.",
                fix=f"Export to the next version, {path.parent / '2'} for example.",
                path=str(path),
            )
        )


def publish(
    path: Path,
    functions: dict[str, Any],
    resources: list[Any],
    cases: list[Case] | None,
    *,
    compiled: bool,
    add_files: Callable[[Path], None] = lambda directory: None,
) -> ExportReport:
    """Writes functions beside their place, checks them, and moves them there.

    Args:
        path: The version directory.
        functions: Signatures by name.
        resources: Everything that has state and that the functions use.
        cases: What to ask of the live functions and of a clean process; None checks nothing.
        compiled: Whether operations of XLA are allowed.
        add_files: Writes further files into the directory.

    Returns:
        What was written, without what only a generator's export knows.

    Raises:
        RuntimeError: The check found a difference, or an operation that servers lack; nothing is
            left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that the last step is a rename; a server ignores names that are
    # no version number.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # Started first: it imports TensorFlow while the functions are traced here.
    probe = _start_probe() if cases is not None else None
    try:
        _write(functions, resources, beside)
        operations = read_operations(beside)
        check_operations(operations, compiled=compiled)
        add_files(beside)
        if probe is not None:
            _check(probe, beside, functions, cases)
        beside.chmod(0o755)  # mkdtemp's 0700 would keep a server's user out
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        if probe is not None:
            probe.kill()
            probe.communicate()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ExportReport(
        path, tuple(functions), size / 1e6, cases is not None, "float32", operations
    )


def _write(functions: dict[str, Any], resources: list[Any], directory: Path) -> None:
    """Writes the SavedModel, with everything that has state and that the signatures use."""
    module = tf.Module()
    module.resources = resources
    for name, function in functions.items():
        setattr(module, name, function)  # for Python: loaded.generate(text), with defaults
    # The functions, not traces of them: only those have the defaults of their arguments.
    tf.saved_model.save(module, str(directory), signatures=functions)


def _check(
    probe: subprocess.Popen[str],
    directory: Path,
    functions: dict[str, Any],
    cases: list[Case],
) -> None:
    """Runs the SavedModel in a clean process and compares it with the live functions."""
    requests = [
        {"signature": name, "inputs": {key: _plain(value) for key, value in inputs.items()}}
        for name, inputs in cases
    ]
    _ask(probe, directory, requests)
    # The clean process compiles at the same time as this one.
    expected = [functions[name](**inputs) for name, inputs in cases]
    for (name, _), live, answer in zip(cases, expected, _answers(probe), strict=True):
        for value in live.values():
            if value.dtype.is_floating:
                check_numbers(value.numpy())
        for key, value in live.items():
            if not _same(_plain(value), answer.get(key)):
                raise RuntimeError(
                    explain(
                        f"The exported signature {name!r} does not answer like the live model;"
                        " nothing was written.",
                        fix="Please report this with the versions of tensorflow and tfgpt2.",
                        output=key,
                        live=_plain(value),
                        exported=answer.get(key),
                    )
                )


def _start_probe() -> subprocess.Popen[str]:
    """Starts a process that knows nothing of this package and waits for requests."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []  # not even the folder of the program
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *safe, str(_PROGRAM)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def _ask(probe: subprocess.Popen[str], directory: Path, requests: list[dict[str, Any]]) -> None:
    """Hands the process its requests."""
    with contextlib.suppress(BrokenPipeError):  # it died; `_answers` says why
        probe.stdin.write(json.dumps({"directory": str(directory), "requests": requests}))
        probe.stdin.close()
    probe.stdin = None  # so that `communicate` does not use it again


def _answers(probe: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Waits for the answers."""
    output, errors = probe.communicate()
    if probe.returncode:
        raise RuntimeError(
            explain(
                "The exported SavedModel does not run in a clean process; nothing was written.",
                fix="Please report this with the versions of tensorflow and tfgpt2.",
                error=errors.strip()[-190:],  # the end is what matters
            )
        )
    return json.loads(output.splitlines()[-1])


def _plain(value: tf.Tensor) -> Any:
    """A tensor as lists for JSON; bytes become Latin-1 text."""
    array = value.numpy()
    if array.dtype == object:
        return np.vectorize(lambda raw: raw.decode("latin-1"), otypes=[object])(array).tolist()
    return array.tolist()


def _same(expected: Any, found: Any) -> bool:
    expected, found = np.array(expected), np.array(found)
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind == "f":
        return bool(np.allclose(expected, found, rtol=_FLOAT_TOLERANCE, atol=_FLOAT_TOLERANCE))
    return bool(np.all(expected == found))

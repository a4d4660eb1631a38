"""The self-check of an export: a process without this package must give the live answers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import explain
from tfgpt2.generation.results import check_finite

ProbeInputs = Mapping[str, Mapping[str, tf.Tensor]]  # inputs of each signature that is checked
_PROGRAM = Path(__file__).with_name("probe.py")
_FLOAT_TOLERANCE = 1e-3  # nats; the two processes may use different kernels


class SelfCheck:
    """A clean process that runs an export, and the comparison with the live functions.

    The process is started at once: it imports TensorFlow while the functions are traced here.

    Args:
        functions: Live signatures by name.
        inputs: Inputs by signature.
    """

    def __init__(self, functions: Mapping[str, Any], inputs: ProbeInputs) -> None:
        self._functions, self._inputs = functions, inputs
        safe = ["-P"] if sys.version_info >= (3, 11) else []  # not even the folder of the program
        self._process = subprocess.Popen(
            [sys.executable, *safe, str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def run(self, directory: Path) -> None:
        """Runs the SavedModel in the process and compares its answers.

        Args:
            directory: Where the SavedModel is.

        Raises:
            RuntimeError: The process failed, or an answer differs.
            ValueError: The live model gives values that are not numbers.
        """
        self._send(directory)
        # The process compiles at the same time as this one.
        expected = {name: self._functions[name](**inputs) for name, inputs in self._inputs.items()}
        for (name, live), answer in zip(expected.items(), self._receive(), strict=True):
            for value in live.values():
                if value.dtype.is_floating:
                    check_finite(value.numpy())
            for key, value in live.items():
                if not _equal(_to_lists(value), answer.get(key)):
                    raise RuntimeError(
                        explain(
                            f"The exported signature {name!r} does not give the outputs of the"
                            " in-memory model; nothing was written.",
                            fix="Please report this with the versions of tensorflow and tfgpt2.",
                            output=key,
                            live=_to_lists(value),
                            exported=answer.get(key),
                        )
                    )

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _send(self, directory: Path) -> None:
        requests = [
            {"signature": name, "inputs": {key: _to_lists(x) for key, x in inputs.items()}}
            for name, inputs in self._inputs.items()
        ]
        pipe = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died; `_receive` reports why
            pipe.write(json.dumps({"directory": str(directory), "requests": requests}))
            pipe.close()
        self._process.stdin = None  # so that `communicate` does not use it again

    def _receive(self) -> list[dict[str, Any]]:
        output, errors = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(
                explain(
                    "The exported SavedModel does not run in a clean process; nothing was written.",
                    fix="Please report this with the versions of tensorflow and tfgpt2.",
                    error=errors.strip()[-190:],  # the end is what matters
                )
            )
        return json.loads(output.splitlines()[-1])


def _to_lists(value: tf.Tensor) -> Any:
    """A tensor as lists for JSON; bytes become Latin-1 text."""
    array = value.numpy()
    if array.dtype == object:
        return np.vectorize(lambda raw: raw.decode("latin-1"), otypes=[object])(array).tolist()
    return array.tolist()


def _equal(expected: Any, found: Any) -> bool:
    expected, found = np.array(expected), np.array(found)
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind == "f":
        return bool(np.allclose(expected, found, rtol=_FLOAT_TOLERANCE, atol=_FLOAT_TOLERANCE))
    return bool(np.all(expected == found))

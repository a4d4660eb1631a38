"""Checkpoints for exact resumption: weights, optimizer state, averages, dropout seeds, step.

A checkpoint is a folder with two files: `state.safetensors` holds all variables, `state.json` the
step and the identity of the training run. It is written to a temporary folder, which is then
renamed, so a full disk or a killed process leaves earlier checkpoints unchanged.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from safetensors.numpy import load_file, save_file

from tfgpt2.errors import explain, value_error
from tfgpt2.files import parse_json
from tfgpt2.training.output_files import report_write_errors
from tfgpt2.training.recipes import value_of
from tfgpt2.validation import check_count
from tfgpt2.version import __version__

_NAME = re.compile(r"step-(\d{8,})")
_ARRAYS, _STATE = "state.safetensors", "state.json"


class RestoredCheckpoint(NamedTuple):
    """A checkpoint that was restored.

    Attributes:
        step: Steps that were trained.
        extra: The JSON values that `save` stored with it.
        path: Its folder.
    """

    step: int
    extra: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one training run, in one folder.

    Args:
        directory: The folder; created by the first `save`.
        identity: Configuration, recipe and data of the run: JSON values, in groups by name. A
            checkpoint can be restored only if they are equal.
        keep: How many of the newest checkpoints to keep.

    Raises:
        ValueError: `keep` is less than 1.

    Example:
        >>> import tempfile
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> from tfgpt2.training.recipes import adamw
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> model.compile(adamw(model))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints = Checkpoints(folder, {"recipe": {"seed": 1}})
        ...     path = checkpoints.save(model, step=5)
        ...     path.name, checkpoints.restore(model).step
        ('step-00000005', 5)
    """

    def __init__(
        self, directory: str | os.PathLike[str], identity: Mapping[str, Any], keep: int = 3
    ) -> None:
        check_count("keep", keep, least=1)
        self.directory, self.keep = Path(directory), keep
        self.identity = json.loads(json.dumps(identity))  # as it is read from the file

    def paths(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = [p for p in self.directory.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))

    def save(self, model: keras.Model, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint, and deletes the oldest ones beyond `keep`.

        Args:
            model: A compiled model.
            step: Steps that were trained.
            extra: JSON values to store with it.

        Returns:
            The checkpoint's folder.

        Raises:
            FloatingPointError: A variable is NaN or infinite; nothing is written.
            OSError: The disk is full or not writable; earlier checkpoints are unchanged.
        """
        arrays = {key: value_of(v) for key, v in _variables(model).items()}
        _check_finite(arrays, _variables(model))
        state = {"step": step, "about": self.identity, "extra": dict(extra or {})}
        state |= {"tfgpt2": __version__, "keras": keras.__version__}
        path = self.directory / f"step-{step:08d}"
        last = str(self.paths()[-1]) if self.paths() else None
        temporary = None
        try:
            with report_write_errors("A checkpoint", path, last=last):
                self.directory.mkdir(parents=True, exist_ok=True)
                for leftover in self.directory.glob(".fresh-*"):  # of a process that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                temporary = Path(tempfile.mkdtemp(dir=self.directory, prefix=".fresh-"))
                _write(temporary, arrays, state)
                if path.exists():  # the same step, trained again after it could not be read
                    shutil.rmtree(path)
                os.replace(temporary, path)
                _sync(self.directory)
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def restore(
        self, model: keras.Model, path: str | os.PathLike[str] | None = None
    ) -> RestoredCheckpoint:
        """Restores the variables of a model and its optimizer.

        Args:
            model: A model compiled like the one that was saved.
            path: A checkpoint; None is the newest.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: It is of another configuration, recipe or data, or damaged.
        """
        path = self._newest() if path is None else Path(path)
        state = _read_state(path)
        _check_same(path, state["about"], self.identity)
        try:
            arrays = load_file(path / _ARRAYS)
        except Exception as error:
            raise _broken(path, error) from error
        variables = _variables(model)
        wrong = {
            key: [list(getattr(a.get(key), "shape", ())) for a in (arrays, variables)]
            for key in arrays.keys() | variables.keys()
            if key not in arrays
            or key not in variables
            or tuple(arrays[key].shape) != tuple(variables[key].shape)
        }
        if wrong:
            raise value_error(
                "The checkpoint's variables are not those of the model and its optimizer.",
                fix="Use the same model and optimizer as before.",
                path=str(path),
                different=wrong,
            )
        for key, variable in variables.items():
            variable.assign(arrays[key])
        return RestoredCheckpoint(state["step"], state["extra"], path)

    def _newest(self) -> Path:
        paths = self.paths()
        if not paths:
            raise FileNotFoundError(
                explain(
                    "There is no checkpoint to resume from.",
                    fix="Start without --resume, or pass the folder of an earlier training run.",
                    directory=str(self.directory),
                )
            )
        return paths[-1]


def _variables(model: keras.Model) -> dict[str, Any]:
    """All variables that training changes: weights, dropout seeds and optimizer state."""
    # By number and not by path: Keras numbers the models and seeds of a process in their names.
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    parts = {"model": own, "optimizer": model.optimizer.variables}
    return {
        f"{part}.{number:05d}": variable
        for part, variables in parts.items()
        for number, variable in enumerate(variables)
    }


def _check_finite(arrays: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> None:
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(
                explain(
                    "A variable is NaN or infinite, so no checkpoint is written.",
                    fix="Resume from the last one with a smaller learning rate.",
                    variable=variables[key].path,
                )
            )


def _write(folder: Path, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
    # Copies in C order: the writer ignores strides.
    save_file({key: array.copy(order="C") for key, array in arrays.items()}, folder / _ARRAYS)
    (folder / _STATE).write_text(json.dumps(state, indent=1) + "\n")
    for name in (_ARRAYS, _STATE):
        _sync(folder / name)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flushes a file or folder to the disk, so that a rename cannot precede its contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_state(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise FileNotFoundError(
            explain("There is no such checkpoint.", fix="Pass its folder.", path=str(path))
        )
    try:
        state = parse_json((path / _STATE).read_text())
        if not {"step", "about", "extra"} <= state.keys():
            raise ValueError("state.json lacks a part")
    except (OSError, ValueError, AttributeError) as error:
        raise _broken(path, error) from error
    return state


def _broken(path: Path, error: Exception) -> ValueError:
    return value_error(
        f"The checkpoint cannot be read: {error}.",
        fix="Delete its folder; the previous one is then the newest.",
        path=str(path),
    )


def _check_same(path: Path, saved: Any, wanted: Any) -> None:
    different = differences(saved, wanted)
    if different:
        raise value_error(
            "The checkpoint belongs to another training run: " + "; ".join(different) + ".",
            fix="Start again in another folder, or pass the values of that run.",
            path=str(path),
        )


def differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """Lists the differences of two trees of JSON values.

    Example:
        >>> differences({"recipe": {"seed": 1}}, {"recipe": {"seed": 2}})
        ['recipe.seed was 1 and is 2']
    """
    if isinstance(saved, dict) and isinstance(wanted, dict):
        keys = sorted(saved.keys() | wanted.keys())
        parts = [
            differences(saved.get(key), wanted.get(key), f"{name}.{key}" if name else key)
            for key in keys
        ]
        return [line for part in parts for line in part]
    return [] if saved == wanted else [f"{name} was {saved!r} and is {wanted!r}"]

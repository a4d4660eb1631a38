"""Checkpoints from which a training goes on exactly: weights, optimizer, averages, noise, place.

A checkpoint is a folder with two files: `state.safetensors` holds all variables, `state.json` the
step and what the training was made of. It is written beside its place and then renamed, so a disk
that is full, or a process that is killed, leaves the one before as it was.
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

from tfgpt2.errors import explain
from tfgpt2.tokenizers.text_inputs import check_count
from tfgpt2.training.recipes import value_of
from tfgpt2.version import __version__

_NAME = re.compile(r"step-(\d{8,})")
_ARRAYS, _ABOUT = "state.safetensors", "state.json"


class Found(NamedTuple):
    """A checkpoint that was restored.

    Attributes:
        step: Steps that were trained.
        extra: What `save` was given beside.
        path: Its folder.
    """

    step: int
    extra: dict[str, Any]
    path: Path


class Checkpoints:
    """The checkpoints of one training, in one folder.

    Args:
        directory: The folder; made when it is first written to.
        about: What the training is made of: configuration, recipe, data. Plain JSON values, in
            groups by name. A checkpoint restores only where they are the same.
        keep: How many of the last ones stay.

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
        self, directory: str | os.PathLike[str], about: Mapping[str, Any], keep: int = 3
    ) -> None:
        check_count("keep", keep, least=1)
        self.directory, self.keep = Path(directory), keep
        self.about = json.loads(json.dumps(about))  # as it comes back from the file

    def paths(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = [p for p in self.directory.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
        return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))

    def save(self, model: keras.Model, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint, and drops the oldest ones beyond `keep`.

        Args:
            model: A compiled model.
            step: Steps that were trained.
            extra: Plain JSON values to give back.

        Returns:
            The checkpoint's folder.

        Raises:
            FloatingPointError: A variable is NaN or infinite; nothing is written.
            OSError: The disk is full, or not writable; the checkpoints before are as they were.
        """
        arrays = {key: value_of(v) for key, v in _variables(model).items()}
        _check_finite(arrays, _variables(model))
        about = {"step": step, "about": self.about, "extra": dict(extra or {})}
        about |= {"tfgpt2": __version__, "keras": keras.__version__}
        path = self.directory / f"step-{step:08d}"
        fresh = None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for rest in self.directory.glob(".fresh-*"):  # of a process that was killed
                shutil.rmtree(rest, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(dir=self.directory, prefix=".fresh-"))
            _write(fresh, arrays, about)
            if path.exists():  # the same step, trained again after a checkpoint was not usable
                shutil.rmtree(path)
            os.replace(fresh, path)
            _sync(self.directory)
        except OSError as error:
            raise OSError(
                error.errno,
                explain(
                    f"A checkpoint could not be written: {error.strerror or error}.",
                    fix="Make room; the training goes on from the last whole one with --resume.",
                    path=str(path),
                    last=str(self.paths()[-1]) if self.paths() else None,
                ),
            ) from error
        finally:
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def restore(self, model: keras.Model, path: str | os.PathLike[str] | None = None) -> Found:
        """Puts a checkpoint's values into a model and its optimizer.

        Args:
            model: A model compiled as the one that was saved.
            path: A checkpoint; None is the newest.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: It is of another configuration, recipe or data, or it is broken.
        """
        path = self._chosen() if path is None else Path(path)
        about = _read_about(path)
        _check_same(path, about["about"], self.about)
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
            raise ValueError(
                explain(
                    "A checkpoint's variables are not those of the model and its optimizer.",
                    fix="Make the model and the optimizer as they were made before.",
                    path=str(path),
                    different=wrong,
                )
            )
        for key, variable in variables.items():
            variable.assign(arrays[key])
        return Found(about["step"], about["extra"], path)

    def _chosen(self) -> Path:
        paths = self.paths()
        if not paths:
            raise FileNotFoundError(
                explain(
                    "There is no checkpoint to go on from.",
                    fix="Start without --resume, or name the folder of an earlier training.",
                    directory=str(self.directory),
                )
            )
        return paths[-1]


def _variables(model: keras.Model) -> dict[str, Any]:
    """All that a training changes: weights, seeds of dropout, what the optimizer keeps."""
    # By number and not by path: Keras counts models and seeds of a process up in their names.
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
                    fix="Go on from the last one with a smaller learning rate.",
                    variable=variables[key].path,
                )
            )


def _write(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    # Copies row by row: the writer takes an array's memory as it lies.
    save_file({key: array.copy(order="C") for key, array in arrays.items()}, folder / _ARRAYS)
    (folder / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    for name in (_ARRAYS, _ABOUT):
        _sync(folder / name)
    _sync(folder)


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk: a rename must not come before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_about(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise FileNotFoundError(
            explain("There is no such checkpoint.", fix="Name its folder.", path=str(path))
        )
    try:
        about = json.loads((path / _ABOUT).read_text())
        if not {"step", "about", "extra"} <= about.keys():
            raise ValueError("state.json lacks a part")
    except (OSError, ValueError, AttributeError) as error:
        raise _broken(path, error) from error
    return about


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        explain(
            f"A checkpoint cannot be read: {error}.",
            fix="Delete its folder; the one before is then the newest.",
            path=str(path),
        )
    )


def _check_same(path: Path, saved: Any, wanted: Any) -> None:
    different = differences(saved, wanted)
    if different:
        raise ValueError(
            explain(
                "A checkpoint belongs to another training: " + "; ".join(different) + ".",
                fix="Start anew in another folder, or give the values that it was made with.",
                path=str(path),
            )
        )


def differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """Names what is not the same in two trees of JSON values.

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

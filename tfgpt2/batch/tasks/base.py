"""`Task`: what a job does with a row, from its columns to its result columns."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tfgpt2.batch.models import Arrays, BatchModel, find_export, from_export
from tfgpt2.errors import type_error, value_error

ERROR = "error"  # the result column that every task has


class Request(NamedTuple):
    """A row as the model needs it.

    Attributes:
        number: The row's number in the whole job, from 0.
        text: The text.
        settings: Settings that the row has columns for.
    """

    number: int
    text: bytes
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """What a job does with each row.

    To add one, subclass this in a file of its own and list the class in
    `tfgpt2.batch.tasks.registry.TASKS`. Its fields must be JSON: they identify the job.

    Attributes:
        name: Name of the task, and of the command.
        signature: The signature that it runs.
    """

    name: ClassVar[str]
    signature: ClassVar[str]

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the rows' own settings: setting -> column."""
        return {}

    @property
    @abc.abstractmethod
    def result_types(self) -> dict[str, str]:
        """Result columns without `error`, and their types, such as `"list<float32>"`."""

    @abc.abstractmethod
    def load_checkpoint(self, name: str, *, jit_compile: bool) -> BatchModel:
        """Loads the signature from a checkpoint."""

    @abc.abstractmethod
    def result(self, outputs: Arrays, row: int) -> dict[str, Any]:
        """The result columns of a row of a batch.

        Raises:
            ValueError: The row failed.
        """

    def load(self, name: str, *, jit_compile: bool = True) -> BatchModel:
        """Loads the signature.

        Args:
            name: A bundled name, a directory of a checkpoint or of an export, or a hub name.
            jit_compile: Whether XLA compiles it, if it is not an export.
        """
        directory = find_export(name)
        if directory is None:
            return self.load_checkpoint(name, jit_compile=jit_compile)
        return from_export(directory, self.signature)

    def request(self, number: int, columns: Mapping[str, Any], text_column: str) -> Request:
        """Checks a row.

        Raises:
            ValueError: A value is missing or out of range.
            TypeError: A value has a wrong type.
        """
        text = columns.get(text_column)
        if not isinstance(text, str):
            raise type_error(
                f"Column {text_column!r} must hold a text.",
                fix="Correct the row.",
                **{"value": text} if text_column in columns else {"columns": list(columns)},
            )
        return Request(number, text.encode("utf-8", "replace"), {})

    def sort_key(self, request: Request, model: BatchModel, tokens: int) -> tuple[int, ...]:
        """What rows of a batch should have in common."""
        return (tokens,)

    def inputs(self, requests: Sequence[Request], size: int, model: BatchModel) -> Arrays:
        """The inputs of a batch, filled up to a size with rows that cost little."""
        texts = [request.text for request in requests] + [b""] * (size - len(requests))
        return {"text": np.array(texts, object)}


def number(value: Any) -> float:
    """A float32 as the shortest number that rounds to it.

    Raises:
        ValueError: It is not finite.

    Example:
        >>> number(np.float32(0.1))
        0.1
    """
    if not np.isfinite(value):
        raise value_error(
            "The model's scores are not numbers.", fix="Check its weights.", score=float(value)
        )
    return float(str(value))


def numbers(values: np.ndarray) -> list[float]:
    """Likewise for an array `[N]`."""
    if not np.isfinite(values).all():
        number(values[~np.isfinite(values)][0])
    return [float(text) for text in values.astype(str)]

"""Signatures of a servable: tensors and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfgpt2.serving.server.serving_error import cut, invalid

Arrays = dict[str, np.ndarray]  # strings are object arrays of bytes

DEFAULT_SIGNATURE = "serving_default"


class TensorInfo(NamedTuple):
    """Type and shape of an input or output.

    Attributes:
        dtype: NumPy's type; strings are objects.
        shape: Length of each axis, -1 where any is allowed; None if the rank is unknown.
    """

    dtype: np.dtype
    shape: tuple[int, ...] | None

    @property
    def is_string(self) -> bool:
        """Whether it holds bytes."""
        return self.dtype == object

    @property
    def type_name(self) -> str:
        """The type's name in TensorFlow."""
        return "string" if self.is_string else self.dtype.name

    def check(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Checks the type and the shape of a tensor.

        Args:
            name: The input's name, for the message.
            dtype: NumPy's type; strings are objects.
            shape: Length of each axis.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        if dtype != self.dtype:
            received = "string" if dtype.kind == "O" else dtype.name
            raise invalid(
                f"Input {name!r} must be {self.type_name}."
                f" Received: {received}. Send it as {self.type_name}.",
                param=name,
            )
        if not self.accepts_shape(shape):
            sizes = ", ".join("any" if size < 0 else str(size) for size in self.shape)
            raise invalid(
                f"Input {name!r} must have the shape [{sizes}]. Received: {list(shape)}.",
                param=name,
            )

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have a shape."""
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(size in (-1, given) for size, given in zip(self.shape, shape, strict=True))
        )


class Signature(NamedTuple):
    """Inputs and outputs of a signature.

    Attributes:
        name: Its key.
        inputs: By name.
        outputs: By name.
        defaults: Values of inputs that a client may leave out (over gRPC).
    """

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    defaults: Arrays

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Checks types and shapes.

        Args:
            inputs: All inputs, by name.

        Raises:
            ServingError: INVALID_ARGUMENT, naming the input.
        """
        for name, info in self.inputs.items():
            info.check(name, inputs[name].dtype, inputs[name].shape)

    def empty_outputs(self) -> Arrays:
        """Makes the outputs of a request without rows, for which no model runs.

        Returns:
            All outputs with 0 rows; other axes that may have any length have length 0.

        Raises:
            ServingError: INVALID_ARGUMENT: the outputs of this model are not rows.
        """
        arrays = {}
        for name, info in self.outputs.items():
            rows, *others = (-1,) if info.shape is None else info.shape or (1,)
            if rows > 0:
                raise invalid("The request has no rows. Send at least one.")
            shape = (0, *(max(size, 0) for size in others))
            arrays[name] = np.empty(shape, info.dtype)
        return arrays


def find_signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    """Returns the signature of a name; an empty name is `serving_default`.

    Raises:
        ServingError: INVALID_ARGUMENT: there is none.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise invalid(
            f'Serving signature name: "{cut(name)}" not found in signature def.'
            f" The model has: {', '.join(sorted(signatures))}."
        )
    return signatures[name]

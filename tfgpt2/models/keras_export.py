"""A model's forward pass as Keras' export takes it: fixed inputs, and tensors as outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import type_error, value_error
from tfgpt2.models.call_arguments import LIST_ORDER

_OFF = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


class ForwardPass(keras.Model):
    """The call of a model without the outputs that are not tensors, such as the cache.

    Keras itself infers the inputs of an export from the arguments of `build`, of which a model
    with ready-made weights has none; and a SavedModel's signature takes no nested outputs.

    Args:
        model: A model of this package.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(name=model.name)
        self.model = model
        self.built = True

    def call(self, inputs: Any, second: Any = None, third: Any = None) -> dict[str, tf.Tensor]:
        """Runs the model on ids, a dict, a list, or inputs in documented order."""
        if second is not None:
            inputs = [inputs, second] if third is None else [inputs, second, third]
        options = _OFF | ({"use_cache": False} if self.model.returns_cache else {})
        outputs = self.model(inputs, **options)
        return {name: value for name, value in outputs.items() if not isinstance(value, tuple)}


def export_signature(default: Mapping[str, int], signature: Any) -> list[Any]:
    """Checks the signature of an export and completes its specs.

    Args:
        default: Inputs and their numbers of axes, for a signature that is None.
        signature: See `TFGPT2PreTrainedModel.export`.

    Returns:
        The positional arguments, in the structure of the signature, with `tf.TensorSpec`s.

    Raises:
        TypeError: There are too many inputs.
        ValueError: An input has no shape.
    """
    if signature is None:
        signature = {name: tf.TensorSpec([None] * axes, tf.int32) for name, axes in default.items()}
    if not isinstance(signature, (list, tuple)):
        signature = [signature]
    if len(signature) == 1 and isinstance(signature[0], Mapping):
        return [{name: _spec(name, spec) for name, spec in signature[0].items()}]
    if len(signature) == 1 and isinstance(signature[0], (list, tuple)):
        return [_ordered(signature[0])]
    return _ordered(signature)


def _ordered(specs: Any) -> list[tf.TensorSpec]:
    """Completes specs in documented order."""
    if len(specs) > len(LIST_ORDER):
        raise type_error(
            f"Inputs in order are {', '.join(LIST_ORDER)}.",
            fix="Pass a dict of specs by name, as the only element of the list.",
            length=len(specs),
        )
    return [_spec(name, spec) for name, spec in zip(LIST_ORDER, specs, strict=False)]


def _spec(name: str, spec: Any) -> tf.TensorSpec:
    try:
        shape = tuple(spec.shape)
    except (AttributeError, TypeError, ValueError):  # of a value that is no spec, or has no rank
        shape = ()
    if not shape:
        raise value_error(
            "Each input of an export needs a spec with a shape, whose sizes may be None.",
            fix="Pass input_signature=[keras.InputSpec(shape=(None, None), dtype='int32')].",
            **{name: spec},
        )
    return tf.TensorSpec((None, *shape[1:]), tf.as_dtype(spec.dtype or tf.int32), name=name)

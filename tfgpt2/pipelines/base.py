"""Base class of the pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfgpt2.errors import nearest, type_error
from tfgpt2.models.base import TFGPT2PreTrainedModel


class Pipeline:
    """A model and its tokenizer, called on texts.

    A subclass names its task and its model's class, and computes the result of one input in `run`,
    whose keywords are the options of a call.

    Args:
        model: The model.
        tokenizer: Its tokenizer on the host.
        **options: Defaults for the options of calls.

    Raises:
        TypeError: There is no such option.

    Attributes:
        task: transformers' name of the task.
        model_class: The class that loads a model by name.
    """

    task: ClassVar[str]
    model_class: ClassVar[type[TFGPT2PreTrainedModel]]
    framework = "tf"

    def __init__(self, model: TFGPT2PreTrainedModel, tokenizer: Any, **options: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.check_options(options)
        self.options = options

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Runs the task.

        Args:
            inputs: An input, a list of them, or an iterator, whose results are an iterator.
            **options: Options of the task, which win over those that the pipeline was made with.

        Returns:
            The result of one input, or a list with one for each.

        Raises:
            TypeError: There is no such option, or an input is of another kind.
        """
        self.check_options(options)
        options = self.options | options
        if isinstance(inputs, Iterator):
            return (self.run(one, **options) for one in inputs)
        if self.is_batch(inputs):
            return [self.run(one, **options) for one in inputs]
        return self.run(inputs, **options)

    def is_batch(self, inputs: Any) -> bool:
        """Whether these are several inputs."""
        return isinstance(inputs, (list, tuple))

    def run(self, one: Any, **options: Any) -> Any:
        """Returns the result of one input."""
        raise NotImplementedError

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises TypeError for options that `run` does not have."""
        parameters = inspect.signature(self.run).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for name, value in options.items():
            if name not in parameters:
                raise type_error(
                    f"The pipeline {self.task!r} has no option {name!r}.",
                    fix=nearest(name, list(parameters)[1:]),
                    **{name: value},
                )

    def forward(self, row: Mapping[str, Any], **options: Any) -> Any:
        """Calls the model on one row of ids, without the cache."""
        inputs = {name: tf.constant([row[name]], tf.int32) for name in ("input_ids",
                  "attention_mask")}  # fmt: skip
        known = inspect.signature(self.model.call).parameters
        cache = {"use_cache": False} if "use_cache" in known else {}
        return self.model(inputs, **cache, **options)


def check_text(value: Any, task: str) -> str:
    """Checks that an input is a text."""
    if not isinstance(value, str):
        raise type_error(
            f"The pipeline {task!r} takes a text, or a list of texts.",
            fix="Decode bytes first, and pass the text of a record.",
            inputs=value,
        )
    return value


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)

"""Checks of the ids and labels of training data, where they are still data of the host.

A step that XLA compiled cannot raise, and XLA reads an id that is out of range as the nearest one.
So the batches are checked before: arrays at once, a `tf.data.Dataset` batch by batch, on the CPU.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.nn.losses import IGNORED_LABEL

_FAILED = re.compile(r"(\w+) is out of range\] \[(-?\d+)\]")


def limits(model: Any) -> dict[str, int]:
    """The exclusive upper limits of a model's integer inputs, by name."""
    config = model.config
    found = {"input_ids": config.vocab_size, "token_type_ids": config.vocab_size}
    found["position_ids"] = config.n_positions
    if model.has_lm_loss:
        found["labels"] = config.vocab_size
    elif not model.float_labels:
        found["labels"] = config.num_labels
    elif config.num_labels > 1 and config.problem_type in (None, "single_label_classification"):
        found["labels"] = config.num_labels  # where they are integers
    return found


def check_batches(data: Any, model: Any) -> Any:
    """Checks the ids and labels of training data against a model.

    `fit` and `evaluate` of the models do so by themselves; this is for your own training loop.

    Args:
        data: A `tf.data.Dataset` whose batches are inputs, or tuples that begin with them; or a
            batch: ids, or a dict of arrays. Anything else is not checked.
        model: The model it is for.

    Returns:
        The data; a dataset whose iterator raises `tf.errors.InvalidArgumentError` at a batch with
        an id, a position or a label that the model does not have. `explain_failure` makes it the
        error below.

    Raises:
        ValueError: A batch in memory has such a value.

    Example:
        >>> from tfgpt2 import GPT2Config, TFGPT2LMHeadModel
        >>> model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
        >>> check_batches([[3, 10]], model)
        Traceback (most recent call last):
        ValueError: `input_ids` must be in [0, 10). Received: input_ids=10. Use the tokenizer and \
the labels that belong to the model.
    """
    known = limits(model)
    if isinstance(data, tf.data.Dataset):
        return data.map(lambda *batch: _checked(batch, known))
    if isinstance(data, (np.ndarray, tf.Tensor, Mapping, list)):
        for name, ids, limit in _integers(data, known, np.asarray):
            wrong = ids[_outside(name, ids, limit)]
            if wrong.size:
                raise _error(name, int(wrong[0]), limit)
    return data


def explain_failure(error: tf.errors.InvalidArgumentError, model: Any) -> Exception:
    """The error of `check_batches` for one of its datasets'; another error is returned as it is."""
    found = _FAILED.search(str(error))
    return _error(found[1], int(found[2]), limits(model)[found[1]]) if found else error


def _integers(x: Any, known: Mapping[str, int], convert: Any) -> list[tuple[str, Any, int]]:
    """Name, values and limit of the integer inputs of a batch.

    Inputs that are not dense are left out: the call of the model says so.
    """
    if isinstance(x, (list, tuple)) and x and hasattr(x[0], "shape"):
        x = x[0]  # ids are the first of a list of inputs
    inputs = x if isinstance(x, Mapping) else {"input_ids": x}
    found = []
    for name, limit in known.items():
        value = inputs.get(name)
        if value is None or isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
            continue
        with contextlib.suppress(TypeError, ValueError):
            value = convert(value)
            if tf.as_dtype(value.dtype).is_integer:
                found.append((name, value, limit))
    return found


def _outside(name: str, ids: Any, limit: int) -> Any:
    """Where an array or tensor is out of range."""
    outside = (ids < 0) | (ids >= limit)
    return outside & (ids != IGNORED_LABEL) if name == "labels" else outside


def _checked(batch: tuple[Any, ...], known: Mapping[str, int]) -> Any:
    """A batch of a dataset that depends on the assertions about it."""
    checks = []
    for name, ids, limit in _integers(batch[0], known, tf.convert_to_tensor):
        ids = tf.cast(ids, tf.int64)  # -100 and the limit may be beyond a narrow type
        outside = _outside(name, ids, limit)
        example = tf.reduce_max(tf.where(outside, ids, tf.int64.min))  # the message shows it
        checks.append(
            tf.debugging.Assert(
                tf.logical_not(tf.reduce_any(outside)), [f"{name} is out of range", example]
            )
        )
    with tf.control_dependencies(checks):
        batch = tf.nest.map_structure(lambda v: v if v is None else tf.identity(v), batch)
    return batch if len(batch) > 1 else batch[0]


def _error(name: str, value: int, limit: int) -> ValueError:
    also = f", or {IGNORED_LABEL} for 'not scored'" if name == "labels" else ""
    return value_error(
        f"`{name}` must be in [0, {limit}){also}.",
        fix="Use the tokenizer and the labels that belong to the model.",
        **{name: value},
    )

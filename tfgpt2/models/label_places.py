"""Where the labels of a training batch are: among the inputs, or beside them as targets.

A model's own loss is computed from labels among its inputs, a Keras loss from targets. Batches may
hold them in either place, as in transformers' TensorFlow classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.models.call_arguments import LABELS, LIST_ORDER
from tfgpt2.nn.losses import IGNORED_LABEL

# The output that each label is compared with.
_OUTPUTS = {"labels": "logits", "mc_labels": "mc_logits", "start_positions": "start_logits",
            "end_positions": "end_logits"}  # fmt: skip


def label_names(model: keras.Model) -> list[str]:
    """Returns the inputs of a model that are labels."""
    return [name for name in inspect.signature(model.call).parameters if name in LABELS]


def place_labels(model: keras.Model, data: Any, *, own_loss: bool) -> tuple[Any, Any, Any]:
    """Returns inputs, targets and weights of a batch, with the labels where the loss needs them.

    Args:
        model: The model.
        data: Inputs, `(inputs, targets)` or `(inputs, targets, weights)`.
        own_loss: Whether the model computes its own loss. Targets then stay beside the inputs for
            metrics, too. Else labels move from the inputs to the targets, except for a language
            model, whose targets a pipeline has to shift.

    Raises:
        ValueError: Labels are in both places, or targets belong to no input.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    names = label_names(model)
    if own_loss and y is not None:
        x = _as_dict(x)
        labels = dict(y) if isinstance(y, Mapping) else {names[0]: y} if names else {}
        twice, unknown = sorted(labels.keys() & x.keys()), sorted(labels.keys() - set(names))
        if twice or unknown or not names or isinstance(y, (list, tuple)):
            raise value_error(
                "Training takes either 'labels' among the inputs, or targets; not both, not"
                " neither, and targets of several heads by the names of the labels.",
                fix="Use compile(optimizer) with {'input_ids': ids, 'labels': ids} or with"
                f" (inputs, labels); the labels of this model are {names}.",
                inputs=sorted(x),
                targets=sorted(labels),
            )
        x = x | labels
    elif not own_loss and y is None and isinstance(x, Mapping) and not model.has_lm_loss:
        held = {name: x[name] for name in names if name in x}
        if len(held) == 1:
            x = {name: value for name, value in x.items() if name not in held}
            (y,) = held.values()
    return x, y, weights


def _as_dict(x: Any) -> dict[str, Any]:
    if isinstance(x, Mapping):
        return dict(x)
    inputs = x if isinstance(x, (list, tuple)) else (x,)
    return dict(zip(LIST_ORDER, inputs, strict=False))


def metric_pairs(model: keras.Model, x: Any, y: Any, y_pred: Any) -> tuple[Any, Any, Any]:
    """Returns what metrics compare: labels, scores and weights, where the model's own loss is used.

    For a language model, each label is compared with the scores of the token before it, and -100
    has the weight 0.

    Args:
        model: The model.
        x: Inputs, labels included.
        y: Targets, or None.
        y_pred: The model's results.
    """
    names = label_names(model)
    held = {name: x[name] for name in names if name in x} if isinstance(x, Mapping) else {}
    if not held and y is not None:  # where Keras builds the metrics, before labels are placed
        held = dict(y) if isinstance(y, Mapping) else {names[0]: y}
    pairs = {n: (v, y_pred[_OUTPUTS[n]]) for n, v in held.items() if _OUTPUTS[n] in y_pred}
    if not pairs:
        return y, y_pred, None
    if len(pairs) > 1:
        labels = {_OUTPUTS[name]: label for name, (label, _) in pairs.items()}
        return labels, {_OUTPUTS[name]: scores for name, (_, scores) in pairs.items()}, None
    ((labels, scores),) = pairs.values()
    if not model.has_lm_loss:
        return labels, scores, None
    labels, scores = tf.convert_to_tensor(labels)[..., 1:], scores[..., :-1, :]
    scored = labels != IGNORED_LABEL
    return tf.where(scored, labels, 0), scores, tf.cast(scored, tf.float32)

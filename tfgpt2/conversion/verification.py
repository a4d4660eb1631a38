"""Verification of a conversion: the weights read back, and the model's outputs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfgpt2.checkpoints.names import key_from_path, with_prefix
from tfgpt2.checkpoints.readers.base import CheckpointReader
from tfgpt2.conversion.progress import Step
from tfgpt2.errors import explain
from tfgpt2.models.base import TFGPT2PreTrainedModel
from tfgpt2.models.double_heads import TFGPT2DoubleHeadsModel

# Largest accepted difference of logits, relative to the largest logit, by type of the weights.
_TOLERANCES = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}
_PROBE_SHAPE = (2, 16)  # rows and columns of the token ids


def probe_outputs(model: TFGPT2PreTrainedModel) -> np.ndarray:
    """Returns a model's first two outputs for fixed token ids, flattened."""
    config = model.config
    rows, columns = _PROBE_SHAPE[0], min(_PROBE_SHAPE[1], config.n_positions)
    ids = np.random.RandomState(0).randint(0, config.vocab_size, (rows, columns))
    mask = np.ones_like(ids)
    if isinstance(model, TFGPT2DoubleHeadsModel):
        ids, mask = ids[:, None], mask[:, None]
    output = model(input_ids=tf.constant(ids), attention_mask=tf.constant(mask), return_dict=False)
    return np.concatenate([np.ravel(value) for value in output[:2] if tf.is_tensor(value)])


def check_weights(
    model: TFGPT2PreTrainedModel, written: CheckpointReader, dtype: str, step: Step
) -> int:
    """Checks that every weight was written exactly, apart from rounding to the stored type.

    Args:
        model: The model that was written.
        written: Reader of the new checkpoint.
        dtype: The stored type.
        step: Called for each weight.

    Returns:
        The number of weights.

    Raises:
        RuntimeError: A weight differs.
    """
    stored = {with_prefix(key): key for key in written.keys()}
    numpy_type = tf.as_dtype(dtype).as_numpy_dtype
    for weight in model.weights:
        key = key_from_path(weight.path)
        step(len(model.weights))
        wanted = np.asarray(weight.value).astype(numpy_type)
        found = written.read(stored[key]) if key in stored else None
        if found is None or not _identical(wanted, found):
            raise RuntimeError(
                explain(
                    "A weight that was written is not the one that was read.",
                    fix="Check the disk; if it has no errors, report this as a bug.",
                    key=key,
                )
            )
    return len(model.weights)


def _identical(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same shape, type and bytes."""
    return (one.shape, one.dtype) == (other.shape, other.dtype) and bool(
        np.array_equal(one.view(np.uint8), other.view(np.uint8))
    )


def check_outputs(before: np.ndarray, after: np.ndarray, dtype: str) -> float:
    """Checks that outputs differ by no more than rounding of the weights.

    Args:
        before: `probe_outputs` of the source.
        after: `probe_outputs` of the converted model.
        dtype: The stored type.

    Returns:
        The largest difference.

    Raises:
        RuntimeError: The difference is larger than the tolerance of the type.
    """
    difference = float(np.max(np.abs(before - after)))
    limit = _TOLERANCES[dtype] * max(1.0, float(np.max(np.abs(before))))
    if not difference <= limit:
        raise RuntimeError(
            explain(
                "The converted model gives other logits than the source.",
                fix="Choose a wider `dtype`; with float32, report this as a bug.",
                difference=difference,
                limit=limit,
            )
        )
    return difference

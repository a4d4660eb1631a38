"""Learning-rate schedules: a linear warm-up, followed by one of Keras' schedules.

A schedule counts steps, updates of the weights: `recipes.AdamW` passes their number, also where
gradients are accumulated.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfgpt2.errors import value_error
from tfgpt2.training.settings import SCHEDULES
from tfgpt2.validation import check_choice, check_count


@keras.saving.register_keras_serializable("tfgpt2")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, followed by a constant rate or another schedule.

    Args:
        after: The rate after the warm-up: a number, or a Keras schedule, whose step 0 is the end
            of the warm-up.
        steps: Steps of the warm-up; 0 leaves it out.

    Source: transformers 4.57, `optimization.py::get_linear_schedule_with_warmup`: step 0 has the
        rate 0.

    Example:
        >>> rate = WarmUp(0.1, steps=10)
        >>> [round(float(rate(step)), 2) for step in (0, 5, 10, 99)]
        [0.0, 0.05, 0.1, 0.1]
    """

    def __init__(self, after: Any, steps: int) -> None:
        super().__init__()
        check_count("steps", steps, least=0)
        self.after, self.steps = after, steps

    def __call__(self, step: Any) -> tf.Tensor:
        """The rate at a step: int `[]` -> float32 `[]`."""
        step = tf.cast(step, tf.float32)
        later = tf.maximum(step - self.steps, 0.0)
        rate = self.after(later) if callable(self.after) else self.after
        share = tf.minimum(step / max(self.steps, 1), 1.0) if self.steps else 1.0
        # During the warm-up, `rate` is the first value of `after`.
        return tf.cast(rate, tf.float32) * share

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        after = self.after
        if callable(after):
            after = keras.saving.serialize_keras_object(after)
        return {"after": after, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        """Recreates the schedule."""
        config = dict(config)
        if isinstance(config["after"], dict):
            config["after"] = keras.saving.deserialize_keras_object(config["after"])
        return cls(**config)


def schedule(kind: str, peak: float, steps: int, *, warmup: int = 0, floor: float = 0.0) -> WarmUp:
    """The usual learning-rate schedules of GPT-2.

    Args:
        kind: `"constant"`, `"linear"` or `"cosine"`: the decay after the warm-up.
        peak: The highest rate, above 0.
        steps: Steps of the whole training, the warm-up included.
        warmup: Steps in which the rate rises from 0.
        floor: The final rate, in `[0, peak]`; unused with `"constant"`.

    Raises:
        ValueError: There is no such kind, a number is out of range, or the warm-up is not shorter
            than the training.

    Source: transformers 4.57, `optimization.py::get_cosine_schedule_with_warmup` (half a cosine).

    Example:
        >>> rate = schedule("cosine", 1e-3, 100, warmup=10)
        >>> [f"{float(rate(step)):.1e}" for step in (5, 10, 55, 100)]
        ['5.0e-04', '1.0e-03', '5.0e-04', '0.0e+00']
    """
    check_choice("kind", kind, SCHEDULES)
    check_count("steps", steps, least=1)
    check_count("warmup", warmup, least=0)
    if not 0 < peak < float("inf") or not 0 <= floor <= peak:
        raise value_error(
            "A learning rate must be above 0, and its floor between 0 and the rate.",
            fix="Pass peak=3e-4 and floor=3e-5, for example.",
            peak=peak,
            floor=floor,
        )
    if warmup >= steps:
        raise value_error(
            "The warm-up must be shorter than the training.",
            fix="Train for more steps, or warm up for fewer steps.",
            warmup=warmup,
            steps=steps,
        )
    schedules = keras.optimizers.schedules
    after: Any = float(peak)
    if kind == "cosine":
        after = schedules.CosineDecay(peak, steps - warmup, alpha=floor / peak)
    elif kind == "linear":
        after = schedules.PolynomialDecay(peak, steps - warmup, end_learning_rate=floor)
    return WarmUp(after, warmup)

"""Classifier-free guidance: a model that leads away from a negative prompt.

Source: Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance"; transformers 4.57,
    `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfgpt2.generation.options import Option
from tfgpt2.generation.params import Prompt, SamplingParams

GUIDANCE_SCALE = Option("guidance_scale", None, "yes, per row", "float32", 1.0, -100, 100,
                        "a number in [-100, 100]; 1 is off")  # fmt: skip


def guided_logits(logits: tf.Tensor, unconditional: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Moves a distribution away from the one without the prompt.

    Args:
        logits: float32 `[B, V]`, after the prompt.
        unconditional: float32 `[B, V]`, after the negative prompt.
        scale: float32 `[B]`; 1 is off, above it the prompt weighs more.

    Returns:
        float32 `[B, V]`; log-probabilities moved apart where a row's scale is not 1.
    """
    with_prompt, without = tf.nn.log_softmax(logits), tf.nn.log_softmax(unconditional)
    scale = scale[:, None]
    return tf.where(scale == 1, logits, scale * (with_prompt - without) + without)


class GuidedCache(NamedTuple):
    """The caches of guidance.

    Attributes:
        prompt: Of the sequence after its prompt.
        negative: Of the sequence after the negative prompt.
    """

    prompt: Any
    negative: Any


class GuidedModel:
    """Reads each sequence twice, after its prompt and after a negative one; a `LanguageModel`.

    Args:
        model: Reads the prompt.
        negative_model: Reads the negative prompt.
        negative: The negative prompt.
        params: Holds `guidance_scale`.
    """

    def __init__(
        self, model: Any, negative_model: Any, negative: Prompt, params: SamplingParams
    ) -> None:
        self._model, self._negative_model, self._negative = model, negative_model, negative
        self._scale = params.options[GUIDANCE_SCALE.name]

    def prefill(
        self, ids: tf.Tensor, mask: tf.Tensor, *, columns: tf.Tensor
    ) -> tuple[tf.Tensor, GuidedCache]:
        """See `LanguageModel`."""
        negative = self._negative
        size = columns - tf.shape(ids)[1] + tf.shape(negative.ids)[1]
        logits, cache = self._model.prefill(ids, mask, columns=columns)
        away, other = self._negative_model.prefill(negative.ids, negative.mask, columns=size)
        rows = tf.shape(logits)[0]
        # Sequences of one prompt come later and share its scale.
        scale = tf.reshape(self._scale, [rows, tf.size(self._scale) // rows])[:, 0]  # [B]
        return guided_logits(logits, away, scale), GuidedCache(cache, other)

    def decode_step(
        self, ids: tf.Tensor, valid: tf.Tensor, cache: GuidedCache, *, in_place: bool
    ) -> tuple[tf.Tensor, GuidedCache]:
        """See `LanguageModel`."""
        logits, own = self._model.decode_step(ids, valid, cache.prompt, in_place=in_place)
        away, other = self._negative_model.decode_step(
            ids, valid, cache.negative, in_place=in_place
        )
        rows, length, size = tf.unstack(tf.shape(logits))
        beams = rows // tf.size(self._scale)
        scale = tf.repeat(self._scale, beams * length)  # [R * T]
        flat = [tf.reshape(x, [rows * length, size]) for x in (logits, away)]
        guided = tf.reshape(guided_logits(*flat, scale), tf.shape(logits))  # [R, T, V]
        return tf.ensure_shape(guided, logits.shape), GuidedCache(own, other)

    def rollback(
        self, cache: GuidedCache, before: GuidedCache, kept: tf.Tensor, *, width: int
    ) -> GuidedCache:
        """See `LanguageModel`."""
        return GuidedCache(
            self._model.rollback(cache.prompt, before.prompt, kept, width=width),
            self._negative_model.rollback(cache.negative, before.negative, kept, width=width),
        )

"""Drafts by a smaller model of the same vocabulary."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.logits.pipeline import apply_warpers
from tfgpt2.generation.logits.random import add_gumbel_noise
from tfgpt2.generation.logits.vocab_ops import argmax
from tfgpt2.generation.params import DecodeSpec, Prompt, SamplingParams
from tfgpt2.generation.speculative.base import Draft
from tfgpt2.generation.strategies.cache_rows import repeat_cache


class DraftModelProposer:
    """Proposes what a smaller model would write; a `DraftProposer`.

    It draws with the random numbers that the loop will draw with, so that where the two models
    agree about the likely tokens they draw the same one.

    Args:
        model: The small model, a `strategies.base.LanguageModel`.
        spec: Its `num_draft_tokens` are proposed.
        in_place: Compiled by XLA.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding";
        the shared noise is the Gumbel coupling of Daliri et al. 2024, "Coupling without
        Communication and Drafter-Invariant Speculative Decoding".
    """

    def __init__(self, model: Any, spec: DecodeSpec, *, in_place: bool) -> None:
        self._model, self._spec, self._in_place = model, spec, in_place

    def start(self, prompt: Prompt, params: SamplingParams, columns: tf.Tensor) -> Any:
        """See `DraftProposer`: it reads the prompts."""
        _, cache = self._model.prefill(prompt.ids, prompt.mask, columns=columns)
        return repeat_cache(cache, self._spec.rows_per_prompt)

    def propose(
        self, memory: Any, context: ProcessorContext, token: tf.Tensor, running: tf.Tensor
    ) -> Draft:
        """See `DraftProposer`."""
        count, params = self._spec.num_draft_tokens, context.params

        def body(place: tf.Tensor, token: tf.Tensor, tokens: tf.Tensor, cache: Any) -> Any:
            valid = tf.ones_like(token, tf.bool)[:, None]  # [R, 1]
            logits, cache = self._model.decode_step(
                token[:, None], valid, cache, in_place=self._in_place
            )
            scores = apply_warpers(logits[:, 0], params)
            step = context.num_new_tokens + place
            token = argmax(
                add_gumbel_noise(scores, params.options["temperature"], params.seed, step)
            )  # [R]
            here = tf.range(count)[None] == place  # [1, G]
            return place + 1, token, tf.where(here, token[:, None], tokens), cache

        # One step more than there are draft tokens: the last one must have been read, too.
        none = tf.zeros([tf.shape(token)[0], count], tf.int32)
        _, _, tokens, cache = tf.while_loop(
            lambda place, *_: place <= count, body, (tf.constant(0), token, none, memory)
        )
        return Draft(tokens, tf.constant(True), cache)

    def rollback(self, memory: Any, before: Any, kept: tf.Tensor) -> Any:
        """See `DraftProposer`."""
        width = self._spec.num_draft_tokens + 1
        return self._model.rollback(memory, before, kept, width=width)

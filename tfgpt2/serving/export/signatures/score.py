"""`score`: log-probability and perplexity of a text."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.serving.client.records import Score as ScoreRecord
from tfgpt2.serving.export.signatures.base import SignatureFn, Tensors


class Score(SignatureFn):
    """Log-probability of each text and of its tokens."""

    name = "score"
    compiled = True
    ragged_outputs = ("token_logprobs",)
    record = ScoreRecord

    def __call__(self, inputs: Tensors) -> Tensors:
        """See `TextPipeline.score`."""
        return self.generator.pipeline.score(inputs["text"])

    def output_lengths(self, outputs: Tensors) -> tf.Tensor:
        """All tokens; `num_tokens` leaves a first one out that follows nothing."""
        return outputs["text_tokens"]

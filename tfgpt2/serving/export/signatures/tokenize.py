"""`tokenize`: token ids of a text, as `generate` reads it."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.serving.client.records import Tokens
from tfgpt2.serving.export.signatures.base import SignatureFn, Tensors


class Tokenize(SignatureFn):
    """Token ids of each text, padded to the longest row."""

    name = "tokenize"
    record = Tokens

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> ids int32 `[B, T]`."""
        ids = self.generator.pipeline.tokenize_prompts(inputs["text"])  # [B, (T)]
        return {
            "ids": ids.to_tensor(self.generator.tokenizer.pad_token_id),  # [B, T]
            "num_tokens": tf.cast(ids.row_lengths(), tf.int32),
        }

"""`detokenize`: the text of token ids."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.serving.export.signatures.base import SignatureFn, Tensors


class Detokenize(SignatureFn):
    """The text of each row of ids; special tokens and unknown ids give no text."""

    name = "detokenize"
    inputs = (tf.TensorSpec([None, None], tf.int32, "ids"),)
    padding_values = {"ids": 0}

    def __call__(self, inputs: Tensors) -> Tensors:
        """Ids int32 `[B, T]` -> string `[B]`."""
        tokenizer, ids = self.generator.tokenizer, inputs["ids"]
        return {
            "text": tokenizer.detokenize(ids, skip_special_tokens=True),
            "text_bytes": tokenizer.detokenize_bytes(ids, skip_special_tokens=True),
        }

    def probe_inputs(self, text: tf.Tensor) -> Tensors:
        """The tokens of the texts."""
        return {"ids": self.generator.tokenizer.tokenize(text).to_tensor(-1)}

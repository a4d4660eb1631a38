"""`inspect`: how likely each token of a text was, and which tokens were likely in its place."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.scoring import left_align, token_scores
from tfgpt2.serving.client.records import Inspection
from tfgpt2.serving.export.signatures.base import Tensors
from tfgpt2.serving.export.signatures.text_scoring import TextScoringFn


class Inspect(TextScoringFn):
    """Log-probability and rank of each token, and the `options.inspect_top` most likely ones."""

    name = "inspect"
    scoring = staticmethod(token_scores)
    top_option = "inspect_top"
    ragged_outputs = ("token_bytes", "token_logprobs", "ranks", "top_bytes", "top_probabilities")
    record = Inspection

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> tokens `[B, T]` and alternatives `[B, T, N]`."""
        scores, prompt, status, num_tokens = self.score(inputs["text"])
        logprobs, ranks, ids, top_logprobs = (left_align(values, num_tokens) for values in scores)
        tokens = left_align(prompt.ids + 1, num_tokens) - 1  # [B, T], -1 after a row's end
        follows = (ranks > 0)[..., None]  # [B, T, 1]
        return {
            "token_bytes": self.token_bytes(tokens),  # [B, T]
            "token_logprobs": logprobs,
            "ranks": ranks,
            "top_bytes": self.token_bytes(tf.where(follows, ids, -1)),  # [B, T, N]
            "top_probabilities": tf.where(follows, tf.exp(top_logprobs), 0.0),
            "num_tokens": num_tokens,
            "truncated": status.truncated,
        }

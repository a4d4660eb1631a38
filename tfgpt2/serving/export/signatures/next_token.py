"""`next_token`: the most likely tokens after a text."""

from __future__ import annotations

import tensorflow as tf

from tfgpt2.generation.scoring import next_tokens
from tfgpt2.serving.client.records import NextTokens
from tfgpt2.serving.export.signatures.base import Tensors
from tfgpt2.serving.export.signatures.text_scoring import TextScoringFn
from tfgpt2.tokenizers.segments import valid_utf8


class NextToken(TextScoringFn):
    """The `options.top` most likely tokens after each text."""

    name = "next_token"
    scoring = staticmethod(next_tokens)
    top_option = "top"
    record = NextTokens

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> tokens `[B, N]`, the most likely first."""
        (ids, logprobs), _, status, _ = self.score(inputs["text"])  # [B, N]
        nonempty = status.refusal[:, None] == 0  # without tokens and start token: no prediction
        raw = self.token_bytes(tf.where(nonempty, ids, -1))  # [B, N]
        return {
            "token_ids": tf.where(nonempty, ids, 0),
            "tokens": tf.reshape(valid_utf8(tf.reshape(raw, [-1])), tf.shape(raw)),
            "token_bytes": raw,
            "probabilities": tf.where(nonempty, tf.exp(logprobs), 0.0),
            "logprobs": tf.where(nonempty, logprobs, 0.0),
            "prompt_tokens": status.length,
            "truncated": status.truncated,
        }

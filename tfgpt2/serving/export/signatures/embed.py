"""`embed`: a text as vectors."""

from __future__ import annotations

from tfgpt2.generation.scoring import text_vectors
from tfgpt2.serving.client.records import Embedding
from tfgpt2.serving.export.signatures.base import Tensors
from tfgpt2.serving.export.signatures.text_scoring import TextScoringFn


class Embed(TextScoringFn):
    """The last layer's state of the last token, and the mean of all tokens' states."""

    name = "embed"
    scoring = staticmethod(text_vectors)
    record = Embedding

    def __call__(self, inputs: Tensors) -> Tensors:
        """String `[B]` -> vectors float32 `[B, D]`."""
        (last, mean), _, status, num_tokens = self.score(inputs["text"])  # [B, D]
        truncated = status.truncated
        return {"last": last, "mean": mean, "num_tokens": num_tokens, "truncated": truncated}

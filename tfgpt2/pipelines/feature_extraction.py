"""The pipeline "feature-extraction"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfgpt2.models.transformer import TFGPT2Model
from tfgpt2.pipelines.base import Pipeline, check_text


class FeatureExtractionPipeline(Pipeline):
    """Computes the hidden states of texts.

    Returns, for each text, nested lists of numbers `[1, T, D]`, or a tensor with
    `return_tensors=True`.
    """

    task = "feature-extraction"
    model_class = TFGPT2Model

    def run(
        self,
        one: str,
        *,
        return_tensors: bool = False,
        truncation: bool | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Computes the hidden states of one text.

        Args:
            one: The text.
            return_tensors: Whether to return a tensor.
            truncation: See the tokenizer.
            tokenize_kwargs: Options of the tokenizer.
        """
        options = dict(tokenize_kwargs or {})
        options |= {} if truncation is None else {"truncation": truncation}
        hidden = self.forward(self.tokenizer(check_text(one, self.task), **options))[0]  # [1, T, D]
        return hidden if return_tensors else hidden.numpy().tolist()

"""The pipeline "text-classification", also called "sentiment-analysis"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgpt2.models.task_heads import TFGPT2ForSequenceClassification
from tfgpt2.pipelines.base import Pipeline, check_text, softmax
from tfgpt2.validation import check_choice

_FUNCTIONS = ("default", "sigmoid", "softmax", "none")


class TextClassificationPipeline(Pipeline):
    """Scores the labels of texts.

    Returns, for each text, the best label as `{"label": ..., "score": ...}`, in a list for a single
    text; with `top_k`, a list of the best ones, and of all with `top_k=None`.
    """

    task = "text-classification"
    model_class = TFGPT2ForSequenceClassification

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classifies a text, a dict of `text` and `text_pair`, or a list of those."""
        found = super().__call__(inputs, **options)
        single = isinstance(inputs, str) and "top_k" not in options
        return [found] if single and isinstance(found, dict) else found

    def run(
        self,
        one: str | Mapping[str, str],
        *,
        top_k: Any = "",
        return_all_scores: bool | None = None,
        function_to_apply: str | None = None,
        **tokenizer_options: Any,
    ) -> Any:
        """Classifies one text.

        Args:
            one: A text, or a dict of `text` and `text_pair`.
            top_k: How many labels; None is all. Left out: the best one, not in a list.
            return_all_scores: The older name of `top_k=None`; labels then keep their order.
            function_to_apply: `"sigmoid"`, `"softmax"` or `"none"`; by default what belongs to the
                model's problem.
            **tokenizer_options: Options of the tokenizer, such as `truncation=True`.
        """
        texts = one if isinstance(one, Mapping) else {"text": check_text(one, self.task)}
        row = self.tokenizer(**texts, **tokenizer_options)
        logits = self.forward(row).logits.numpy()[0]
        scores = self._apply(logits, function_to_apply)
        names = self.model.config.id2label
        labels = [{"label": names[i], "score": float(x)} for i, x in enumerate(scores)]
        if return_all_scores:
            return labels
        best = sorted(labels, key=lambda label: label["score"], reverse=True)
        return best[0] if top_k == "" else best[:top_k]

    def _apply(self, logits: np.ndarray, function: str | None) -> np.ndarray:
        function = None if function is None else function.lower()
        check_choice("function_to_apply", function, (None, *_FUNCTIONS))
        config = self.model.config
        if function in (None, "default"):
            function = "softmax" if config.num_labels > 1 else "sigmoid"
            known = {"regression": "none", "multi_label_classification": "sigmoid",
                     "single_label_classification": "softmax"}  # fmt: skip
            function = known.get(config.problem_type, function)
        if function == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        return softmax(logits) if function == "softmax" else logits

"""`classify`: a label for each text."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfgpt2.batch.models import Arrays, BatchModel, from_signature
from tfgpt2.batch.tasks.base import Task, number, numbers
from tfgpt2.models.task_heads import TFGPT2ForSequenceClassification
from tfgpt2.serving.export.signatures import registry
from tfgpt2.tokenizers.gpt2 import TFGPT2Tokenizer


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """The label of each text, its score, and the scores of all labels in the model's order."""

    name: ClassVar[str] = "classify"
    signature: ClassVar[str] = "classify"

    @property
    def result_types(self) -> dict[str, str]:
        """See `Task`."""
        return {"label": "string", "score": "float32", "scores": "list<float32>"}

    def load_checkpoint(self, name: str, *, jit_compile: bool) -> BatchModel:
        """See `Task`; the signature is not compiled by XLA."""
        model = TFGPT2ForSequenceClassification.from_pretrained(name)
        tokenizer = TFGPT2Tokenizer.from_pretrained(name)
        return from_signature(registry.create_task(model, tokenizer), tokenizer, model)

    def result(self, outputs: Arrays, row: int) -> dict[str, Any]:
        """See `Task`."""
        scores = outputs["scores"][row]
        return {
            "label": outputs["label"][row].decode(),
            "score": number(scores.max()),
            "scores": numbers(scores),
        }

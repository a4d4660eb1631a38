"""`score` and `embed`: log-probabilities and vectors of texts."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tfgpt2.batch.models import Arrays, BatchModel, from_signature
from tfgpt2.batch.tasks.base import Task, number, numbers
from tfgpt2.serving.export.signatures import registry
from tfgpt2.serving.export.signatures.base import SignatureOptions
from tfgpt2.text.generator import TextGenerator
from tfgpt2.validation import check_choice

_POOLINGS = ("mean", "last")


@dataclasses.dataclass(frozen=True)
class TextScoringTask(Task):
    """A task that reads whole texts with a signature of the text generator."""

    def load_checkpoint(self, name: str, *, jit_compile: bool) -> BatchModel:
        """See `Task`."""
        generator = TextGenerator.from_pretrained(name, jit_compile=jit_compile)
        options = SignatureOptions(names=(self.signature,))
        signature = registry.create(generator, options)[self.signature]
        return from_signature(signature, generator.tokenizer, generator.model)


@dataclasses.dataclass(frozen=True)
class Score(TextScoringTask):
    """Log-probability and perplexity of each text; what exceeds the context is cut on the left.

    Args:
        token_details: Add `token_logprobs`, one number for each token.
    """

    name: ClassVar[str] = "score"
    signature: ClassVar[str] = "score"

    token_details: bool = False

    @property
    def result_types(self) -> dict[str, str]:
        """See `Task`."""
        types = {"logprob": "float32", "perplexity": "float32"}
        types |= {"num_tokens": "int32", "truncated": "int32"}
        return types | ({"token_logprobs": "list<float32>"} if self.token_details else {})

    def result(self, outputs: Arrays, row: int) -> dict[str, Any]:
        """See `Task`."""
        count = int(outputs["num_tokens"][row])
        found = {
            "logprob": number(outputs["logprob"][row]),
            "perplexity": number(outputs["perplexity"][row]),
            "num_tokens": count,
            "truncated": int(outputs["truncated"][row]),
        }
        if self.token_details:
            all_tokens = outputs.get("text_tokens")  # older exports do not count them
            count = count + 1 if all_tokens is None else all_tokens[row]
            found["token_logprobs"] = numbers(outputs["token_logprobs"][row, :count])
        return found


@dataclasses.dataclass(frozen=True)
class Embed(TextScoringTask):
    """A vector for each text.

    Args:
        pooling: `"mean"` of all tokens' states, or the state of the `"last"` token.
    """

    name: ClassVar[str] = "embed"
    signature: ClassVar[str] = "embed"

    pooling: str = "mean"

    def __post_init__(self) -> None:
        """Checks the pooling."""
        check_choice("pooling", self.pooling, _POOLINGS)

    @property
    def result_types(self) -> dict[str, str]:
        """See `Task`."""
        return {"embedding": "list<float32>", "num_tokens": "int32", "truncated": "int32"}

    def result(self, outputs: Arrays, row: int) -> dict[str, Any]:
        """See `Task`."""
        return {
            "embedding": numbers(outputs[self.pooling][row]),
            "num_tokens": int(outputs["num_tokens"][row]),
            "truncated": int(outputs["truncated"][row]),
        }

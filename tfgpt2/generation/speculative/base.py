"""Interface of draft proposers for speculative decoding."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfgpt2.generation.logits.base import ProcessorContext
from tfgpt2.generation.params import Prompt, SamplingParams


class Draft(NamedTuple):
    """Draft tokens of one round.

    Attributes:
        tokens: int32 `[R, G]`, any ids in `[0, V)`.
        useful: bool `[]`, whether verifying them may be worth its time.
        memory: The proposer's state after it.
    """

    tokens: tf.Tensor
    useful: tf.Tensor
    memory: Any


class DraftProposer(Protocol):
    """Proposes tokens that the model then verifies.

    A draft only has to be cheap: the loop chooses every token itself and accepts the draft tokens
    that equal its choice.
    """

    def start(self, prompt: Prompt, params: SamplingParams, columns: tf.Tensor) -> Any:
        """Returns the proposer's first state; `columns` is the size of the model's cache."""
        ...

    def propose(
        self, memory: Any, context: ProcessorContext, token: tf.Tensor, running: tf.Tensor
    ) -> Draft:
        """Proposes the tokens after the last one (int32 `[R]`) of the running rows (bool `[R]`)."""
        ...

    def rollback(self, memory: Any, before: Any, kept: tf.Tensor) -> Any:
        """Forgets the rejected tokens: all since `before` but the first `kept` (int32 `[R]`)."""
        ...

"""What the server asks of a loaded version of a model, and of the engine of one.

A kind of version is a class with these members, and a line in `registry.LOADERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfgpt2.serving.server.first_runs import FirstRuns
from tfgpt2.serving.server.signature import Arrays, Signature


class Servable(Protocol):
    """A loaded version of a model.

    Attributes:
        name: The model's name.
        version: The version's number.
        signatures: Its signatures, by name.
        chat_templates: The chat templates of its files, by name.
        special_tokens: The special tokens of its files, by role or name.
        batches_in_graph: Concurrent calls are put together, or kept apart, by the version itself;
            their rows must not be batched before.
        has_engine: Whether its texts can be generated on an engine.
        first_runs: A clock that runs while programs are compiled.
        scheduler: Schedules rows on the engine; made when the first comes.
    """

    name: str
    version: int
    signatures: dict[str, Signature]
    chat_templates: dict[str, str]
    special_tokens: dict[str, str]
    batches_in_graph: bool
    has_engine: bool
    first_runs: FirstRuns
    scheduler: Any

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs a signature; blocks, and may be called from several threads.

        Args:
            signature: A key of `signatures`.
            inputs: All its inputs.

        Returns:
            All its outputs.
        """

    def warm_up(self) -> int:
        """Runs some requests and returns their number.

        Raises:
            Exception: The version cannot run.
        """

    def make_engine(self) -> Engine:
        """Makes the engine, where `has_engine`."""

    def describe_signatures(self) -> dict[str, Any]:
        """The signatures by name, as JSON of TensorFlow's `SignatureDef`."""


class Progress(NamedTuple):
    """What a row has so far.

    Attributes:
        token_ids: int32 `[T]`.
        token_logprobs: float32 `[T]`.
        finish_reason: None while it runs.
        stop_cut: Bytes of written text before a stop string; -1 without one.
        prompt_tokens: Tokens of the prompt that were read.
        truncated: Tokens of the prompt that were dropped.
        top_ids: int32 `[T, N]`, where the export reports the most likely tokens.
        top_logprobs: float32 `[T, N]`, likewise.
    """

    token_ids: np.ndarray
    token_logprobs: np.ndarray
    finish_reason: str | None
    stop_cut: int
    prompt_tokens: int
    truncated: int
    top_ids: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None


class StartedRow(NamedTuple):
    """What became of a prompt."""

    prompt_tokens: int
    truncated: int


class Engine(Protocol):
    """The slots of one version. Its methods block, and one thread calls them at a time."""

    def clear(self) -> None:
        """Forgets all rows."""

    def start(
        self, signature: Signature, requests: Sequence[Arrays], padded: int
    ) -> tuple[Any, list[StartedRow]]:
        """Reads prompts.

        Args:
            signature: `engine_start` or `engine_start_ids`.
            requests: Inputs of one row each.
            padded: Rows to read, so that few programs are compiled.

        Returns:
            A state with a slot for each, and what became of each prompt.
        """

    def join(self, started: Sequence[tuple[Any, int]], kept: Sequence[int], slots: int) -> None:
        """Takes rows of the old slots, in the first places, and those started.

        Args:
            started: States of `start`, and how many of their rows are used.
            kept: Slots of the rows that go on.
            slots: How many there are in the new state; those that are left over are empty.
        """

    def advance(self, active: Sequence[bool], steps: int) -> Arrays:
        """Generates up to `steps` tokens for each active row.

        Args:
            active: For each slot, whether its row goes on; one that does not has ended for good.
            steps: How many.

        Returns:
            `token_ids`, `token_logprobs`, `num_tokens`, `finish_reason`, `stop_cut`, a row for
            each slot.
        """

    def knows_texts(self, ids: np.ndarray) -> bool:
        """Whether `token_texts` does not block."""

    def token_texts(self, ids: np.ndarray) -> list[tuple[bytes, bytes]]:
        """The written and the shown bytes of tokens, int32 `[T]`; see `TokenTexts`."""

"""The engine of a SavedModel: its slots, advanced a few tokens at a time.

The state stays in TensorFlow's tensors between the calls; only tokens come out. Rows are known here
by their slot; `engine_scheduler` decides which come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfgpt2.serving.server.request_batcher import merge_requests
from tfgpt2.serving.server.servable import StartedRow
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.text_model import START_OUTPUTS


class GraphEngine:
    """The slots of one version; see `servable.Engine`.

    Args:
        call: Calls a signature of the version, with tensors as inputs and outputs.
    """

    def __init__(self, call: Callable[[str, dict[str, Any]], dict[str, Any]]):
        self._call = call
        self._state: dict[str, Any] | None = None
        self._texts: dict[int, tuple[bytes, bytes]] = {}

    @property
    def num_slots(self) -> int:
        """Slots of the state."""
        return 0 if self._state is None else int(self._state["reason"].shape[0])

    def clear(self) -> None:
        """Forgets the state."""
        self._state = None

    def start(
        self, signature: Signature, requests: Sequence[Arrays], padded: int
    ) -> tuple[dict[str, Any], list[StartedRow]]:
        """Reads prompts.

        Args:
            signature: `engine_start` or `engine_start_ids`.
            requests: Inputs of one row each.
            padded: Rows to read, so that few programs are compiled.

        Returns:
            A state with a slot for each, and what became of each prompt.
        """
        inputs = merge_requests(signature, requests, padded)
        outputs = self._call(signature.name, inputs)
        lengths, truncated, _ = (outputs.pop(name).numpy() for name in START_OUTPUTS)
        rows = zip(lengths.tolist(), truncated.tolist(), strict=True)
        return outputs, [StartedRow(*row) for row in rows][: len(requests)]

    def join(
        self, started: Sequence[tuple[dict[str, Any], int]], kept: Sequence[int], slots: int
    ) -> None:
        """Makes a new state of rows of the old one, in the first slots, and of those started.

        Args:
            started: States of `start`, and how many of their rows are used.
            kept: Slots of the old state.
            slots: How many there are in the new one; those that are left over are empty.
        """
        states = [(state, list(range(count))) for state, count in started]
        if self._state is not None:
            states.append((self._state, list(kept)))
        state, rows = states[0]
        for other, more in states[1:-1]:  # the small ones first
            state = self._join(state, rows, other, more, len(rows) + len(more))
            rows = list(range(len(rows) + len(more)))
        if len(states) > 1:
            large, kept = states[-1]
            if self._state is None:
                self._state = self._join(state, rows, large, kept, slots)
            else:
                self._state = self._join(large, kept, state, rows, slots)
        else:
            self._state = self._join(state, rows, state, [], slots)

    def _join(
        self, one: dict[str, Any], rows: list[int], two: dict[str, Any], more: list[int], slots: int
    ) -> dict[str, Any]:
        """A state of rows of two, one after the other."""
        first = int(one["reason"].shape[0])
        source = [*rows, *(first + row for row in more)]
        source += [-1] * (slots - len(source))
        tensors = one | {f"other_{name}": value for name, value in two.items()}
        return self._call("engine_join", tensors | {"source": np.array(source, np.int32)})

    def advance(self, active: Sequence[bool], steps: int) -> Arrays:
        """Generates up to `steps` tokens for each active row.

        Args:
            active: For each slot, whether its row goes on; one that does not has ended for good.
            steps: How many.

        Returns:
            `token_ids`, `token_logprobs`, `num_tokens`, `finish_reason`, `stop_cut`, a row for
            each slot.
        """
        controls = {"active": np.array(active, np.int32), "steps": np.array([steps], np.int32)}
        changed = self._call("engine_advance", self._state | controls)
        reasons = changed.pop("finish_reason")
        self._state |= changed
        names = ("token_ids", "token_logprobs", "num_tokens", "stop_cut", "top_ids", "top_logprobs")
        shown = {name: changed[name].numpy() for name in names if name in changed}
        return shown | {"finish_reason": reasons.numpy()}

    def knows_texts(self, ids: np.ndarray) -> bool:
        """Whether `token_texts` needs no call of TensorFlow."""
        return all(one in self._texts for one in ids.tolist())

    def token_texts(self, ids: np.ndarray) -> list[tuple[bytes, bytes]]:
        """The written and the shown bytes of tokens, int32 `[T]`; see `TokenTexts`."""
        missing = sorted(set(ids.tolist()) - self._texts.keys())
        if missing:
            inputs = {"ids": np.array(missing, np.int32)}
            found = self._call("engine_tokens", inputs)
            pairs = zip(found["written_bytes"].numpy(), found["shown_bytes"].numpy(), strict=True)
            self._texts |= dict(zip(missing, pairs, strict=True))
        return [self._texts[one] for one in ids.tolist()]

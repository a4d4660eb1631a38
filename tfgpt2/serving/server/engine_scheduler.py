"""Continuous batching: rows of all requests share the slots of the engine, and come and go.

A round reads the prompts of some waiting rows, puts them into free slots, and generates a few
tokens for every row. Rows are admitted in order of arrival; one that has ended, or whose client has
left, frees its slot before the next round. What a row generates depends neither on the others nor
on when it came.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from tfgpt2.serving.server.request_size import full_bytes
from tfgpt2.serving.server.servable import Engine, Progress, StartedRow
from tfgpt2.serving.server.serving_error import ServingError, from_exception
from tfgpt2.serving.server.settings import ServerSettings
from tfgpt2.serving.server.signature import Arrays, Signature
from tfgpt2.serving.server.text_model import STARTED_BY

_log = logging.getLogger(__name__)
_START_SIZES = (1, 2, 4)  # prompts of about the same length are read together
_START_BYTES = 4096  # of the prompts of a round; a longer one is read alone


class Round(NamedTuple):
    """Counts of a round: running rows, slots, new tokens, tokens of prompts."""

    rows: int
    slots: int
    tokens: int
    prompt_tokens: int


@dataclasses.dataclass(eq=False)
class _Row:
    """A row that waits or runs; compared by identity."""

    start: Signature
    inputs: Arrays
    pieces: bool  # whether somebody waits for each round
    size: int  # bytes of the inputs
    length: int  # bytes of the prompt
    alone: bool = False  # whether it is read alone, since it failed with others
    started: StartedRow | None = None
    progress: Progress | None = None
    error: ServingError | None = None
    left: bool = False
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        done = self.progress is not None and self.progress.finish_reason is not None
        return done or self.error is not None

    @property
    def num_tokens(self) -> int:
        return 0 if self.progress is None else len(self.progress.token_ids)

    def fail(self, error: BaseException) -> None:
        self.error = from_exception(error)


class EngineScheduler:
    """Runs rows on the engine of one version; belongs to one event loop.

    Args:
        engine: The engine.
        signatures: The signatures of the version.
        settings: Slots, tokens of a round, and how many rows may wait.
        executor: Threads for the engine's calls.
        observe: Called after each round, in another thread.
    """

    def __init__(
        self,
        engine: Engine,
        signatures: dict[str, Signature],
        settings: ServerSettings,
        executor: Executor,
        observe: Callable[[Round], None] = lambda _: None,
    ):
        self._engine, self._signatures, self._settings = engine, signatures, settings
        self._executor, self._observe = executor, observe
        self._sizes = settings.slot_counts
        self._waiting: collections.deque[_Row] = collections.deque()
        self._slots: list[_Row | None] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Rows without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Rows that have one."""
        return sum(row is not None for row in self._slots)

    @property
    def is_running(self) -> bool:
        """Whether there are rounds."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Waits until there are no rows."""
        if self.is_running:
            await asyncio.wait((self._task,))

    async def progress(
        self, signature: Signature, inputs: Arrays, *, pieces: bool = False
    ) -> AsyncGenerator[Progress, None]:
        """Runs one row; closing the generator frees its slot.

        Args:
            signature: `generate`, `generate_ids` or `serving_default`.
            inputs: Its inputs, one row, checked.
            pieces: Whether to yield after each round; else only at the end.

        Yields:
            What there is so far; the last has a finish reason.

        Raises:
            ServingError: RESOURCE_EXHAUSTED when too many rows wait; or the error of the model.
        """
        limits, waiting, size = self._settings.batching, len(self._waiting), full_bytes(inputs, 1)
        queued = sum(row.size for row in self._waiting)
        # A row that waits alone is not too large, whatever the limit.
        too_large = waiting and queued + size > limits.max_queue_bytes
        if waiting >= limits.max_queue or too_large:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"The queue is full: {waiting} requests wait. Try again later.",
            )
        start = self._signatures[STARTED_BY[signature.name]]
        inputs = {name: inputs.get(name, start.defaults.get(name)) for name in start.inputs}
        prompt = inputs["text" if "text" in inputs else "ids"][0]
        row = _Row(start, inputs, pieces, size, len(prompt))
        self._waiting.append(row)
        if not self.is_running:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            while True:
                await row.changed.wait()
                row.changed.clear()
                if row.error is not None:
                    raise row.error
                progress = row.progress
                yield progress
                if progress.finish_reason is not None:
                    return
        finally:
            row.left = True
            if row in self._waiting:
                self._waiting.remove(row)

    async def token_texts(self, ids: np.ndarray) -> list[tuple[bytes, bytes]]:
        """See `Engine.token_texts`."""
        if not self._engine.knows_texts(ids):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._engine.token_texts, ids)
        return self._engine.token_texts(ids)

    async def _run(self) -> None:
        """Rounds, as long as there are rows."""
        loop = asyncio.get_running_loop()
        try:
            while self._drop_ended() or self._waiting:
                admitted = self._admit()
                rows = [row for row in self._slots if row is not None]
                try:
                    await loop.run_in_executor(self._executor, self._round, admitted)
                except Exception as error:  # nobody awaits this: report to the rows
                    _log.exception("A round failed")
                    for row in (*rows, *admitted):
                        row.fail(error)
                    self._forget()
                again = [row for row in admitted if row.started is None and not row.has_ended]
                self._waiting.extendleft(row for row in reversed(again) if not row.left)
                for row in (*rows, *admitted):
                    if row.has_ended or (row.pieces and row.progress is not None):
                        row.changed.set()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._engine.clear()
        self._slots = []

    def _drop_ended(self) -> int:
        """Frees the slots of rows that need them no longer; returns how many go on."""
        self._slots = [
            None if row is None or row.left or row.has_ended else row for row in self._slots
        ]
        return self.num_running

    def _admit(self) -> list[_Row]:
        """Takes rows that wait, in their order, as many as are read in a round."""
        free, admitted, size = self._settings.engine_slots - self.num_running, [], 0
        while self._waiting and len(admitted) < free:
            size += self._waiting[0].length
            if admitted and size > _START_BYTES:
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _round(self, admitted: list[_Row]) -> None:
        """Reads prompts, moves rows and generates; runs in a thread."""
        engine, started, new = self._engine, [], []
        for rows in _groups(admitted):
            state = self._start(rows)
            if state is not None:
                started.append((state, len(rows)))
                new += rows
        old = [slot for slot, row in enumerate(self._slots) if row is not None]
        if not old:
            engine.clear()
        rows = [*(self._slots[slot] for slot in old), *new]
        if not rows:
            self._slots = []
            return
        slots = _padded(len(rows), self._sizes)
        if new or slots < len(self._slots):
            engine.join(started, old, slots)
            self._slots = [*rows, *[None] * (slots - len(rows))]
        active = [row is not None for row in self._slots]
        outputs = engine.advance(active, self._settings.stream_tokens)
        before = sum(row.num_tokens for row in rows)
        for slot, row in enumerate(self._slots):
            if row is not None:
                row.progress = _progress(outputs, slot, row.started)
        tokens = sum(row.num_tokens for row in rows) - before
        prompt_tokens = sum(row.started.prompt_tokens for row in new)
        self._observe(Round(len(rows), slots, tokens, prompt_tokens))

    def _start(self, rows: list[_Row]) -> dict[str, Any] | None:
        """Reads prompts; returns their state, None if that failed."""
        try:
            padded = _padded(len(rows), _START_SIZES)
            state, started = self._engine.start(rows[0].start, [row.inputs for row in rows], padded)
        except Exception as error:
            if len(rows) == 1:
                rows[0].fail(error)
            for row in rows:  # each alone in the next round: only the one at fault fails
                row.alone = True
            return None
        for row, one in zip(rows, started, strict=True):
            row.started = one
        return state


def _groups(rows: list[_Row]) -> list[list[_Row]]:
    """The rows whose prompts are read together: of one kind and of about the same length."""
    groups: dict[Any, list[list[_Row]]] = {}
    for row in rows:
        key = row if row.alone else (row.start.name, row.length.bit_length())
        parts = groups.setdefault(key, [[]])
        if len(parts[-1]) == _START_SIZES[-1]:
            parts.append([])
        parts[-1].append(row)
    return [part for parts in groups.values() for part in parts]


def _padded(rows: int, sizes: tuple[int, ...]) -> int:
    return next(size for size in sizes if size >= rows)


def _progress(outputs: Arrays, slot: int, started: StartedRow) -> Progress:
    """Reads the outputs of a slot."""
    count, reason = int(outputs["num_tokens"][slot]), outputs["finish_reason"][slot].decode()
    top = [outputs[n][slot, :count] if n in outputs else None for n in ("top_ids", "top_logprobs")]
    return Progress(
        outputs["token_ids"][slot, :count],
        outputs["token_logprobs"][slot, :count],
        None if reason == "running" else reason,
        int(outputs["stop_cut"][slot]),
        *started,
        *top,
    )

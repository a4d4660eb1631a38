"""Rows of concurrent requests as one batch: a bounded queue, merging, padding, splitting.

Requests of the same version and signature share a batch when their inputs agree in all axes but the
first. What the real server does not do: settings sent as `[1]` are spread over the request's rows
first, and tables of strings (`stop`, `[B, Q]`) of different widths are widened with empty
strings, which the signatures' contract reads as "none". The real server rejects the first and
batches the second only when the widths agree.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tfgpt2.serving.server.saved_model import Arrays, Servable, Signature
from tfgpt2.serving.server.settings import BatchSettings
from tfgpt2.serving.server.status import ServingError, from_exception, invalid

_OWN_THREADS = 32  # for models that batch in their graph: they want many concurrent calls
_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class _Task:
    """A request in the queue; compared by identity, for arrays do not compare as a whole."""

    servable: Servable
    signature: Signature
    inputs: Arrays
    rows: int
    since: float
    answer: asyncio.Future[Arrays]


class _Lane:
    """Tasks that wait for the same threads."""

    def __init__(self, threads: int, name: str):
        self.free = threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.queues: dict[Any, collections.deque[_Task]] = {}
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """Runs requests, several at once where they fit together. Lives in one event loop.

    Args:
        settings: Sizes and limits.
        observe: Called after each batch with its signature, rows, padding rows and outputs.
    """

    def __init__(
        self,
        settings: BatchSettings,
        observe: Callable[[Servable, Signature, int, int, Arrays], None] = lambda *_: None,
    ):
        self._settings, self._observe = settings, observe
        self._ours = _Lane(settings.num_batch_threads, "batch")
        self._theirs = _Lane(_OWN_THREADS, "call")
        self._running: set[asyncio.Task[None]] = set()
        self._alone = 0  # numbers requests that must not share

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(len(q) for lane in (self._ours, self._theirs) for q in lane.queues.values())

    @property
    def running(self) -> int:
        """Batches under way."""
        return len(self._running)

    async def run(self, servable: Servable, signature: Signature, inputs: Arrays) -> Arrays:
        """Queues a request and waits for its answer; cancelling it takes it out of the queue.

        Args:
            servable: The version; the caller holds a lease on it.
            signature: What is asked.
            inputs: All inputs; `[1]` settings may stand for all rows.

        Returns:
            All outputs, the request's own rows.

        Raises:
            ServingError: INVALID_ARGUMENT for rows that do not agree or are too many,
                RESOURCE_EXHAUSTED when the queue is full, or what the model raised.
        """
        signature.check(inputs)
        rows = count_rows(inputs)
        if rows > self._settings.max_batch_size:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size"
                f" {self._settings.max_batch_size}. Send the rows in several requests."
            )
        if self.waiting >= self._settings.max_queue:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"The queue is full: {self._settings.max_queue} requests wait. Try again later.",
            )
        loop = asyncio.get_running_loop()
        task = _Task(
            servable, signature, spread(inputs, rows), rows, loop.time(), loop.create_future()
        )
        lane = self._theirs if servable.batches_itself else self._ours
        key = self._key(task)
        lane.queues.setdefault(key, collections.deque()).append(task)
        self._pump(lane)
        try:
            return await task.answer
        except asyncio.CancelledError:
            queue = lane.queues.get(key, ())
            if task in queue:
                queue.remove(task)
            raise

    async def close(self) -> None:
        """Waits for the batches under way; what waits in the queue is theirs to finish first."""
        while self._running or self.waiting:
            await asyncio.sleep(0.01)
        for lane in (self._ours, self._theirs):
            lane.pool.shutdown(wait=False)

    def _key(self, task: _Task) -> Any:
        """Equal for tasks that may share a batch."""
        if not self._settings.enabled or task.servable.batches_itself or not task.rows:
            self._alone += 1
            return self._alone
        shapes = tuple(
            None if _is_table(task.signature, name) else task.inputs[name].shape[1:]
            for name in task.signature.inputs
        )
        return id(task.servable), task.signature.name, shapes

    def _pump(self, lane: _Lane) -> None:
        """Starts what can start, and sets the clock for what has to wait a moment."""
        loop = asyncio.get_running_loop()
        patience = self._settings.batch_timeout_micros / 1e6
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        while lane.free:
            lane.queues = {key: queue for key, queue in lane.queues.items() if queue}
            due = {key: self._due(key, queue, patience) for key, queue in lane.queues.items()}
            if not due:
                return
            key = min(due, key=due.get)
            if due[key] > loop.time():
                lane.timer = loop.call_at(due[key], self._pump, lane)
                return
            lane.free -= 1
            batch = loop.create_task(self._run(lane, self._take(lane.queues[key])))
            self._running.add(batch)
            batch.add_done_callback(self._running.discard)

    def _due(self, key: Any, queue: collections.deque[_Task], patience: float) -> float:
        """When the queue's first batch is to start: at once if it is full or shares with nobody."""
        full = sum(task.rows for task in queue) >= self._settings.max_batch_size
        return queue[0].since + (0.0 if full or isinstance(key, int) else patience)

    def _take(self, queue: collections.deque[_Task]) -> list[_Task]:
        """The first tasks that fit into a batch, in the order they came."""
        tasks, rows = [queue.popleft()], 0
        rows = tasks[0].rows
        while queue and rows + queue[0].rows <= self._settings.max_batch_size:
            rows += queue[0].rows
            tasks.append(queue.popleft())
        return tasks

    async def _run(self, lane: _Lane, tasks: list[_Task]) -> None:
        try:
            await self._answer(lane, tasks)
        except Exception as error:  # nobody awaits this task: its requests must hear of it
            _log.exception("A batch failed")
            for task in tasks:
                if not task.answer.done():
                    task.answer.set_exception(from_exception(error))
        finally:
            lane.free += 1
            self._pump(lane)

    async def _answer(self, lane: _Lane, tasks: list[_Task]) -> None:
        first = tasks[0]
        rows = sum(task.rows for task in tasks)
        padded = rows
        if self._settings.enabled and rows and not first.servable.batches_itself:
            padded = self._settings.padded(rows)
        inputs = merge(first.signature, [task.inputs for task in tasks], padded)
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(
                lane.pool, first.servable.run, first.signature.name, inputs
            )
            answers = split(outputs, [task.rows for task in tasks], padded)
        except Exception as error:
            if len(tasks) > 1:  # one request's fault must not be its neighbours'
                for task in tasks:
                    await self._answer(lane, [task])
            elif not first.answer.done():
                first.answer.set_exception(from_exception(error))
            return
        self._observe(first.servable, first.signature, rows, padded - rows, outputs)
        for task, answer in zip(tasks, answers, strict=True):
            if not task.answer.done():  # else its client has left
                task.answer.set_result(answer)


def count_rows(inputs: Arrays) -> int:
    """Rows of a request: the common first axis, where `[1]` fits any.

    Raises:
        ServingError: Two inputs have different numbers of rows, or one has no axis.

    Example:
        >>> count_rows({"text": np.array(["a", "b"]), "seed": np.array([1])})
        2
    """
    for name, array in inputs.items():
        if not array.ndim:
            raise invalid(f"Input {name!r} must have at least one axis, the rows.", param=name)
    found = {array.shape[0] for array in inputs.values()} - {1}
    if len(found) > 1:
        shown = ", ".join(f"{name} {array.shape[0]}" for name, array in inputs.items())
        raise invalid(f"All inputs must have the same number of rows, or 1. Received: {shown}.")
    return found.pop() if found else 1


def spread(inputs: Arrays, rows: int) -> Arrays:
    """Repeats `[1]` inputs for each row."""
    return {
        name: array if array.shape[0] == rows else np.repeat(array, rows, axis=0)
        for name, array in inputs.items()
    }


def merge(signature: Signature, requests: Sequence[Arrays], padded: int) -> Arrays:
    """Puts requests one below the other, filled up to a number of rows.

    Args:
        signature: What they ask.
        requests: Inputs of each; they agree in all axes but the first, tables of strings aside.
        padded: Rows of the result. Rows beyond the requests' repeat the first row of the last
            one, as the real server does: a real row costs no new shape and cannot fail alone.

    Returns:
        Each input with `padded` rows.
    """
    merged = {}
    for name in signature.inputs:
        parts = [request[name] for request in requests]
        if _is_table(signature, name):
            width = max(part.shape[1] for part in parts)
            parts = [_widen(part, width) for part in parts]
        missing = padded - sum(part.shape[0] for part in parts)
        if missing:
            parts.append(np.repeat(parts[-1][:1], missing, axis=0))
        merged[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return merged


def split(outputs: Arrays, rows: Sequence[int], padded: int) -> list[Arrays]:
    """Gives each request its own rows.

    Args:
        outputs: Each with `padded` rows.
        rows: Rows of each request.
        padded: Rows that were run.

    Raises:
        ServingError: An output has another number of rows: such a model cannot be batched.
    """
    wrong = [n for n, out in outputs.items() if not out.ndim or out.shape[0] != padded]
    if wrong and len(rows) == 1 and rows[0] == padded:
        return [outputs]  # ran alone: whatever it gives is the answer
    if wrong:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"Batched output {wrong[0]!r} must have one row for each input row. Received:"
            f" {list(outputs[wrong[0]].shape)} for {padded} rows. Serve it without batching.",
        )
    ends = np.cumsum(rows)
    return [
        {name: out[end - count : end] for name, out in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def _is_table(signature: Signature, name: str) -> bool:
    """Whether an input is a table of strings whose width is free."""
    spec = signature.inputs[name]
    return spec.is_string and spec.shape is not None and len(spec.shape) == 2 and spec.shape[1] < 0


def _widen(table: np.ndarray, width: int) -> np.ndarray:
    missing = width - table.shape[1]
    if not missing:
        return table
    return np.concatenate([table, np.full((table.shape[0], missing), b"", object)], axis=1)

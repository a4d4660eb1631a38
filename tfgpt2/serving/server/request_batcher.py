"""Rows of concurrent requests as one batch: a bounded queue, merging, padding, splitting.

Requests of the same version and signature share a batch when their inputs agree in all axes but the
first. Beyond TensorFlow Serving, settings sent as `[1]` are broadcast to the rows of the request,
and string inputs `[B, Q]` of free width (`stop`) are padded to a common width with empty strings,
which signatures read as "none". TensorFlow Serving rejects the former and batches the latter only
when the widths agree. So that one request cannot make others large, only widths up to a limit are
padded to each other, and padding rows are the smallest row of the batch.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tfgpt2.serving.server.request_size import check_bytes, check_rows, full_bytes
from tfgpt2.serving.server.servable import Servable
from tfgpt2.serving.server.serving_error import ServingError, from_exception, invalid
from tfgpt2.serving.server.settings import BatchSettings
from tfgpt2.serving.server.signature import Arrays, Signature

_FREE_WIDTH = 64  # strings of a row up to which requests of different widths share a batch
_UNBATCHED_THREADS = 32  # models that batch in their graph need many concurrent calls
_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class _Task:
    """A queued request; compared by identity, because arrays do not compare as a whole."""

    servable: Servable
    signature: Signature
    inputs: Arrays
    rows: int
    size: int  # bytes
    enqueued: float
    outputs: asyncio.Future[Arrays]


class _WorkerPool:
    """Threads, and the queues of tasks that wait for them."""

    def __init__(self, threads: int, name: str):
        self.free_threads = threads
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.queues: dict[Any, collections.deque[_Task]] = {}
        self.timer: asyncio.TimerHandle | None = None


class RequestBatcher:
    """Runs requests, several in one batch where they fit together; belongs to one event loop.

    Args:
        settings: Sizes and limits.
        observe: Called after each batch with its servable, signature, rows, padding rows, outputs.
        max_bytes: Bytes of the inputs of a request, with those of one row repeated for each row.
    """

    def __init__(
        self,
        settings: BatchSettings,
        observe: Callable[[Servable, Signature, int, int, Arrays], None] = lambda *_: None,
        max_bytes: float = math.inf,
    ):
        self._settings, self._observe, self._max_bytes = settings, observe, max_bytes
        self._batched = _WorkerPool(settings.num_batch_threads, "batch")
        self._unbatched = _WorkerPool(_UNBATCHED_THREADS, "call")
        self._running: set[asyncio.Task[None]] = set()

    @property
    def num_queued(self) -> int:
        """Requests in the queue."""
        pools = (self._batched, self._unbatched)
        return sum(len(queue) for pool in pools for queue in pool.queues.values())

    @property
    def queued_bytes(self) -> int:
        """Bytes that the requests in the queue stand for."""
        pools = (self._batched, self._unbatched)
        return sum(task.size for pool in pools for queue in pool.queues.values() for task in queue)

    @property
    def num_running(self) -> int:
        """Batches that are running."""
        return len(self._running)

    async def run(self, servable: Servable, signature: Signature, inputs: Arrays) -> Arrays:
        """Queues a request and waits for its outputs; cancelling removes it from the queue.

        Args:
            servable: The version; the caller leases it.
            signature: The requested signature.
            inputs: All inputs; `[1]` settings hold for all rows.

        Returns:
            All outputs, for the rows of the request; without rows the model does not run.

        Raises:
            ServingError: INVALID_ARGUMENT for inputs whose rows disagree, or that are too large;
                RESOURCE_EXHAUSTED when the queue is full; or the error of the model.
        """
        signature.check(inputs)
        rows = count_rows(inputs)
        check_rows(rows, self._settings.max_batch_size)
        size = full_bytes(inputs, rows)
        check_bytes(size, self._max_bytes)
        if not rows:
            return signature.empty_outputs()
        waiting = self.num_queued
        # A request that waits alone is not too large, whatever the limit of the queue.
        too_large = waiting and self.queued_bytes + size > self._settings.max_queue_bytes
        if waiting >= self._settings.max_queue or too_large:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"The queue is full: {waiting} requests wait. Try again later.",
            )
        loop = asyncio.get_running_loop()
        inputs = broadcast_rows(inputs, rows)
        task = _Task(servable, signature, inputs, rows, size, loop.time(), loop.create_future())
        pool = self._unbatched if servable.batches_in_graph else self._batched
        key = self._queue_key(task)
        pool.queues.setdefault(key, collections.deque()).append(task)
        self._start_due_batches(pool)
        try:
            return await task.outputs
        except asyncio.CancelledError:
            queue = pool.queues.get(key, ())
            if task in queue:
                queue.remove(task)
            raise

    async def close(self) -> None:
        """Waits until everything queued and running is finished."""
        while self._running or self.num_queued:
            await asyncio.sleep(0.01)
        for pool in (self._batched, self._unbatched):
            pool.executor.shutdown(wait=False)

    def _queue_key(self, task: _Task) -> Any:
        """Returns a tuple that is equal for tasks that may share a batch, or a unique object."""
        if not self._settings.enabled or task.servable.batches_in_graph:
            return object()
        shapes = tuple(
            _shared_shape(task.signature, name, task.inputs[name]) for name in task.signature.inputs
        )
        return id(task.servable), task.signature.name, shapes

    def _start_due_batches(self, pool: _WorkerPool) -> None:
        """Starts the batches that are due while threads are free; sets a timer for the next."""
        loop = asyncio.get_running_loop()
        if pool.timer is not None:
            pool.timer.cancel()
            pool.timer = None
        while pool.free_threads:
            pool.queues = {key: queue for key, queue in pool.queues.items() if queue}
            due = {key: self._due_time(key, queue) for key, queue in pool.queues.items()}
            if not due:
                return
            key = min(due, key=due.get)
            if due[key] > loop.time():
                pool.timer = loop.call_at(due[key], self._start_due_batches, pool)
                return
            pool.free_threads -= 1
            batch = loop.create_task(self._run_batch(pool, self._take_batch(pool.queues[key])))
            self._running.add(batch)
            batch.add_done_callback(self._running.discard)

    def _due_time(self, key: Any, queue: collections.deque[_Task]) -> float:
        """When the first batch of a queue starts: at once if it is full or not shared."""
        full = sum(task.rows for task in queue) >= self._settings.max_batch_size
        shared = isinstance(key, tuple)
        timeout = self._settings.batch_timeout_micros / 1e6 if shared and not full else 0.0
        return queue[0].enqueued + timeout

    def _take_batch(self, queue: collections.deque[_Task]) -> list[_Task]:
        """Removes the first tasks that fit into a batch, in order of arrival."""
        tasks = [queue.popleft()]
        rows = tasks[0].rows
        while queue and rows + queue[0].rows <= self._settings.max_batch_size:
            rows += queue[0].rows
            tasks.append(queue.popleft())
        return tasks

    async def _run_batch(self, pool: _WorkerPool, tasks: list[_Task]) -> None:
        try:
            await self._run_tasks(pool, tasks)
        except Exception as error:  # nobody awaits this coroutine: report to its requests
            _log.exception("A batch failed")
            for task in tasks:
                if not task.outputs.done():
                    task.outputs.set_exception(from_exception(error))
        finally:
            pool.free_threads += 1
            self._start_due_batches(pool)

    async def _run_tasks(self, pool: _WorkerPool, tasks: list[_Task]) -> None:
        tasks = [task for task in tasks if not task.outputs.done()]  # others were cancelled
        if not tasks:
            return
        first = tasks[0]
        rows = sum(task.rows for task in tasks)
        padded = rows
        if self._settings.enabled and not first.servable.batches_in_graph:
            padded = self._settings.padded_size(rows)
        inputs = merge_requests(first.signature, [task.inputs for task in tasks], padded)
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(
                pool.executor, first.servable.run, first.signature.name, inputs
            )
            parts = split_rows(outputs, [task.rows for task in tasks], padded)
        except Exception as error:
            if len(tasks) > 1:  # run each request alone: only the one at fault fails
                for task in tasks:
                    await self._run_tasks(pool, [task])
            elif not first.outputs.done():
                first.outputs.set_exception(from_exception(error))
            return
        self._observe(first.servable, first.signature, rows, padded - rows, outputs)
        for task, part in zip(tasks, parts, strict=True):
            if not task.outputs.done():  # else its client has disconnected
                task.outputs.set_result(part)


def count_rows(inputs: Arrays) -> int:
    """Counts the rows of a request: the common length of the first axis, where 1 fits any.

    Raises:
        ServingError: Two inputs have different numbers of rows, or one is a scalar.

    Example:
        >>> count_rows({"text": np.array(["a", "b"]), "seed": np.array([1])})
        2
    """
    for name, array in inputs.items():
        if not array.ndim:
            raise invalid(f"Input {name!r} must have at least one axis, the rows.", param=name)
    counts = {array.shape[0] for array in inputs.values()} - {1}
    if len(counts) > 1:
        shown = ", ".join(f"{name} {array.shape[0]}" for name, array in inputs.items())
        raise invalid(f"All inputs must have the same number of rows, or 1. Received: {shown}.")
    return counts.pop() if counts else 1


def broadcast_rows(inputs: Arrays, rows: int) -> Arrays:
    """Repeats inputs of one row for each row."""
    return {
        name: array if array.shape[0] == rows else np.repeat(array, rows, axis=0)
        for name, array in inputs.items()
    }


def merge_requests(signature: Signature, requests: Sequence[Arrays], padded: int) -> Arrays:
    """Concatenates the rows of requests and pads them to a number of rows.

    Args:
        signature: The requested signature.
        requests: Inputs of each; they agree in all axes but the first, free widths aside.
        padded: Rows of the result. Padding repeats the row with the shortest texts: a real row has
            a known shape and is valid. TensorFlow Serving repeats the first row of the last
            request, however long it is.

    Returns:
        Each input with `padded` rows.
    """
    merged = {}
    for name in signature.inputs:
        parts = [request[name] for request in requests]
        if _has_free_width(signature, name):
            width = max(part.shape[1] for part in parts)
            parts = [_pad_width(part, width) for part in parts]
        merged[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    missing = padded - len(next(iter(merged.values())))
    if not missing:
        return merged
    row = _smallest_row(merged)
    return {
        name: np.concatenate([array, np.repeat(array[row : row + 1], missing, axis=0)])
        for name, array in merged.items()
    }


def split_rows(outputs: Arrays, rows: Sequence[int], padded: int) -> list[Arrays]:
    """Splits the outputs of a batch into those of its requests.

    Args:
        outputs: Each with `padded` rows.
        rows: Rows of each request.
        padded: Rows of the batch.

    Raises:
        ServingError: An output has another number of rows: such a model cannot be batched.
    """
    wrong = [n for n, out in outputs.items() if not out.ndim or out.shape[0] != padded]
    if wrong and len(rows) == 1 and rows[0] == padded:
        return [outputs]  # a request that ran alone gets whatever the model returns
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


def _has_free_width(signature: Signature, name: str) -> bool:
    """Whether an input is of strings `[B, Q]` with any `Q`."""
    info = signature.inputs[name]
    return info.is_string and info.shape is not None and len(info.shape) == 2 and info.shape[1] < 0


def _shared_shape(signature: Signature, name: str, array: np.ndarray) -> tuple[int, ...] | None:
    """Returns the axes in which the requests of a batch agree; None if these can be padded."""
    free = _has_free_width(signature, name) and array.shape[1] <= _FREE_WIDTH
    return None if free else array.shape[1:]


def _smallest_row(inputs: Arrays) -> int:
    """Returns the row with the fewest bytes of strings; the first one if there are no strings."""
    sizes: Any = np.zeros(1, np.int64)
    for array in inputs.values():
        if array.dtype == object:
            lengths = np.fromiter(map(len, array.flat), np.int64, array.size).reshape(array.shape)
            sizes = sizes + lengths.sum(axis=tuple(range(1, array.ndim)))  # [B]
    return int(np.argmin(sizes))


def _pad_width(strings: np.ndarray, width: int) -> np.ndarray:
    missing = width - strings.shape[1]
    if not missing:
        return strings
    return np.concatenate([strings, np.full((len(strings), missing), b"", object)], axis=1)

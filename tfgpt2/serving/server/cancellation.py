"""Waiting for tasks such that no task outlives the one that waits for it.

`asyncio.wait_for` is not used in the server: before Python 3.12 it returns the result, and forgets
the cancellation, when it is cancelled at the moment in which the result arrives. A request whose
client has left would go on with its next call. `asyncio.wait` never forgets one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

_Result = TypeVar("_Result")


async def run_within(
    work: Awaitable[_Result],
    seconds: float | None,
    more_seconds: Callable[[], float] = lambda: 0.0,
) -> _Result:
    """Waits for a result, and cancels the work when time is up or the caller is cancelled.

    Args:
        work: What to wait for.
        seconds: How long; None waits as long as it takes.
        more_seconds: Asked when time is up: how much longer, counted from the beginning.

    Raises:
        asyncio.TimeoutError: Time is up; or the error of the work.

    Example:
        >>> asyncio.run(run_within(asyncio.sleep(0, "done"), 5))
        'done'
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
        granted = 0.0
        while not task.done() and (more := more_seconds()) > granted:
            await asyncio.wait((task,), timeout=more - granted)
            granted = more
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        await cancel((task,))


async def gather(works: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """Runs works concurrently; when one fails or the caller is cancelled, all end.

    Args:
        works: What to run.

    Returns:
        Their results, in order.

    Raises:
        Exception: The first error.

    Example:
        >>> asyncio.run(gather(asyncio.sleep(0, number) for number in (1, 2)))
        [1, 2]
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel(tasks)


async def cancel(tasks: Iterable[asyncio.Future]) -> None:
    """Cancels the tasks that are not done, and returns when all have ended."""
    tasks = list(tasks)
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # perhaps nobody else asks for it, and asyncio would log it

"""Retries: exponential backoff with jitter, within one time limit for all attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tfgpt2.serving.client.exceptions import ClientError

_FIRST_PAUSE = 0.1  # seconds
_LONGEST_PAUSE = 5.0
T = TypeVar("T")


def pause(attempt: int, jitter: float) -> float:
    """Seconds to wait after an attempt: doubled each time, of which up to half is random.

    Args:
        attempt: 0 after the first one.
        jitter: A random number in [0, 1).

    Example:
        >>> [pause(attempt, 0.0) for attempt in (0, 1, 2, 20)]
        [0.1, 0.2, 0.4, 5.0]
    """
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 30)) * (1 - jitter / 2)


def attempt_within(
    operation: Callable[[float], T],
    *,
    timeout: float,
    retries: int,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Runs an operation, and repeats it after transient errors.

    Args:
        operation: Takes the seconds that are left.
        timeout: Seconds for all attempts and pauses together.
        retries: Most attempts after the first.
        sleep: Function that waits; for tests.
        clock: Function that returns seconds; for tests.

    Raises:
        ClientError: That of the last attempt, or one that is not transient.
    """
    deadline = clock() + timeout
    attempts = 0
    while True:
        try:
            return operation(max(deadline - clock(), 1e-3))
        except ClientError as error:
            wait = max(pause(attempts, random.random()), error.retry_after or 0.0)
            attempts += 1
            if not error.transient or attempts > retries or clock() + wait >= deadline:
                raise error.after(attempts) from error.__cause__
        sleep(wait)

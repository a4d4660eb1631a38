"""Bounds on the work that a constraint may cost: a hostile one ends in an error within seconds."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tfgpt2.errors import value_error

MAX_STATES = 10_000
MAX_WORK = 10_000_000  # of one constraint, in steps of about a microsecond
P, R = ParamSpec("P"), TypeVar("R")
# Steps done for the constraint that is being compiled; None where none is.
_spent: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("spent", default=None)


def bounded(function: Callable[P, R]) -> Callable[P, R]:
    """Bounds the work of a function; inside another bounded one, they share the bound."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _spent.get() is not None:
            return function(*args, **kwargs)
        token = _spent.set([0])
        try:
            return function(*args, **kwargs)
        except RecursionError:
            raise value_error(
                "The constraint is nested too deeply.", fix="Write it flatter."
            ) from None
        finally:
            _spent.reset(token)

    return run


def spend(steps: int) -> None:
    """Counts work.

    Raises:
        ValueError: There was too much of it.
    """
    spent = _spent.get()
    if spent is not None:
        spent[0] += steps
        check_size(spent[0], MAX_WORK)


def check_size(size: int, limit: int) -> None:
    """Checks that a constraint does not take too much memory or time.

    Raises:
        ValueError: `size` is above `limit`.
    """
    if size > limit:
        raise value_error(
            f"The constraint's automaton is too large (more than {MAX_STATES} states, or too"
            " much work to build).",
            fix="Use smaller repeat counts and lengths, fewer optional parts, or `(?a)` where"
            " only ASCII letters and digits are meant.",
        )

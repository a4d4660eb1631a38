"""Errors in three parts: the problem, the received values, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_MAX_VALUE_LENGTH = 200  # characters of a received value that are shown


def explain(problem: str, *, fix: str, **received: object) -> str:
    """Joins the three parts of an error message.

    Args:
        problem: A sentence that says what is wrong and what was expected, ending in a full stop.
        fix: A sentence that says how to fix it, ending in a full stop.
        **received: The offending values by name; each is shown with `repr`, cut when long.

    Returns:
        `"<problem> Received: name=value, ... <fix>"`.

    Example:
        >>> explain("`top_p` must be in [0, 1].", fix="Pass 1.0 to switch it off.", top_p=3)
        '`top_p` must be in [0, 1]. Received: top_p=3. Pass 1.0 to switch it off.'
    """
    shown = ", ".join(f"{name}={_shorten(value)}" for name, value in received.items())
    return f"{problem} Received: {shown}. {fix}" if shown else f"{problem} {fix}"


def value_error(problem: str, *, fix: str, **received: object) -> ValueError:
    """Returns the error for a value that is not accepted; see `explain`.

    Example:
        >>> value_error("`top_k` must be at least 1.", fix="Pass an integer.", top_k=0)
        ValueError('`top_k` must be at least 1. Received: top_k=0. Pass an integer.')
    """
    return ValueError(explain(problem, fix=fix, **received))


def type_error(problem: str, *, fix: str, **received: object) -> TypeError:
    """Returns the error for a value of a wrong type; see `explain`.

    Example:
        >>> type_error("`top_k` must be an integer.", fix="Pass 50.", top_k="50")
        TypeError("`top_k` must be an integer. Received: top_k='50'. Pass 50.")
    """
    return TypeError(explain(problem, fix=fix, **received))


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggests the known word that a user most likely meant.

    Args:
        word: What the user wrote.
        known: The accepted words.

    Returns:
        `"Did you mean 'x'?"`, or a list of the known words when none is similar.

    Example:
        >>> nearest("top_pp", ["top_k", "top_p"])
        "Did you mean 'top_p'?"
    """
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {matches[0]!r}?" if matches else f"Known names: {', '.join(known)}."


def unreadable(
    path: Path, reason: str, *, kind: str = "checkpoint", **received: object
) -> ValueError:
    """Returns the error for a file that is damaged or holds something else than expected.

    Args:
        path: The file.
        reason: A clause that says what is wrong with it.
        kind: What the file was expected to be.
        **received: The key, or other values that belong to the fault.

    Example:
        >>> print(unreadable(Path("tf_model.h5"), "it is cut short", key="wte.weight"))
        tf_model.h5 is not a readable checkpoint: it is cut short. Received: path='tf_model.h5', \
key='wte.weight'. Download or save it again.
    """
    return value_error(
        f"{path.name} is not a readable {kind}: {reason}.",
        fix="Download or save it again.",
        path=str(path),
        **received,
    )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."

"""The one shape of an error message: what was wrong and expected, what came, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_VALUE = 200  # characters of a received value that are shown


def explain(problem: str, *, fix: str, **received: object) -> str:
    """Joins the three parts of an error message.

    Args:
        problem: A sentence with what is wrong and what was expected, ending in a full stop.
        fix: A sentence that says how to mend it, ending in a full stop.
        **received: The offending values by name; each is shown with `repr`, cut when long.

    Returns:
        `"<problem> Received: name=value, ... <fix>"`.

    Example:
        >>> explain("`top_p` must be in [0, 1].", fix="Pass 1.0 to switch it off.", top_p=3)
        '`top_p` must be in [0, 1]. Received: top_p=3. Pass 1.0 to switch it off.'
    """
    shown = ", ".join(f"{name}={_short(value)}" for name, value in received.items())
    return f"{problem} Received: {shown}. {fix}" if shown else f"{problem} {fix}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Says which known word a user most likely meant.

    Args:
        word: What the user wrote.
        known: The words that would have been accepted.

    Returns:
        `"Did you mean 'x'?"`, or a list of the known words when nothing is near.

    Example:
        >>> nearest("top_pp", ["top_k", "top_p"])
        "Did you mean 'top_p'?"
    """
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {matches[0]!r}?" if matches else f"Known names: {', '.join(known)}."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."

"""Errors in three parts: the problem, the received values, and how to fix it."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Set, ValuesView
from pathlib import Path
from typing import Any

# What was received may be a whole book, or a file's idea of a name: so much of it is shown.
_MAX_VALUE = 200  # characters of one value
_MAX_VALUES = 500  # characters of all values together
_MAX_SENTENCE = 1000  # characters of a problem, or of a fix
_MAX_ELEMENTS = 200  # of an array whose numbers are shown
_MAX_KNOWN = 10_000  # names that are compared with a misspelt one


def explain(problem: str, *, fix: str, **received: object) -> str:
    """Joins the three parts of an error message.

    Args:
        problem: A sentence that says what is wrong and what was expected, ending in a full stop.
        fix: A sentence that says how to fix it, ending in a full stop.
        **received: The offending values by name, as `shorten` shows them.

    Returns:
        `"<problem> Received: name=value, ... <fix>"`, at most about 2500 characters whatever was
        received.

    Example:
        >>> explain("`top_p` must be in [0, 1].", fix="Pass 1.0 to switch it off.", top_p=3)
        '`top_p` must be in [0, 1]. Received: top_p=3. Pass 1.0 to switch it off.'
    """
    values = (f", {name[:_MAX_VALUE]}={shorten(value)}" for name, value in received.items())
    shown = _join(values, _MAX_VALUES)[2:]
    problem, fix = _join([problem], _MAX_SENTENCE), _join([fix], _MAX_SENTENCE)
    return f"{problem} Received: {shown}. {fix}" if shown else f"{problem} {fix}"


def shorten(value: object, limit: int = _MAX_VALUE) -> str:
    """Shows a value like `repr`, without building what is cut off.

    Long texts and containers end in `...`. Of large arrays, and of arrays of texts, only kind,
    shape and dtype are shown.

    Args:
        value: Any value.
        limit: Number of characters that are shown.

    Example:
        >>> shorten([1, "a"]), shorten("a" * 10**6, limit=4), shorten([[0] * 10**6], limit=8)
        ("[1, 'a']", "'aaa...", '[[0, 0, ...')
    """
    return _join(_pieces(value, limit), limit)


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
    known = sorted(itertools.islice(known, _MAX_KNOWN))
    matches = difflib.get_close_matches(word[:_MAX_VALUE], known, n=1)
    if matches:
        return f"Did you mean {matches[0]!r}?"
    return f"Known names: {_join((', '.join(known),), _MAX_SENTENCE)}."


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


def _join(pieces: Iterable[str], limit: int) -> str:
    """Joins texts until they are longer than a limit, and cuts them there."""
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > limit:
            return f"{text[:limit]}..."
    return text


def _pieces(value: Any, limit: int) -> Iterator[str]:
    """Yields the text of a value in pieces, each at most a few times as long as the limit."""
    if isinstance(value, (str, bytes, bytearray)):
        yield repr(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > 1000:
        yield f"an integer of {value.bit_length()} bits"
    elif isinstance(value, Mapping):
        yield "{"
        for i, (key, item) in enumerate(value.items()):
            yield ", " * (i > 0)
            yield from _pieces(key, limit)
            yield ": "
            yield from _pieces(item, limit)
        yield "}"
    elif isinstance(value, (list, tuple, Set, ValuesView)):
        start, end = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        yield start
        for i, item in enumerate(value):
            yield ", " * (i > 0)
            yield from _pieces(item, limit)
        yield f",{end}" if isinstance(value, tuple) and len(value) == 1 else end
    elif (summary := _summary_of_array(value)) is not None:
        yield summary
    else:
        yield repr(value)


def _summary_of_array(value: Any) -> str | None:
    """Kind, shape and dtype of an array whose numbers are too many to show, or no numbers."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None or not hasattr(value, "__getitem__"):
        return None
    try:
        sizes = [size or 1 for size in shape]  # None in a graph
        size = math.prod(sizes)
    except (TypeError, ValueError):  # of unknown rank
        return None
    name = str(getattr(dtype, "name", dtype))
    is_text = any(kind in name for kind in ("str", "bytes", "object", "void"))
    if size <= _MAX_ELEMENTS and not is_text:
        return None
    return f"<{type(value).__name__}: shape={tuple(shape)}, dtype={name}>"

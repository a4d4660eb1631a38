"""Settings of a request, checked before it is sent; the limits are those of the contract."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.generation.options import LONGEST_STOP, MOST_STOPS, REQUEST_OPTIONS

# Types of the contract's inputs; those of other inputs come from the model's metadata.
INPUT_DTYPES = (
    {
        name: f"DT_{option.dtype.upper()}".replace("FLOAT32", "FLOAT")
        for name, option in REQUEST_OPTIONS.items()
    }
    | dict.fromkeys(("text", "stop", "question", "context"), "DT_STRING")
    | {"ids": "DT_INT32"}
)
Texts = str | bytes | Sequence[str | bytes]


def as_texts(name: str, value: Texts) -> list[str | bytes]:
    """Returns one text or several as a list.

    Raises:
        TypeError: It is neither.
    """
    texts = [value] if isinstance(value, (str, bytes)) else value
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        texts = [None]
    texts = list(texts)
    if not all(isinstance(text, (str, bytes)) for text in texts):
        problem = f"`{name}` must be a string or a list of strings."
        fix = "Decode tokens first: client.detokenize(ids)."
        raise type_error(problem, fix=fix, **{name: value})
    return texts


def check_names(given: Iterable[str], known: Iterable[str], method: str) -> None:
    """Refuses unknown settings.

    Raises:
        TypeError: One is unknown; the message names the nearest.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise type_error(
                f"{method} has no setting {name!r}.", fix=nearest(name, [*known, "stop"])
            )


def input_columns(given: Mapping[str, Any], stop: Any, rows: int) -> dict[str, list[Any]]:
    """Makes the inputs of `generate` other than the prompts.

    Args:
        given: Settings by name, one value or one per row; None is left out.
        stop: A string, a list of strings for all rows, a list of such lists with one per row, or
            None.
        rows: Number of prompts.

    Returns:
        A list for every input: one entry that holds for all rows, or one per row.

    Raises:
        TypeError: A setting is unknown or not a number.
        ValueError: A value is out of range, or there is not one per row.

    Example:
        >>> input_columns({"seed": 5, "top_p": [0.5, 1]}, "x", 2)["seed"]
        [5, 6]
    """
    check_names(given, REQUEST_OPTIONS, "generate")
    given = {name: value for name, value in given.items() if value is not None}
    columns = {
        name: _column(name, given.get(name, option.off), rows)
        for name, option in REQUEST_OPTIONS.items()
    }
    return columns | {"stop": _stop_table(stop, rows)}


def select_inputs(
    inputs: Mapping[str, list[Any]], given: Iterable[str], served: Iterable[str]
) -> dict[str, list[Any]]:
    """Leaves out the inputs that an export was made without.

    Args:
        inputs: All inputs of the contract.
        given: Settings that the caller named.
        served: Inputs of the export's signature.

    Raises:
        TypeError: The export lacks a setting that the caller named, or needs an unknown input.
    """
    served = set(served)
    missing = [name for name in given if name not in served]
    if missing:
        problem, fix = f"This export has no setting {missing[0]!r}.", "Leave it out."
        raise type_error(problem, fix=fix, inputs=sorted(served))
    if unknown := sorted(served - inputs.keys()):
        problem = f"This export needs the input {unknown[0]!r}, which generate() does not have."
        fix = "Use predict('generate', inputs)."
        raise type_error(problem, fix=fix, inputs=sorted(served))
    return {name: column for name, column in inputs.items() if name in served}


def _column(name: str, value: Any, rows: int) -> list[float]:
    alone = isinstance(value, numbers.Number) or not hasattr(value, "__len__")
    values = [_number(name, one) for one in ([value] if alone else value)]
    if len(values) not in (1, rows):
        problem = f"`{name}` must be one value or {rows} values, one for each prompt."
        fix = "Give a single number to use it for every prompt."
        raise value_error(problem, fix=fix, **{name: value})
    if name == "seed" and alone and values[0] >= 0:
        # One seed would give all rows the same noise; `TextGenerator` counts, too.
        return [(values[0] + row) % 2**63 for row in range(rows)] or values
    return values


def _number(name: str, value: Any) -> float:
    option = REQUEST_OPTIONS[name]
    whole = option.dtype.startswith("int")
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value) if whole else float(value + 0)
    except TypeError:
        kind = "an integer" if whole else "a number"
        problem = f"`{name}` must be {kind}."
        fix = "Pass a number, or a list with one number per prompt."
        raise type_error(problem, fix=fix, **{name: value}) from None
    if math.isnan(number) or not option.low <= number <= option.high:
        problem = f"`{name}` must be in [{option.low:g}, {option.high:g}]."
        raise value_error(problem, fix=f"Leave it out for {option.off:g}.", **{name: value})
    return number


def _stop_table(stop: Any, rows: int) -> list[list[str | bytes]]:
    """Makes the input `stop`: one list of strings for all rows, or one per row, of one length.

    Raises:
        TypeError: It has another form.
        ValueError: A string is too long, or there are too many.
    """
    if stop is None or isinstance(stop, (str, bytes)):
        stop = [] if stop is None else [stop]
    if _are_strings(stop):
        table = [list(stop)]
    else:
        listed = stop if isinstance(stop, (list, tuple)) else ()
        table = [[one] if isinstance(one, (str, bytes)) else one for one in listed]
        if len(table) != rows or not all(map(_are_strings, table)):
            raise type_error(
                "`stop` must be a string, a list of strings, or one such list for each of the"
                f" {rows} prompts.",
                fix="Pass stop=['\\n'] to end each text at a line break.",
                stop=stop,
            )
    width = max([1, *(len(row) for row in table)])
    if width > MOST_STOPS or any(len(as_bytes(s)) > LONGEST_STOP for row in table for s in row):
        problem = f"A prompt can have {MOST_STOPS} stop strings of {LONGEST_STOP} bytes each."
        raise value_error(problem, fix="Pass fewer or shorter ones.", stop=stop)
    return [[*row, *[""] * (width - len(row))] for row in table]


def _are_strings(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(x, (str, bytes)) for x in value)


def as_bytes(text: str | bytes) -> bytes:
    """Text as bytes; half a surrogate pair becomes bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def slice_rows(inputs: Mapping[str, list[Any]], start: int, end: int, rows: int) -> dict[str, Any]:
    """Slices columns; a column of one entry is for all rows and stays."""
    return {
        name: column if len(column) == 1 and rows > 1 else column[start:end]
        for name, column in inputs.items()
    }

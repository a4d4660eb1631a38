"""Settings of a request, checked before they travel; the limits are those of the contract."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tfgpt2.errors import explain, nearest


class Setting(NamedTuple):
    """One setting of the signature `generate`.

    Attributes:
        dtype: Type of its tensor.
        off: What is sent for a setting that the caller leaves out.
        low: Smallest value.
        high: Largest value.
    """

    dtype: str
    off: float
    low: float
    high: float


# As in `tfgpt2.generation.options`, which imports TensorFlow; a test holds the two together.
SETTINGS: dict[str, Setting] = {
    "max_new_tokens": Setting("int32", 64, 0, 2**30),
    "min_new_tokens": Setting("int32", 0, 0, 2**30),
    "temperature": Setting("float32", 0.0, 0, 1e6),
    "top_k": Setting("int32", 0, 0, 2**30),
    "top_p": Setting("float32", 1.0, 0, 1),
    "min_p": Setting("float32", 0.0, 0, 1),
    "repetition_penalty": Setting("float32", 1.0, 1e-3, 1e3),
    "seed": Setting("int64", -1, -1, 2**63 - 1),
}
LONGEST_STOP = 256  # bytes
MOST_STOPS = 64
Texts = str | bytes | Sequence[str | bytes]


def as_texts(name: str, value: Texts) -> list[str | bytes]:
    """Returns one text or several as a list.

    Raises:
        TypeError: It is something else.
    """
    texts = [value] if isinstance(value, (str, bytes)) else value
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        texts = [None]
    texts = list(texts)
    if not all(isinstance(text, (str, bytes)) for text in texts):
        raise TypeError(
            explain(
                f"`{name}` must be a string or a list of strings.",
                fix="Decode tokens first: client.detokenize(ids).",
                **{name: value},
            )
        )
    return texts


def check_names(given: Iterable[str], known: Iterable[str], method: str) -> None:
    """Refuses settings that nobody knows.

    Raises:
        TypeError: One is unknown; the message names the nearest.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(
                explain(f"{method} has no setting {name!r}.", fix=nearest(name, [*known, "stop"]))
            )


def columns(given: Mapping[str, Any], stop: Any, rows: int) -> dict[str, list[Any]]:
    """Makes the inputs of `generate` beside the prompts.

    Args:
        given: Settings by name; None is left out. One value, or one per row.
        stop: A string, a list of strings for all rows, a list of such lists with one per row, or
            None.
        rows: How many prompts there are.

    Returns:
        A list for every input: one entry that holds for all rows, or one per row.

    Raises:
        TypeError: A setting is unknown or no number.
        ValueError: A value is out of range, or there is not one per row.

    Example:
        >>> columns({"seed": 5, "top_p": [0.5, 1]}, "x", 2)["seed"]
        [5, 6]
    """
    check_names(given, SETTINGS, "generate")
    given = {name: value for name, value in given.items() if value is not None}
    made = {
        name: _column(name, given.get(name, setting.off), rows)
        for name, setting in SETTINGS.items()
    }
    made["stop"] = stop_rows(stop, rows)
    return made


def fit(
    inputs: Mapping[str, list[Any]], given: Iterable[str], wanted: Iterable[str]
) -> dict[str, list[Any]]:
    """Leaves out the inputs that an export was made without.

    Args:
        inputs: All inputs of the contract.
        given: Settings that the caller named.
        wanted: Inputs of the export's signature.

    Raises:
        TypeError: The caller named one that the export lacks, or it wants an unknown one.
    """
    wanted = set(wanted)
    lacking = [name for name in given if name not in wanted]
    strange = sorted(wanted - inputs.keys())
    if lacking or strange:
        what = (
            f"This export has no setting {lacking[0]!r}."
            if lacking
            else f"This export wants the input {strange[0]!r}, which `generate` here does not know."
        )
        fix = "Leave it out." if lacking else "Use predict('generate', inputs)."
        raise TypeError(explain(what, fix=fix, inputs=sorted(wanted)))
    return {name: column for name, column in inputs.items() if name in wanted}


def _column(name: str, value: Any, rows: int) -> list[float]:
    alone = isinstance(value, numbers.Number) or not hasattr(value, "__len__")
    values = [_number(name, one) for one in ([value] if alone else value)]
    if len(values) not in (1, rows):
        raise ValueError(
            explain(
                f"`{name}` must be one value or {rows} values, one for each prompt.",
                fix="Give a single number to use it for every prompt.",
                **{name: value},
            )
        )
    if name == "seed" and alone and values[0] >= 0:
        # One seed for all rows would be the same noise in each; `TextGenerator` counts, too.
        return [(values[0] + row) % 2**63 for row in range(rows)] or values
    return values


def _number(name: str, value: Any) -> float:
    setting = SETTINGS[name]
    whole = setting.dtype.startswith("int")
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value) if whole else float(value + 0)
    except TypeError:
        kind = "an integer" if whole else "a number"
        raise TypeError(
            explain(
                f"`{name}` must be {kind}.",
                fix="Pass a number, or a list with one number per prompt.",
                **{name: value},
            )
        ) from None
    if math.isnan(number) or not setting.low <= number <= setting.high:
        raise ValueError(
            explain(
                f"`{name}` must be in [{setting.low:g}, {setting.high:g}].",
                fix=f"Leave it out for {setting.off:g}.",
                **{name: value},
            )
        )
    return number


def stop_rows(stop: Any, rows: int) -> list[list[str | bytes]]:
    """Makes the input `stop`: one list of strings for all rows, or one per row, of one length.

    Raises:
        TypeError: It is nothing of that kind.
        ValueError: A string is too long, or there are too many.
    """
    lists = [] if stop is None else [stop] if isinstance(stop, (str, bytes)) else stop
    if isinstance(lists, (list, tuple)) and all(isinstance(one, (str, bytes)) for one in lists):
        table = [list(lists)]
    else:
        table = [[one] if isinstance(one, (str, bytes)) else one for one in _sequence(lists)]
        if len(table) != rows or not all(
            isinstance(row, (list, tuple)) and all(isinstance(one, (str, bytes)) for one in row)
            for row in table
        ):
            raise TypeError(
                explain(
                    "`stop` must be a string, a list of strings, or one such list for each of the"
                    f" {rows} prompts.",
                    fix="Pass stop=['\\n'] to end each text at a line break.",
                    stop=stop,
                )
            )
    width = max([1, *(len(row) for row in table)])
    if width > MOST_STOPS or any(len(as_bytes(s)) > LONGEST_STOP for row in table for s in row):
        raise ValueError(
            explain(
                f"A prompt can have {MOST_STOPS} stop strings of {LONGEST_STOP} bytes each.",
                fix="Pass fewer or shorter ones.",
                stop=stop,
            )
        )
    return [[*row, *[""] * (width - len(row))] for row in table]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def as_bytes(text: str | bytes) -> bytes:
    """Text as bytes; half a surrogate pair becomes bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def rows_of(inputs: Mapping[str, list[Any]], start: int, end: int, rows: int) -> dict[str, Any]:
    """Cuts rows out of columns; a column of one entry holds for all rows and stays."""
    return {
        name: column if len(column) == 1 and rows > 1 else column[start:end]
        for name, column in inputs.items()
    }

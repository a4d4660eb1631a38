"""Checks of arguments that several rooms share."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from tfgpt2.errors import nearest, type_error, value_error


def check_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Checks that every option exists.

    Args:
        options: Option to value.
        known: Names of the options there are.

    Raises:
        TypeError: An option does not exist; the message suggests the nearest name.

    Example:
        >>> check_names({"top_k": 5}, ["top_k", "top_p"])
    """
    for name, value in options.items():
        if name not in known:
            raise type_error(
                f"There is no option {name!r}.", fix=nearest(name, known), **{name: value}
            )


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Checks that an option is one of its choices.

    Args:
        name: Name of the option.
        value: Its value.
        choices: The values allowed.

    Raises:
        ValueError: It is none of them.

    Example:
        >>> check_choice("side", "left", ("left", "right"))
    """
    if value not in choices:
        raise value_error(
            f"`{name}` must be one of {choices}.", fix="Pass one of them.", **{name: value}
        )


def check_count(name: str, value: Any, least: int, *, optional: bool = True) -> None:
    """Checks that an option is an integer that is large enough.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value allowed.
        optional: Whether None is allowed, too.

    Raises:
        ValueError: It is not.

    Example:
        >>> check_count("batch_size", 8, least=1, optional=False)
    """
    if value is None and optional:
        return
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (integer and value >= least):
        raise value_error(
            f"`{name}` must be {'None or ' if optional else ''}an integer of at least {least}.",
            fix="Leave it out for the default." if optional else f"Pass {least} or more.",
            **{name: value},
        )


def check_range(
    name: str, value: Any, low: float, high: float, *, include_low: bool = True
) -> None:
    """Checks that an option is a number in a half-open interval.

    Args:
        name: Name of the option.
        value: Its value.
        low: Lower end of the interval.
        high: Upper end, excluded.
        include_low: Whether `low` is allowed.

    Raises:
        ValueError: It is not.

    Example:
        >>> check_range("dropout", 0.1, 0, 1)
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and low <= value < high and (include_low or value != low)):
        raise value_error(
            f"`{name}` must be a number in {'[' if include_low else '('}{low}, {high}).",
            fix="Leave it out for the default.",
            **{name: value},
        )

"""The settings of a call: defaults of the folder, options, one value per row.

They mean what they mean to `TextGenerator`, which reads them through `GenerationConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfgpt2.errors import nearest, type_error, value_error
from tfgpt2.generation.option_values import check_option, is_one_of, row_values
from tfgpt2.generation.options import REQUEST_OPTIONS

SETTINGS = (*REQUEST_OPTIONS, "do_sample")
_FILTERS = ("top_k", "top_p", "min_p")  # act where tokens are drawn


def default_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `generation_config.json`; what it lacks has transformers' default.

    Args:
        config: The parsed file.

    Example:
        >>> default_settings({"top_k": 5})["top_k"], default_settings({})["do_sample"]
        (5, False)
    """
    values = {name: config.get(name, one.default) for name, one in REQUEST_OPTIONS.items()}
    return values | {"do_sample": bool(config.get("do_sample"))}


def merge(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the defaults and the options of a call; a `temperature` decides whether to draw.

    Args:
        defaults: See `default_settings`.
        options: By name; None is the default.

    Returns:
        A value, or one per row, for each of `REQUEST_OPTIONS`.

    Raises:
        TypeError: There is no such option here.
        ValueError: A value is out of range, or acts on sampling only.
    """
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in SETTINGS:
            raise type_error(
                f"LiteRTGenerator has no option {name!r}: it has greedy decoding and sampling.",
                fix=f"{nearest(name, [*SETTINGS, 'stop', 'details'])} TextGenerator has all.",
                **{name: options[name]},
            )
    draws = options.pop("do_sample", None)
    if not isinstance(draws, (bool, type(None))):
        raise type_error("`do_sample` must be True or False.", fix="Pass a bool.", do_sample=draws)
    for name, value in options.items():
        check_option(REQUEST_OPTIONS[name], value)
    off = {name: REQUEST_OPTIONS[name].off for name in ("temperature", *_FILTERS)}
    values = dict(defaults)
    if draws is None and "temperature" in options:
        draws = bool(np.any(np.asarray(options["temperature"]) > 0))
        if draws and not defaults["do_sample"]:
            # Filters of a greedy configuration are off unless asked for.
            values |= {name: off[name] for name in _FILTERS}
    values["do_sample"] = defaults["do_sample"] if draws is None else draws
    values |= options
    if not values.pop("do_sample"):
        for name in ("temperature", *_FILTERS):
            default, value = REQUEST_OPTIONS[name].default, options.get(name)
            if not all(is_one_of(one, (None, default, off[name])) for one in np.ravel(value)):
                raise value_error(
                    f"`{name}` acts on sampling only, and this is greedy decoding.",
                    fix="Add do_sample=True.",
                    **{name: value},
                )
        values |= off
    return {n: REQUEST_OPTIONS[n].off if value is None else value for n, value in values.items()}


def rows(values: Mapping[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Gives each row its settings.

    Args:
        values: See `merge`.
        count: How many rows there are.

    Yields:
        A NumPy number for each of `REQUEST_OPTIONS`.

    Raises:
        ValueError: There is not one value per row.
    """
    columns = {
        name: row_values(REQUEST_OPTIONS[name], value, count) for name, value in values.items()
    }
    for row in range(count):
        yield {name: column[row] for name, column in columns.items()}

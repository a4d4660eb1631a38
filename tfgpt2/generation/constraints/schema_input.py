"""A JSON schema as it is passed: in any form, of bounded size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfgpt2.errors import type_error, value_error

MAX_VALUES = 200_000  # of a schema in all: dicts, lists, strings, numbers
MAX_LEVELS = 128  # of dicts and lists in each other; a schema in a schema is one or two of them
_MOST_BITS = 1024  # of an integer, as of the largest float


def load_schema(schema: Any) -> Any:
    """Converts a schema in any supported form to a dict or a bool.

    Raises:
        TypeError: It is not a dict, bool, JSON text, or class with `model_json_schema()`.
        ValueError: The text is not valid JSON.
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise value_error(
                f"`json_schema` is a string that is not valid JSON: {error}.",
                fix="Pass the schema as a dict, or as JSON text.",
                json_schema=schema,
            ) from error
    if not isinstance(schema, (Mapping, bool)):
        raise type_error(
            "`json_schema` must be a dict, JSON text of one, or a pydantic model class.",
            fix="Pass for example {'type': 'object', 'properties': {...}}.",
            json_schema=schema,
        )
    values, levels = count_values(schema, MAX_VALUES, MAX_LEVELS)
    if values > MAX_VALUES or levels > MAX_LEVELS:
        raise value_error(
            f"`json_schema` is too large: it may have {MAX_VALUES} values, {MAX_LEVELS} levels"
            " deep.",
            fix="Write it flatter.",
            values=values,
            levels=levels,
        )
    return schema


def count_values(schema: Any, most: int = 2**31, deepest: int = 2**31) -> tuple[int, int]:
    """Counts the values of a schema, itself included, and how deep they are nested.

    Args:
        schema: Dicts, lists and other values; a dict that contains itself has no end.
        most: After so many values, and one more, the search ends.
        deepest: The same for levels.

    Raises:
        TypeError: A key is not a string.
        ValueError: A number is too large to be written.

    Example:
        >>> count_values({"type": "array", "items": {"type": "null"}})
        (4, 3)
    """
    count, levels, places = 0, 0, [(schema, 1)]
    while places and count <= most and levels <= deepest:
        value, level = places.pop()
        count, levels = count + 1, max(levels, level)
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise type_error("The keys of `json_schema` must be strings.",
                                     fix="See JSON Schema.", key=key)  # fmt: skip
            places += [(one, level + 1) for one in value.values()]
        elif isinstance(value, (list, tuple)):
            places += [(one, level + 1) for one in value]
        elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise value_error("A number of `json_schema` has more digits than JSON readers take.",
                              fix="Use a smaller one.", bits=value.bit_length())  # fmt: skip
    return count, levels

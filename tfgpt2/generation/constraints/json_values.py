"""What a schema says about its values without any automaton: their types, and what they exclude."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# Words about a schema that forbid no value.
REMARKS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
     "examples", "deprecated", "readOnly", "writeOnly", "discriminator")
)  # fmt: skip


def apart(first: Any, second: Any, resolve: Callable[[Any], Any], depth: int = 4) -> bool:
    """Says whether two schemas surely have no valid value in common.

    They have not if their types or the values they list differ, or if both are objects and need a
    property whose schemas are apart.

    Args:
        first: A schema.
        second: Another one.
        resolve: From a `$ref` to what it points to.
        depth: How many objects inside one another are looked into.

    Example:
        >>> apart({"type": "string"}, {"type": ["integer", "null"]}, {}.get)
        True
    """
    first, second = _followed(first, resolve), _followed(second, resolve)
    if first is False or second is False:
        return True
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    kinds = _kinds(first), _kinds(second)
    if None not in kinds and not kinds[0] & kinds[1]:
        return True
    values = _values(first), _values(second)
    if None not in values and not values[0] & values[1]:
        return True
    if kinds != ({"object"}, {"object"}) or not depth:
        return False
    one, two = _needed(first), _needed(second)
    shared = one.keys() & two.keys()
    return any(apart(one[name], two[name], resolve, depth - 1) for name in shared)


def _followed(schema: Any, resolve: Callable[[Any], Any]) -> Any:
    """A schema behind its references, unless they have company or run in a circle."""
    for _ in range(100):
        if not isinstance(schema, Mapping) or set(schema) - REMARKS != {"$ref"}:
            return schema
        schema = resolve(schema["$ref"])
    return schema


def _needed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Required properties and their schemas."""
    given = schema.get("properties", {})
    return {name: given[name] for name in schema.get("required", ()) if name in given}


def is_a(value: Any, name: str) -> bool:
    """Says whether a value has one of JSON Schema's types."""
    if name in ("integer", "number"):
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        return real and (name == "number" or value == int(value))
    kinds = {"object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return name in kinds and isinstance(value, kinds[name])


def _kinds(schema: Mapping[str, Any]) -> set[str] | None:
    """Types that a schema's values can have, None for not known; an integer is a number."""
    values = _raw_values(schema)
    if values is not None:
        return {name for name in TYPES if name != "integer" and any(is_a(v, name) for v in values)}
    names = schema.get("type")
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    return {"number" if name == "integer" else name for name in names}


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    """Values that a schema lists, in one spelling; None where it lists none."""
    values = _raw_values(schema)
    return None if values is None else {_spelled(value) for value in values}


def _raw_values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _spelled(value: Any) -> str:
    """JSON in which equal values are equal: 1.0 is 1."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return json.dumps(value, sort_keys=True)

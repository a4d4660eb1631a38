"""JSON Schema's types and annotations, and a check that two schemas are disjoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# Keywords that do not restrict the value.
ANNOTATIONS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
     "examples", "deprecated", "readOnly", "writeOnly", "discriminator")
)  # fmt: skip


def has_type(value: Any, name: str) -> bool:
    """Returns whether a value has one of JSON Schema's types."""
    if name in ("integer", "number"):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (name == "number" or value == int(value))
    types = {"object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return name in types and isinstance(value, types[name])


def are_disjoint(first: Any, second: Any, resolve: Callable[[Any], Any], depth: int = 4) -> bool:
    """Returns whether two schemas certainly have no valid value in common.

    They are disjoint if their types or the values they list differ, or if both are objects that
    require a property whose schemas are disjoint.

    Args:
        first: A schema.
        second: Another one.
        resolve: Returns the schema that a `$ref` points to.
        depth: How many levels of objects are compared.

    Example:
        >>> are_disjoint({"type": "string"}, {"type": ["integer", "null"]}, {}.get)
        True
    """
    first, second = dereference(first, resolve), dereference(second, resolve)
    if first is False or second is False:
        return True
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    types = _types_of(first), _types_of(second)
    if None not in types and not types[0] & types[1]:
        return True
    values = _values_of(first), _values_of(second)
    if None not in values and not set(map(_canonical, values[0])) & set(map(_canonical, values[1])):
        return True
    if types != ({"object"}, {"object"}) or not depth:
        return False
    one, two = _required_properties(first), _required_properties(second)
    shared = one.keys() & two.keys()
    return any(are_disjoint(one[name], two[name], resolve, depth - 1) for name in shared)


def dereference(schema: Any, resolve: Callable[[Any], Any]) -> Any:
    """Follows references that stand alone; at most 100, since they may be circular."""
    for _ in range(100):
        if not isinstance(schema, Mapping) or set(schema) - ANNOTATIONS != {"$ref"}:
            return schema
        schema = resolve(schema["$ref"])
    return schema


def _required_properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: properties[name] for name in schema.get("required", ()) if name in properties}


def _types_of(schema: Mapping[str, Any]) -> set[str] | None:
    """Returns the types that valid values can have, None if unknown; an integer is a number."""
    values = _values_of(schema)
    if values is not None:
        names = (name for name in TYPES if name != "integer")
        return {name for name in names if any(has_type(value, name) for value in values)}
    names = schema.get("type")
    if names is None:
        return None
    names = [names] if isinstance(names, str) else names
    return {"number" if name == "integer" else name for name in names}


def _values_of(schema: Mapping[str, Any]) -> list[Any] | None:
    """Returns the values that a schema lists, None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _canonical(value: Any) -> str:
    """Returns JSON text in which equal values are equal: 1.0 is 1."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return json.dumps(value, sort_keys=True)

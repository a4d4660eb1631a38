r"""JSON Schema as languages over bytes: every text of the language is valid under the schema.

Not every valid text is in it: one spelling of each value is enough to write it. So

- whitespace is one optional space after `:` and after `,`, and none elsewhere;
- properties come in the schema's order; a required name that has no schema comes after them;
- without `additionalProperties`, an object that lists `properties` or `required` has no others;
- without `items`, an array with `prefixItems` ends after those;
- a value of any kind nests arrays and objects `ANY_DEPTH` deep; a `$ref` that leads back to itself
  is followed `RECURSION` times more;
- integers have 18 digits at most, numbers 15 before the point and after it; a number with limits
  has 15 in all and no exponent;
- keywords without a `type` speak for the types they are about;
- `pattern` is searched for as the standard says; `\d`, `\w`, `\s` are ASCII; `format` is kept.

A keyword that is not listed here raises; nothing is left out silently.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from tfgpt2.errors import explain, nearest
from tfgpt2.generation.constraints.byte_dfa import ByteAutomaton, both, except_for
from tfgpt2.generation.constraints.byte_nfa import (
    NOTHING,
    Either,
    Literal,
    Machine,
    Node,
    Then,
    compile_node,
)
from tfgpt2.generation.constraints.json_text import (
    COLON,
    FORMATS,
    array_of,
    integer,
    literal,
    number,
    number_between,
    object_of,
    string,
)
from tfgpt2.generation.constraints.json_values import REMARKS, apart, is_a

ANY_DEPTH = 2
RECURSION = 2
_MOST_SCHEMAS = 20_000  # schemas read, references followed
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# The keywords of each type.
_KEYWORDS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": _LIMITS,
    "number": _LIMITS,
    "boolean": (),
    "null": (),
}
_TYPED = frozenset(word for words in _KEYWORDS.values() for word in words)
_JOINING = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const")
_KNOWN = frozenset((*_TYPED, *_JOINING, *REMARKS, "type"))


def schema_automaton(schema: Mapping[str, Any] | bool | str | type) -> ByteAutomaton:
    """Compiles a schema to an automaton of JSON texts, in UTF-8, that are valid under it.

    Supported: `type` (one or a list), `properties`, `required`, `additionalProperties`, `items`,
    `prefixItems`, `minItems`, `maxItems`, `enum`, `const`, `minLength`, `maxLength`, `pattern`,
    `format` (date, time, date-time, uuid, email, ipv4), `minimum`, `maximum`, `exclusiveMinimum`,
    `exclusiveMaximum`, `allOf`, `anyOf`, `oneOf` (branches that cannot both hold), and `$ref`
    inside the schema. What is left open is settled as the module's docstring says.

    Args:
        schema: A schema of draft 2020-12 as a dict, as JSON text, or a class that has
            `model_json_schema()`, as pydantic models do.

    Raises:
        TypeError: It is nothing of that kind.
        ValueError: A keyword is not supported, contradictory or has a wrong value, nothing is
            valid, or the automaton would be too large.

    Example:
        >>> found = schema_automaton({"type": "object", "properties": {"age": {"type": "integer"}}})
        >>> found.matches('{"age": 7}'), found.matches("{}"), found.matches('{"age": "7"}')
        (True, True, False)
    """
    root = read_schema(schema)
    found = compile_node(_Writer(root).node(root, "#"))
    if not found.final.any():
        raise ValueError(
            explain(
                "No value that can be written is valid under the schema.",
                fix="Look for parts that exclude each other; objects list all their properties,"
                " so `allOf` of two different objects leaves nothing.",
                json_schema=schema,
            )
        )
    return found


def read_schema(schema: Any) -> Any:
    """Turns what a user may pass as a schema into Python's own values.

    Raises:
        TypeError: It is no dict, bool, JSON text, or class with `model_json_schema()`.
        ValueError: The text is no JSON.
    """
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise ValueError(
                explain(
                    f"`json_schema` is a string that is no JSON: {error}.",
                    fix="Pass the schema as a dict, or as JSON text.",
                    json_schema=schema,
                )
            ) from error
    if not isinstance(schema, (Mapping, bool)):
        raise TypeError(
            explain(
                "`json_schema` must be a dict, JSON text of one, or a pydantic model class.",
                fix="Pass for example {'type': 'object', 'properties': {...}}.",
                json_schema=schema,
            )
        )
    return schema


class _Writer:
    """Turns schemas into nodes; `at` is the path of a schema, for errors."""

    def __init__(self, root: Any) -> None:
        self.root, self.count = root, 0
        self.followed: list[str] = []  # references that led here

    def node(self, schema: Any, at: str) -> Node:
        """The texts of one schema."""
        self.count += 1
        if self.count > _MOST_SCHEMAS:
            raise _refusal(at, "is too large, with the references followed", "Write it flatter.")
        if schema is False:
            return NOTHING
        if schema is not True and not isinstance(schema, Mapping):
            raise _refusal(at, "must be a dict or a bool", "See JSON Schema.", schema=schema)
        schema = {} if schema is True else schema
        for word in schema:
            if word not in _KNOWN:
                raise _refusal(
                    at, f"has the keyword {word!r}, which is not supported",
                    f"{nearest(str(word), _KNOWN - REMARKS)} Or take it out and check the output"
                    " by yourself.",
                    **{"schema": schema},
                )  # fmt: skip
        parts = [getattr(self, word.strip("$").lower())(schema, at) for word in _JOINING
                 if word in schema]  # fmt: skip
        if "type" in schema or _TYPED & schema.keys():
            if parts and not _TYPED & schema.keys() and self.settled(schema):
                return parts[0]
            parts.append(self.typed(schema, at))
        if not parts:
            return self.anything(ANY_DEPTH)
        if len(parts) == 1:
            return parts[0]
        return Machine(functools.reduce(both, map(compile_node, parts)))

    @staticmethod
    def settled(schema: Mapping[str, Any]) -> bool:
        """An `enum` or `const` that says the type already, and nothing else."""
        words = [word for word in _JOINING if word in schema]
        if len(words) != 1 or words[0] not in ("enum", "const"):
            return False
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        return all(any(is_a(value, name) for name in names) for value in values)

    # Keywords that join schemas; their methods have the keyword's name in small letters.

    def ref(self, schema: Mapping[str, Any], at: str) -> Node:
        name = schema["$ref"]
        target = self.resolve(name, at)
        again = len(self.followed) - len(set(self.followed))
        if name in self.followed and again >= RECURSION:
            return NOTHING
        self.followed.append(name)
        found = self.node(target, name)
        self.followed.pop()
        return found

    def resolve(self, name: Any, at: str) -> Any:
        """What a `$ref` points to."""
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            raise _refusal(at, "has a `$ref` out of itself",
                           "References start with '#/'; copy the other schema into `$defs`.",
                           ref=name)  # fmt: skip
        here = self.root
        for step in name.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                here = here[int(step)] if isinstance(here, list) else here[step]
            except (KeyError, IndexError, TypeError, ValueError):
                raise _refusal(at, "has a `$ref` that leads nowhere",
                               "Add what it names to `$defs`.", ref=name) from None  # fmt: skip
        return here

    def allof(self, schema: Mapping[str, Any], at: str) -> Node:
        nodes = self.branches(schema, "allOf", at)
        if len(nodes) == 1:
            return nodes[0]
        return Machine(functools.reduce(both, map(compile_node, nodes)))

    def anyof(self, schema: Mapping[str, Any], at: str) -> Node:
        return Either(tuple(self.branches(schema, "anyOf", at)))

    def oneof(self, schema: Mapping[str, Any], at: str) -> Node:
        nodes, branches = self.branches(schema, "oneOf", at), schema["oneOf"]
        for second in range(len(branches)):
            for first in range(second):
                if not apart(
                    branches[first], branches[second], lambda name: self.resolve(name, at)
                ):
                    raise _refusal(
                        f"{at}/oneOf", f"has branches, {first} and {second}, that might both hold",
                        "Use `anyOf`, or give the branches different types or a required property"
                        " with different `const`.", oneOf=branches,
                    )  # fmt: skip
        return Either(tuple(nodes))

    def branches(self, schema: Mapping[str, Any], word: str, at: str) -> list[Node]:
        branches = schema[word]
        if not isinstance(branches, list) or not branches:
            raise _refusal(f"{at}/{word}", "must be a list of schemas", "Add one.", value=branches)
        return [self.node(one, f"{at}/{word}/{number}") for number, one in enumerate(branches)]

    def enum(self, schema: Mapping[str, Any], at: str) -> Node:
        values = schema["enum"]
        if not isinstance(values, list) or not values:
            raise _refusal(f"{at}/enum", "must be a list of values", "Add one.", enum=values)
        return Either(tuple(_constant(value, f"{at}/enum") for value in values))

    def const(self, schema: Mapping[str, Any], at: str) -> Node:
        return _constant(schema["const"], f"{at}/const")

    # Types.

    def typed(self, schema: Mapping[str, Any], at: str) -> Node:
        """What `type` and the keywords of types say."""
        words = _TYPED & schema.keys()
        names = schema.get("type", [name for name in _KEYWORDS if words & set(_KEYWORDS[name])])
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or any(n not in _KEYWORDS for n in names):
            raise _refusal(f"{at}/type", f"must be some of {', '.join(_KEYWORDS)}",
                           "Give one, or a list.", type=names)  # fmt: skip
        lost = sorted(words - {word for name in names for word in _KEYWORDS[name]})
        if lost:
            raise _refusal(at, f"has {lost[0]!r}, which says nothing about the type {names}",
                           "Take it out, or mend the type.", schema=schema)  # fmt: skip
        if "number" in names:
            names = [name for name in names if name != "integer"]  # every integer is a number
        return Either(tuple(getattr(self, f"a_{name}")(schema, at) for name in names))

    def a_null(self, schema: Mapping[str, Any], at: str) -> Node:
        return Literal(b"null")

    def a_boolean(self, schema: Mapping[str, Any], at: str) -> Node:
        return Either((Literal(b"true"), Literal(b"false")))

    def a_string(self, schema: Mapping[str, Any], at: str) -> Node:
        pattern, form = schema.get("pattern"), schema.get("format")
        if form is not None and form not in FORMATS:
            raise _refusal(f"{at}/format", f"has the format {form!r}, which is not supported",
                           nearest(str(form), FORMATS), format=form)  # fmt: skip
        least, most = self.counts(schema, "minLength", "maxLength", at)
        try:
            return string(least, most, pattern, form)
        except (TypeError, ValueError) as error:
            raise _refusal(at, f"has a string that cannot be compiled: {error}",
                           "Change `pattern`, `minLength` or `maxLength`.") from error  # fmt: skip

    def a_integer(self, schema: Mapping[str, Any], at: str) -> Node:
        low, high, beyond, below = self.limits(schema, at)
        if low is not None:
            low = int(low.to_integral_value("ROUND_CEILING")) + (beyond and low == int(low))
        if high is not None:
            high = int(high.to_integral_value("ROUND_FLOOR")) - (below and high == int(high))
        return integer(low, high)

    def a_number(self, schema: Mapping[str, Any], at: str) -> Node:
        low, high, beyond, below = self.limits(schema, at)
        if low is None and high is None:
            return number()
        found = number_between(low, high, beyond, below)
        if found is None:
            raise _refusal(at, "has a number whose limits have 15 digits or more before the point",
                           "Use `integer`, or smaller limits.", schema=schema)  # fmt: skip
        return found

    def limits(self, schema: Mapping[str, Any], at: str) -> tuple[Any, Any, bool, bool]:
        """Lower and upper limit, and whether they are excluded."""
        given = {}
        for word in set(_LIMITS) & schema.keys():
            value = schema[word]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
                raise _refusal(f"{at}/{word}", "must be a finite number", "Give one.", value=value)
            given[word] = Decimal(str(value))
        lows = [(given[w], w != "minimum") for w in ("minimum", "exclusiveMinimum") if w in given]
        highs = [(given[w], w == "maximum") for w in ("maximum", "exclusiveMaximum") if w in given]
        low, beyond = max(lows, default=(None, False))
        high, inside = min(highs, default=(None, True))
        return low, high, beyond, not inside

    def counts(
        self, schema: Mapping[str, Any], least: str, most: str, at: str
    ) -> tuple[int, int | None]:
        """Two keywords that count."""
        for word in (least, most):
            value = schema.get(word, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise _refusal(f"{at}/{word}", "must be a natural number", "Use 0 or more.",
                               value=value)  # fmt: skip
        low, high = schema.get(least, 0), schema.get(most)
        if high is not None and low > high:
            raise _refusal(at, f"has {least} above {most}", "Swap them.", schema=schema)
        return low, high

    def a_array(self, schema: Mapping[str, Any], at: str) -> Node:
        first = schema.get("prefixItems", [])
        if not isinstance(first, list) or isinstance(schema.get("items"), list):
            raise _refusal(at, "must have one schema as `items` and a list as `prefixItems`",
                           "Rename a list of `items` to `prefixItems`.", schema=schema)  # fmt: skip
        if schema.get("uniqueItems"):
            raise _refusal(at, "has `uniqueItems`, which is not supported",
                           "Take it out and check the output by yourself.")  # fmt: skip
        nodes = [self.node(one, f"{at}/prefixItems/{n}") for n, one in enumerate(first)]
        rest = NOTHING
        if "items" in schema or "prefixItems" not in schema:
            rest = self.node(schema.get("items", True), f"{at}/items")
        return array_of(nodes, rest, *self.counts(schema, "minItems", "maxItems", at))

    def a_object(self, schema: Mapping[str, Any], at: str) -> Node:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refusal(at, "must have a dict as `properties` and a list as `required`",
                           "See JSON Schema.", schema=schema)  # fmt: skip
        closed = "properties" in schema or "required" in schema
        more = schema.get("additionalProperties", not closed)
        # What a required name without a schema may hold.
        other = schema.get("additionalProperties", True)
        nodes = {
            name: self.node(properties.get(name, other), f"{at}/properties/{name}")
            for name in dict.fromkeys([*properties, *required])
        }
        entries = [(Then((_constant(name, at), COLON, node)), name in required)
                   for name, node in nodes.items()]  # fmt: skip
        extra = None
        if more is not False:
            names = compile_node(Either(tuple(_constant(name, at) for name in nodes)))
            name = Machine(except_for(compile_node(string()), names)) if nodes else string()
            extra = Then((name, COLON, self.node(more, f"{at}/additionalProperties")))
        return object_of(entries, extra)

    def anything(self, depth: int) -> Node:
        """Any value, with `depth` levels of arrays and objects."""
        plain = (Literal(b"null"), self.a_boolean({}, ""), string(), number())
        if not depth:
            return Either(plain)
        inner = self.anything(depth - 1)
        entry = Then((string(), COLON, inner))
        return Either((*plain, array_of([], inner, 0, None), object_of([], entry)))


def _constant(value: Any, at: str) -> Node:
    try:
        return literal(value)
    except (TypeError, ValueError) as error:
        raise _refusal(at, f"holds what JSON cannot write: {error}", "Use JSON's values.",
                       value=value) from error  # fmt: skip


def _refusal(at: str, problem: str, fix: str, **received: Any) -> ValueError:
    return ValueError(explain(f"`json_schema` at {at} {problem}.", fix=fix, **received))

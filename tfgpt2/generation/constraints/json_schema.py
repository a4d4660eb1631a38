r"""Compiles a JSON schema to a DFA; every text it accepts is valid under the schema.

Not every valid text is accepted: one spelling of each value is enough to write it. So

- whitespace is one optional space after `:` and after `,`, and none elsewhere;
- properties come in the schema's order; a required name without a schema comes after them;
- without `additionalProperties`, an object that lists `properties` or `required` has no others;
- without `items`, an array with `prefixItems` ends after those;
- a value of any type nests arrays and objects `ANY_DEPTH` deep; a recursive `$ref` is followed
  `RECURSION` more times;
- integers have at most 18 digits, numbers 15 before and after the point; a number with limits has
  15 in all and no exponent;
- without `type`, keywords imply the types they apply to;
- `pattern` matches anywhere in the string, as the standard says; `\d`, `\w`, `\s` are ASCII;
  `format` is enforced.

Any other keyword raises an error; none is ignored.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from tfgpt2.errors import nearest, value_error
from tfgpt2.generation.constraints.byte_dfa import ByteDFA, complement, intersection
from tfgpt2.generation.constraints.byte_nfa import compile_all_of, compile_expression
from tfgpt2.generation.constraints.expressions import (
    NOTHING,
    Alternation,
    Compiled,
    Concat,
    Expr,
    Literal,
)
from tfgpt2.generation.constraints.json_grammar import (
    BOOLEAN,
    COLON,
    FORMATS,
    anything,
    array,
    constant,
    integer,
    number,
    number_between,
    object_of,
    string,
)
from tfgpt2.generation.constraints.json_types import (
    ANNOTATIONS,
    are_disjoint,
    dereference,
    has_type,
)
from tfgpt2.generation.constraints.schema_input import count_values, load_schema
from tfgpt2.generation.constraints.work import bounded, spend

ANY_DEPTH = 2
RECURSION = 2
_MAX_SCHEMAS = 20_000  # schemas visited, with references followed
_MAX_DEPTH = 64  # of schemas in schemas, with references followed
_SCHEMA_STEPS = 100  # of work, for a schema visited
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_KEYWORDS_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": _LOWER + _UPPER,
    "number": _LOWER + _UPPER,
    "boolean": (),
    "null": (),
}
_TYPE_KEYWORDS = frozenset(word for words in _KEYWORDS_OF_TYPE.values() for word in words)
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const")
_KNOWN = frozenset((*_TYPE_KEYWORDS, *_COMBINING, *ANNOTATIONS, "type"))


@bounded
def compile_json_schema(
    schema: Mapping[str, Any] | bool | str | type,
    special_tokens: Mapping[bytes, int] | None = None,
) -> ByteDFA:
    """Compiles a schema to a DFA of JSON texts, in UTF-8, that are valid under it.

    Supported: `type` (one or a list), `properties`, `required`, `additionalProperties`, `items`,
    `prefixItems`, `minItems`, `maxItems`, `enum`, `const`, `minLength`, `maxLength`, `pattern`,
    `format` (date, time, date-time, uuid, email, ipv4), `minimum`, `maximum`, `exclusiveMinimum`,
    `exclusiveMaximum`, `allOf`, `anyOf`, `oneOf` (disjoint branches), and `$ref` within the
    schema. The module's docstring lists the restrictions on how values are written.

    Args:
        schema: A schema of draft 2020-12 as a dict, as JSON text, or a class that has
            `model_json_schema()`, such as a pydantic model.
        special_tokens: See `byte_nfa.compile_expression`.

    Raises:
        TypeError: It is none of these.
        ValueError: A keyword is not supported, contradictory or has an invalid value, no value is
            valid, or the DFA would be too large.

    Example:
        >>> schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
        >>> dfa = compile_json_schema(schema)
        >>> dfa.matches('{"age": 7}'), dfa.matches("{}"), dfa.matches('{"age": "7"}')
        (True, True, False)
    """
    root = load_schema(schema)
    dfa = compile_expression(_Translator(root).expression(root, "#"), special_tokens)
    if not dfa.accepting.any():
        raise value_error(
            "No value that can be written is valid under the schema.",
            fix="Look for parts that exclude each other; objects list all their properties,"
            " so `allOf` of two different objects leaves nothing.",
            json_schema=schema,
        )
    return dfa


class _Translator:
    """Translates schemas to expressions; `path` is the place of a schema, for errors."""

    def __init__(self, root: Any) -> None:
        self.root, self.count, self.depth = root, 0, 0
        self.references: list[str] = []  # that are being followed

    def expression(self, schema: Any, path: str) -> Expr:
        """Translates a schema."""
        self.count += 1
        spend(_SCHEMA_STEPS)
        if self.depth >= _MAX_DEPTH:
            raise _error(path, f"is nested more than {_MAX_DEPTH} levels deep, with the references"
                         " followed", "Write it flatter.")  # fmt: skip
        self.depth += 1
        expression = self.checked(schema, path)
        self.depth -= 1
        return expression

    def checked(self, schema: Any, path: str) -> Expr:
        """Translates a schema whose keywords are then known."""
        if self.count > _MAX_SCHEMAS:
            raise _error(path, "is too large, with the references followed", "Write it flatter.")
        if schema is False:
            return NOTHING
        if schema is not True and not isinstance(schema, Mapping):
            raise _error(path, "must be a dict or a bool", "See JSON Schema.", schema=schema)
        schema = {} if schema is True else schema
        for word in schema:
            if word not in _KNOWN:
                raise _error(
                    path, f"has the keyword {word!r}, which is not supported",
                    f"{nearest(str(word), _KNOWN - ANNOTATIONS)} Or remove it and check the output"
                    " yourself.", schema=schema,
                )  # fmt: skip
        parts = [getattr(self, word.strip("$").lower())(schema, path) for word in _COMBINING
                 if word in schema]  # fmt: skip
        if "type" in schema or _TYPE_KEYWORDS & schema.keys():
            if parts and not _TYPE_KEYWORDS & schema.keys() and self.implies_type(schema):
                return parts[0]
            parts.append(self.typed(schema, path))
        return _all_of(parts) if parts else anything(ANY_DEPTH)

    @staticmethod
    def implies_type(schema: Mapping[str, Any]) -> bool:
        """Returns whether the only combining keyword lists values that all have the type."""
        words = [word for word in _COMBINING if word in schema]
        if words not in (["enum"], ["const"]):
            return False
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        return all(any(has_type(value, name) for name in names) for value in values)

    # Combining keywords; each method has the keyword's name in lower case.

    def ref(self, schema: Mapping[str, Any], path: str) -> Expr:
        reference = schema["$ref"]
        target = self.resolve(reference, path)
        repeated = len(self.references) - len(set(self.references))
        if reference in self.references and repeated >= RECURSION:
            return NOTHING
        self.references.append(reference)
        expression = self.expression(target, reference)
        self.references.pop()
        return expression

    def resolve(self, reference: Any, path: str) -> Any:
        """Returns the schema that a `$ref` points to."""
        if not isinstance(reference, str) or not f"{reference}/".startswith("#/"):
            raise _error(path, "has a `$ref` to another document",
                         "References start with '#/'; copy the other schema into `$defs`.",
                         ref=reference)  # fmt: skip
        target = self.root
        for step in reference.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(step)] if isinstance(target, list) else target[step]
            except (KeyError, IndexError, TypeError, ValueError):
                raise _error(path, "has a `$ref` whose target does not exist",
                             "Add the target to `$defs`.", ref=reference) from None  # fmt: skip
        return target

    def allof(self, schema: Mapping[str, Any], path: str) -> Expr:
        return _all_of(self.branches(schema, "allOf", path))

    def anyof(self, schema: Mapping[str, Any], path: str) -> Expr:
        return Alternation(tuple(self.branches(schema, "anyOf", path)))

    def oneof(self, schema: Mapping[str, Any], path: str) -> Expr:
        parts, branches = self.branches(schema, "oneOf", path), schema["oneOf"]
        resolve = functools.partial(self.resolve, path=path)
        sizes = [count_values(dereference(one, resolve))[0] for one in branches]
        for (first, one), (second, two) in itertools.combinations(enumerate(branches), 2):
            spend(10 * (1 + sizes[first] + sizes[second]))
            if not are_disjoint(one, two, resolve):
                raise _error(
                    f"{path}/oneOf", f"has branches, {first} and {second}, that may overlap",
                    "Use `anyOf`, or give the branches different types or a required property"
                    " with different `const`.", oneOf=branches,
                )  # fmt: skip
        return Alternation(tuple(parts))

    def branches(self, schema: Mapping[str, Any], word: str, path: str) -> list[Expr]:
        branches = schema[word]
        if not isinstance(branches, list) or not branches:
            raise _error(f"{path}/{word}", "must be a list of schemas", "Add one.", value=branches)
        return [self.expression(one, f"{path}/{word}/{at}") for at, one in enumerate(branches)]

    def enum(self, schema: Mapping[str, Any], path: str) -> Expr:
        values = schema["enum"]
        if not isinstance(values, list) or not values:
            raise _error(f"{path}/enum", "must be a list of values", "Add one.", enum=values)
        return Alternation(tuple(_constant(value, f"{path}/enum") for value in values))

    def const(self, schema: Mapping[str, Any], path: str) -> Expr:
        return _constant(schema["const"], f"{path}/const")

    # Types; each method has the type's name after an underscore.

    def typed(self, schema: Mapping[str, Any], path: str) -> Expr:
        """Translates `type` and the keywords of types."""
        words = _TYPE_KEYWORDS & schema.keys()
        implied = [name for name, own in _KEYWORDS_OF_TYPE.items() if words & set(own)]
        names = schema.get("type", implied)
        names = [names] if isinstance(names, str) else names
        if (not isinstance(names, list) or not names
                or any(name not in tuple(_KEYWORDS_OF_TYPE) for name in names)):  # fmt: skip
            raise _error(f"{path}/type", f"must be some of {', '.join(_KEYWORDS_OF_TYPE)}",
                         "Give one, or a list.", type=names)  # fmt: skip
        other = sorted(words - {word for name in names for word in _KEYWORDS_OF_TYPE[name]})
        if other:
            raise _error(path, f"has {other[0]!r}, which does not apply to the type {names}",
                         "Remove it, or change the type.", schema=schema)  # fmt: skip
        if "number" in names:
            names = [name for name in names if name != "integer"]  # every integer is a number
        return Alternation(tuple(getattr(self, f"_{name}")(schema, path) for name in names))

    def _null(self, schema: Mapping[str, Any], path: str) -> Expr:
        return Literal(b"null")

    def _boolean(self, schema: Mapping[str, Any], path: str) -> Expr:
        return BOOLEAN

    def _string(self, schema: Mapping[str, Any], path: str) -> Expr:
        pattern, format_name = schema.get("pattern"), schema.get("format")
        if format_name is not None and format_name not in tuple(FORMATS):
            raise _error(f"{path}/format", f"has the unsupported format {format_name!r}",
                         nearest(str(format_name), FORMATS), format=format_name)  # fmt: skip
        least, most = self.counts(schema, "minLength", "maxLength", path)
        try:
            return string(least, most, pattern, format_name)
        except (TypeError, ValueError) as error:
            raise _error(path, f"has a string that cannot be compiled: {error}",
                         "Change `pattern`, `minLength` or `maxLength`.") from error  # fmt: skip

    def _integer(self, schema: Mapping[str, Any], path: str) -> Expr:
        low, high, exclude_low, exclude_high = self.limits(schema, path)
        if low is not None:
            low = int(low.to_integral_value("ROUND_CEILING")) + (exclude_low and low == int(low))
        if high is not None:
            high = int(high.to_integral_value("ROUND_FLOOR")) - (exclude_high and high == int(high))
        return integer(low, high)

    def _number(self, schema: Mapping[str, Any], path: str) -> Expr:
        low, high, exclude_low, exclude_high = self.limits(schema, path)
        if low is None and high is None:
            return number()
        expression = number_between(low, high, exclude_low, exclude_high)
        if expression is None:
            raise _error(path, "has a number whose limits have 15 digits or more before the point",
                         "Use `integer`, or smaller limits.", schema=schema)  # fmt: skip
        return expression

    def limits(
        self, schema: Mapping[str, Any], path: str
    ) -> tuple[Decimal | None, Decimal | None, bool, bool]:
        """Returns the lower and upper limit, and whether each is excluded."""
        limits = {}
        for word in schema.keys() & {*_LOWER, *_UPPER}:
            value = schema[word]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
                raise _error(f"{path}/{word}", "must be a finite number", "Give one.", value=value)
            limits[word] = Decimal(str(value))
        lows = [(limits[word], word != "minimum") for word in _LOWER if word in limits]
        highs = [(limits[word], word == "maximum") for word in _UPPER if word in limits]
        low, exclude_low = max(lows, default=(None, False))
        high, include_high = min(highs, default=(None, True))
        return low, high, exclude_low, not include_high

    def counts(
        self, schema: Mapping[str, Any], least: str, most: str, path: str
    ) -> tuple[int, int | None]:
        """Returns the values of two keywords that count."""
        for word in (least, most):
            value = schema.get(word, 0)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise _error(f"{path}/{word}", "must be a non-negative integer", "Use 0 or more.",
                             value=value)  # fmt: skip
        low, high = schema.get(least, 0), schema.get(most)
        if high is not None and low > high:
            raise _error(path, f"has {least} above {most}", "Swap them.", schema=schema)
        return low, high

    def _array(self, schema: Mapping[str, Any], path: str) -> Expr:
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list) or isinstance(schema.get("items"), list):
            raise _error(path, "must have one schema as `items` and a list as `prefixItems`",
                         "Rename a list of `items` to `prefixItems`.", schema=schema)  # fmt: skip
        if schema.get("uniqueItems"):
            raise _error(path, "has `uniqueItems`, which is not supported",
                         "Remove it and check the output yourself.")  # fmt: skip
        parts = [self.expression(one, f"{path}/prefixItems/{at}") for at, one in enumerate(prefix)]
        items = NOTHING
        if "items" in schema or "prefixItems" not in schema:
            items = self.expression(schema.get("items", True), f"{path}/items")
        return array(parts, items, *self.counts(schema, "minItems", "maxItems", path))

    def _object(self, schema: Mapping[str, Any], path: str) -> Expr:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if (not isinstance(properties, Mapping) or not isinstance(required, list)
                or not all(isinstance(name, str) for name in required)):  # fmt: skip
            raise _error(path, "must have a dict as `properties` and a list of names as `required`",
                         "See JSON Schema.", schema=schema)  # fmt: skip
        closed = "properties" in schema or "required" in schema
        additional = schema.get("additionalProperties", not closed)
        # The schema of a required name that has none of its own.
        default = schema.get("additionalProperties", True)
        values = {
            name: self.expression(properties.get(name, default), f"{path}/properties/{name}")
            for name in dict.fromkeys([*properties, *required])
        }
        names = {name: _constant(name, path) for name in values}
        entries = [(Concat((names[name], COLON, value)), name in required)
                   for name, value in values.items()]  # fmt: skip
        if additional is False:
            return object_of(entries, None)
        other_name = string()
        if names:
            known = compile_expression(Alternation(tuple(names.values())))
            other_name = Compiled(intersection(compile_expression(other_name), complement(known)))
        value = self.expression(additional, f"{path}/additionalProperties")
        return object_of(entries, Concat((other_name, COLON, value)))


def _all_of(parts: list[Expr]) -> Expr:
    return parts[0] if len(parts) == 1 else Compiled(compile_all_of(parts))


def _constant(value: Any, path: str) -> Expr:
    try:
        return constant(value)
    except (TypeError, ValueError) as error:
        raise _error(path, f"contains a value that JSON cannot represent: {error}",
                     "Use JSON's values.", value=value) from error  # fmt: skip


def _error(path: str, problem: str, fix: str, **received: Any) -> ValueError:
    return value_error(f"`json_schema` at {path} {problem}.", fix=fix, **received)

"""Constraints that ask for unbounded memory, time or depth end in an error, and fast."""

import functools
import time

import pytest

from tfgpt2.generation.constraints.compile import compile_constraint
from tfgpt2.generation.constraints.json_schema import compile_json_schema
from tfgpt2.generation.constraints.regex import compile_regex


def nested(depth, wrap, inner=None):
    return functools.reduce(lambda schema, _: wrap(schema), range(depth), inner or {"type": "null"})


def in_array(schema, **more):
    return {"type": "array", "items": schema, **more}


def in_object(schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


def chain(length):
    """Definitions that refer to each other in a row, nested nowhere."""
    links = {f"d{n}": in_array({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{length}": {"type": "null"}}}


CIRCLE = {"type": "array"}
CIRCLE["items"] = CIRCLE
DOUBLED = nested(60, lambda schema: {"anyOf": [schema, schema]})  # few dicts, 2 ** 60 paths
SCHEMAS = {
    "maxItems": (in_array({"type": "null"}, maxItems=10**12), "too large"),
    "minItems": (in_array({"type": "null"}, minItems=10**12), "too large"),
    "items in items": (nested(9, functools.partial(in_array, maxItems=9)), "too large"),
    "minLength": ({"type": "string", "minLength": 10**15}, "too large"),
    "arrays 200 deep": (nested(200, in_array), "too large.*128 levels"),
    "objects 200 deep": (nested(200, in_object), "too large.*128 levels"),
    "arrays 100 deep": (nested(100, in_array), "nested more than 64 levels"),
    "100,000 deep": (nested(100_000, in_array), "too large.*128 levels"),
    "allOf 100 deep": (nested(100, lambda schema: {"allOf": [schema]}), "too large|nested"),
    "a value 200 deep": ({"const": nested(200, lambda one: [one])}, "too large.*128 levels"),
    "references 300 deep": (chain(300), "nested more than 64 levels"),
    "a circle": (CIRCLE, "too large.*128 levels"),
    "shared parts": (DOUBLED, "too large"),
    "JSON text": ('{"items":' * 100_000 + "{}" + "}" * 100_000, "not valid JSON"),
    "oneOf": ({"oneOf": [{"const": n} for n in range(9_000)]}, "too large"),
    "oneOf of lists": ({"oneOf": [{"enum": list(range(n * 40, n * 40 + 40))} for n in range(900)]},
                       "too large"),
    "enum": ({"enum": [f"value {n}" for n in range(300_000)]}, "too large"),
    "patterns": ({"properties": {f"p{n}": {"type": "string", "pattern": "a.{5}b", "maxLength": 40}
                                 for n in range(300)}}, "too large"),
    "other names": (in_array({"anyOf": [{"properties": {f"{n}": {}, "b": {}},
                                         "additionalProperties": True} for n in range(3_000)]}),
                    "too large"),
    "a large limit": ({"type": "number", "minimum": 10**5000}, "more digits than"),
}  # fmt: skip


SLOW = {"oneOf", "oneOf of lists", "other names"}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in SCHEMAS
])  # fmt: skip
def test_schemas(name):
    schema, message = SCHEMAS[name]
    begin = time.process_time()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        compile_constraint([b"a"], json_schema=schema)
    assert time.process_time() - begin < 15


@pytest.mark.parametrize("pattern", [
    "(?:a{1,30000}){1,30000}", "a{4000000000}", "(?:a|b){100000}", "(a" * 400 + ")" * 400,
    "(?:a" * 330 + ")*" * 330,
    pytest.param("(?i)" + "".join(f"[{chr(n)}a]" for n in range(0x4E00, 0x5200)),
                 marks=pytest.mark.long),
])  # fmt: skip
def test_patterns(pattern):
    begin = time.process_time()
    with pytest.raises(ValueError, match="Received|too large|too deeply"):
        compile_regex(pattern)
    assert time.process_time() - begin < 15


def test_a_caller_that_is_deep_in_the_stack():
    def deeper(levels):
        return deeper(levels - 1) if levels else compile_json_schema(nested(60, in_object))

    assert deeper(0).matches('{"a":' * 60 + "null" + "}" * 60)
    with pytest.raises(ValueError, match="nested too deeply"):
        deeper(700)


@pytest.mark.parametrize("schema", [
    {"required": [["a"]]}, {"required": [1]}, {"type": [["null"]]}, {"type": 5}, {1: 2},
    {"type": "string", "format": ["date"]}, {"properties": {1: {}}}, {"properties": 5},
    {"type": "array", "maxItems": 1e30}, {"type": "array", "minItems": True},
])  # fmt: skip
def test_values_of_the_wrong_kind(schema):
    with pytest.raises((TypeError, ValueError), match="Received: "):
        compile_json_schema(schema)

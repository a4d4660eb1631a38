"""DFAs of JSON schemas against `json` and the `jsonschema` package."""

import datetime
import decimal
import functools
import itertools
import json
from decimal import Decimal

import jsonschema
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.dfa_walks import random_texts
from tfgpt2.generation.constraints.byte_nfa import compile_expression
from tfgpt2.generation.constraints.json_grammar import integer, number_between
from tfgpt2.generation.constraints.json_schema import compile_json_schema

VALIDATOR = jsonschema.Draft202012Validator
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b\"\\", "é"]}, "maxItems": 3},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}  # fmt: skip
TREE = {
    "$defs": {"node": {"type": "object", "required": ["value"], "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}},
    "$ref": "#/$defs/node",
}  # fmt: skip
SHAPES = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": kind}, size: {"type": "number"}},
         "required": ["kind", size]} for kind, size in [("circle", "radius"), ("square", "side")]
    ]
}  # fmt: skip
SCHEMAS = {
    "person": PERSON,
    "tree": TREE,
    "shapes": SHAPES,
    "anything": {},
    "true": True,
    "any object": {"type": "object"},
    "any array": {"type": "array", "maxItems": 3},
    "open object": {"type": "object", "properties": {"a": {"type": "null"}, "b": {}},
                    "required": ["b", "c"], "additionalProperties": {"type": "boolean"}},
    "optional only": {"type": "object", "additionalProperties": False, "properties": {
        "a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}},
    "empty": {"type": "object", "additionalProperties": False, "properties": {}},
    "string": {"type": "string"},
    "pattern": {"type": "string", "pattern": r"^[\w\"\\]+\s\d$"},
    "search": {"type": "string", "pattern": r"b\d|^x\W", "maxLength": 6},
    "pattern, long": {"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 9},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 2},
    "positive": {"type": "number", "exclusiveMinimum": 0},
    "percent": {"type": "number", "minimum": -2.5, "exclusiveMaximum": 99.95},
    "integers": {"type": "integer", "exclusiveMinimum": -7.5, "exclusiveMaximum": 12},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}],
              "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple, open end": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]},
    "closed tuple": {"prefixItems": [{"const": 1}], "items": False},
    "types": {"type": ["integer", "null", "boolean"]},
    "enum": {"enum": ["yes", 1, 1.5, None, True, {"a": [1, 2]}, "tab\t€"]},
    "enum of a type": {"enum": ["yes", 1, None], "type": ["string", "null"]},
    "const": {"const": [1, {"b": "c"}]},
    "anyOf": {"anyOf": [{"type": "string", "maxLength": 2}, {"$ref": "#/$defs/n"}],
              "$defs": {"n": {"type": "number", "maximum": 10}}},
    "allOf": {"allOf": [{"type": "string", "minLength": 2}, {"pattern": "^a"}], "maxLength": 4},
    "nested": {"type": "array", "maxItems": 2, "items": PERSON},
    **{form: {"type": "string", "format": form}
       for form in ("date", "time", "date-time", "uuid", "email", "ipv4")},
}  # fmt: skip


@functools.lru_cache
def compile_case(name):
    return compile_json_schema(SCHEMAS[name])


def is_valid(schema, value):
    return VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).is_valid(value)


def loads(text):
    """Parses JSON and fails on NaN and Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("name", SCHEMAS)
def test_accepted_texts_are_valid(name):
    schema = SCHEMAS[name]
    VALIDATOR.check_schema(schema)
    for text in random_texts(compile_case(name), seed=1, count=25, longest=120):
        assert is_valid(schema, loads(text.decode())), text


VALUES = [
    None, True, False, 0, 1, -7, -8, 11, 12, 150, 151, 0.5, -2.5, 99.95, 99.94, 1.5, 0.0001, "",
    "a", "2024-02-29", {"a": None, "b": [], "c": True}, {"b": 0, "c": True, "d": False, "e": True},
    "ab", "abab", "ababa", "é€😀", "yes", 'a"\\ 1', "x!", "xb1", "b1b1b1b", "tab\t€", [], [1],
    [1, None], [1, None, True], [1, None, True, False, True], [1.5, -2], {}, {"a": None},
    {"a": None, "c": None}, {"b": None}, {"b": 1, "c": 2}, {"a": [1, 2]}, [1, {"b": "c"}],
    {"name": "x", "age": 1}, {"name": "", "age": 1}, {"name": "x", "age": 151}, {"name": "x"},
    {"name": "x", "age": 0, "tags": []}, {"name": "x", "age": 3, "tags": ["a", 'b"\\', "é"]},
    {"name": "x", "age": 3, "tags": ["a"] * 4}, {"name": "x", "age": 3, "born": "2024-02-29"},
    {"name": "x", "age": 3, "born": "2023-02-29"}, {"name": "x", "age": 3, "email": "a@b.org"},
    {"kind": "circle", "radius": 2}, {"kind": "square", "radius": 2}, {"value": 1},
    {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}, {"value": 4}]},
    {"value": 1, "children": [{}]}, "2024-01-01T10:00:00Z", "10:00:00+01:00", "10:00", "25:00:00Z",
    "127.0.0.1", "256.0.0.1", "123e4567-e89b-12d3-a456-426614174000", "a@b.org", "2100-02-29",
]  # fmt: skip
# Some valid values are not accepted: see the docstring of `json_schema`.
PARTIAL = {"any object", "open object", "shapes", "tree", "tuple, open end", "closed tuple",
           "time", "anything", "true"}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_valid_values_are_accepted(name, separators):
    schema, dfa = SCHEMAS[name], compile_case(name)
    accepted = 0
    for value in VALUES:
        text = json.dumps(value, ensure_ascii=False, separators=separators)
        if dfa.matches(text):
            accepted += 1
            assert is_valid(schema, value), value
        elif name not in PARTIAL:
            assert not is_valid(schema, value), value
    assert accepted or name in ("pattern", "nested", "numbers")


def test_other_spellings_are_not_accepted():
    dfa = compile_json_schema({})
    for text in [
        ' {"a":1}', '{"a":  1}', '{"a" :1}', '"\\u0061"', '"\\/"', '"\n"', "01", "+1", "1.", ".5",
        "[1,]", "{'a':1}", "NaN", '"\\x"', '"a', "tru", "nulll", "1e5.0",
    ]:  # fmt: skip
        assert not dfa.matches(text), text


def test_characters_are_escaped_as_in_json():
    dfa = compile_json_schema({"type": "string"})
    for point in [*range(0x300), 0x2028, 0xFFFF, 0x1F600, 0x10FFFF]:
        text = json.dumps(chr(point), ensure_ascii=False)
        assert dfa.matches(text), text
        assert dfa.matches(f'"{chr(point)}"') == (text == f'"{chr(point)}"')


def test_dates_follow_the_calendar():
    dfa = compile_json_schema({"type": "string", "format": "date"})
    for year in [0, 1, 4, 99, 100, 400, 1900, 1996, *range(1999, 2030), 2096, 2100, 2400, 9999]:
        for month, day in itertools.product(range(14), (0, 1, 28, 29, 30, 31, 32)):
            text = f"{year:04}-{month:02}-{day:02}"
            try:
                datetime.date.fromisoformat(text)
                expected = True
            except ValueError:
                expected = False
            assert dfa.matches(f'"{text}"') == expected, text


NUMBERS = st.decimals(-2000, 2000, places=3) | st.integers(-2000, 2000).map(Decimal)


@QUICK
@given(NUMBERS, NUMBERS, st.booleans(), st.booleans(), st.lists(NUMBERS, min_size=20, max_size=20))
def test_limits_of_numbers(low, high, exclude_low, exclude_high, values):
    dfa = compile_expression(number_between(low, high, exclude_low, exclude_high))
    for value in [
        *values,
        low,
        high,
        low + Decimal("0.001"),
        high - Decimal("0.001"),
        (low + high) / 2,
    ]:
        text = f"{value:f}"
        inside = (value > low if exclude_low else value >= low) and (
            value < high if exclude_high else value <= high
        )
        # "-0" is not accepted.
        assert dfa.matches(text) == (inside and text.strip("0.") != "-"), text


@QUICK
@given(st.integers(-(10**6), 10**6) | st.none(), st.integers(-(10**6), 10**6) | st.none(),
       st.lists(st.integers(-(10**6) - 9, 10**6 + 9), min_size=20, max_size=20))  # fmt: skip
def test_limits_of_integers(low, high, values):
    dfa = compile_expression(integer(low, high))
    for value in [*values, *(edge + step for edge in (low, high) if edge is not None
                             for step in (-1, 0, 1))]:  # fmt: skip
        inside = (low is None or value >= low) and (high is None or value <= high)
        assert dfa.matches(str(value)) == inside


LEAVES = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 5)),
    st.builds(lambda low, high: {"type": "integer", "minimum": low, "maximum": low + high},
              st.integers(-99, 99), st.integers(0, 300)),
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": "number", "minimum": 0.25},
                     {"type": "string", "pattern": "^[a-c]+$"}, {"enum": [1, "é", None]},
                     {"type": "string", "format": "date"}, {"const": "x"}]),
)  # fmt: skip


def compose(inner):
    return st.one_of(
        st.builds(lambda one, low, more: {"type": "array", "items": one, "minItems": low,
                                          "maxItems": low + more},
                  inner, st.integers(0, 2), st.integers(0, 2)),
        st.builds(lambda ones: {"type": "array", "prefixItems": ones, "items": False},
                  st.lists(inner, max_size=3, min_size=1)),
        st.builds(lambda ones: {"anyOf": ones}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda given, closed, cut: {"type": "object", "properties": given,
                                              "required": list(given)[:cut],
                                              "additionalProperties": closed},
                  st.dictionaries(st.sampled_from(["a", "b b", 'q"', "é"]), inner, max_size=3),
                  st.just(False) | inner, st.integers(0, 3)),
    )  # fmt: skip


RANDOM_SCHEMA = (st.recursive(LEAVES, compose, max_leaves=6), st.integers(0, 2**31))


@QUICK
@given(*RANDOM_SCHEMA)
def test_random_schemas(schema, seed):
    check_random_schema(schema, seed)


@pytest.mark.long
@settings(QUICK, max_examples=200)
@given(*RANDOM_SCHEMA)
def test_many_random_schemas(schema, seed):
    check_random_schema(schema, seed)


def check_random_schema(schema, seed):
    dfa = compile_json_schema(schema)
    for text in random_texts(dfa, seed, count=8, longest=80):
        assert is_valid(schema, loads(text.decode())), text


def test_pydantic_model_and_json_text():
    class Item(pydantic.BaseModel):
        sku: str = pydantic.Field(pattern=r"^[A-Z]{2}\d{3}$")
        price: float = pydantic.Field(gt=0, le=999.5)

    class Order(pydantic.BaseModel):
        """An order."""

        who: str = pydantic.Field(min_length=1, max_length=12)
        items: list[Item] = pydantic.Field(min_length=1, max_length=3)
        note: str | None = None
        pair: tuple[int, bool]

    dfa = compile_json_schema(Order)
    for text in random_texts(dfa, seed=2, count=40, longest=200):
        Order.model_validate_json(text)
    order = Order(who="é", items=[Item(sku="AB123", price=999.5)], note=None, pair=(1, True))
    assert dfa.matches(order.model_dump_json())
    same = compile_json_schema(json.dumps(Order.model_json_schema()))
    assert (same.next_state == dfa.next_state).all()


def test_annotations_are_ignored():
    plain = compile_json_schema({"type": "integer"})
    annotated = compile_json_schema(
        {"type": "integer", "title": "T", "description": "d", "default": 1, "examples": [1],
         "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "c"}
    )  # fmt: skip
    assert (plain.next_state == annotated.next_state).all()


def test_recursion_is_bounded():
    dfa = compile_json_schema(TREE)
    text = '{"value":0}'
    depths = []
    for _ in range(6):
        depths.append(dfa.matches(text))
        text = f'{{"value":0,"children":[{text}]}}'
    assert depths == [True, True, True, False, False, False]
    with pytest.raises(ValueError, match="No value"):  # endless
        compile_json_schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1})


@pytest.mark.parametrize(("schema", "words"), [
    ({"type": "string", "minlength": 3}, "at # has the keyword 'minlength'.*'minLength'"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {}}, "'contains'"),
    ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
    ({"not": {}}, "'not'"), ({"if": {}}, "'if'"),
    ({"type": "integer", "multipleOf": 2}, "multipleOf"),
    ({"type": "string", "format": "hostname"}, "the unsupported format 'hostname'"),
    ({"type": "integer", "minLength": 3}, "'minLength', which does not apply to the type"),
    ({"type": "text"}, "#/type must be some of"), ({"type": []}, "#/type"),
    ({"properties": {"a": {"type": "array", "items": {"type": "x"}}}}, "#/properties/a/items/type"),
    ({"$ref": "#/$defs/x"}, "does not exist"), ({"$ref": "other.json"}, "another document"),
    ({"type": "array", "items": [{}]}, "prefixItems"), ({"enum": []}, "#/enum"),
    ({"const": float("nan")}, "JSON cannot represent"), ({"anyOf": []}, "#/anyOf must be a list"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "may overlap"),
    ({"oneOf": [{"const": 1}, {"enum": [1.0]}]}, "may overlap"),
    ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "may overlap"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength above maxLength"),
    ({"type": "string", "minLength": -1}, "non-negative integer"),
    ({"type": "integer", "minimum": "1"}, "finite number"),
    ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
    ({"type": "number", "maximum": 1e18}, "15 digits"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "No value"), (False, "No value"),
    ({"type": "string", "enum": [1]}, "No value"), ("{", "not valid JSON"),
    ({"properties": {"a": 1}}, "a must be a dict or a bool"),
    ({"type": "array", "maxItems": 5000, "items": PERSON}, "too large"),
    ({"type": "string", "maxLength": 10**9}, "too large"),
])  # fmt: skip
def test_unsupported_and_invalid_schemas_are_named(schema, words):
    with pytest.raises(ValueError, match=words):
        compile_json_schema(schema)


def test_schema_must_be_a_dict():
    with pytest.raises(TypeError, match="must be a dict"):
        compile_json_schema(3)


def test_oneof_of_disjoint_branches():
    dfa = compile_json_schema(SHAPES)
    assert dfa.matches('{"kind": "square", "side": 2}')
    assert compile_json_schema({"oneOf": [{"type": "null"}, {"type": "string"}]}).matches("null")


def test_circular_references():
    with pytest.raises(ValueError, match="No value"):
        compile_json_schema({"$ref": "#"})
    many = {f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{m}"} for m in range(9)]}
            for n in range(9)}  # fmt: skip
    with pytest.raises(ValueError, match="too large"):
        compile_json_schema({"$defs": many, "$ref": "#/$defs/d0"})


def test_limits_do_not_depend_on_the_decimal_context():
    with decimal.localcontext() as context:
        context.prec = 2
        dfa = compile_json_schema({"type": "number", "minimum": 123.456, "maximum": 123.458})
    assert dfa.matches("123.457") and not dfa.matches("123.455")

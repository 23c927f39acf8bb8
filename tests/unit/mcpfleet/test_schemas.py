"""Comparison of schemas: what it calls compatible is so, by an independent validator."""

import copy

import jsonschema
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mcpfleet.schemas import canonical, find_rejected

NAMES = ["a", "b", "c"]
SCALARS = st.none() | st.booleans() | st.integers(-2, 4) | st.sampled_from([0.5, 1.0, "", "x", "xy"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["null", "boolean", "object", "array", "string", "integer", "number"])
NUMBERS = st.integers(-1, 3)


def some_keywords(inner):
    """Schemas of a few keywords: with many at once, nearly no value is valid."""
    keywords = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(SCALARS, min_size=1, max_size=3),
        "const": SCALARS,
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.integers(1, 4),
        "minLength": st.integers(0, 2),
        "maxLength": st.integers(0, 2),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "maxProperties": st.integers(0, 3),
        "pattern": st.sampled_from(["x", "^y"]),
        "description": st.sampled_from(["", "text"]),
        "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        "patternProperties": st.dictionaries(st.sampled_from(["a", "[bc]"]), inner, max_size=1),
        "additionalProperties": inner,
        "propertyNames": inner,
        "items": inner,
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "contains": inner,
        "minContains": st.integers(0, 2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=1),
        "unevaluatedProperties": st.booleans(),
    }
    return st.lists(st.sampled_from([*keywords]), max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({key: keywords[key] for key in chosen})
    )


SCHEMAS = st.recursive(
    st.booleans() | some_keywords(st.booleans()) | st.just({"$ref": "#/$defs/shared"}), some_keywords, max_leaves=6
)
ROOTS = st.tuples(SCHEMAS, SCHEMAS).map(
    lambda pair: {**(pair[0] if isinstance(pair[0], dict) else {}), "$defs": {"shared": pair[1]}}
)


@st.composite
def changes(draw):
    """Two schemas, of which the second often is the first with a part changed."""
    first = draw(ROOTS)
    if draw(st.booleans()):
        return first, draw(ROOTS)
    second = copy.deepcopy(first)
    node = second
    for _ in range(draw(st.integers(0, 4))):
        children = [
            child
            for child in (node.values() if isinstance(node, dict) else node)
            if child and isinstance(child, (dict, list))
        ]
        if not children:
            break
        node = draw(st.sampled_from(children))
    if isinstance(node, dict):
        for key in draw(st.lists(st.sampled_from([*node] or ["type"]), max_size=2)):
            node.pop(key, None)
        node.update(draw(some_keywords(st.booleans())))
    elif draw(st.booleans()):
        node.append(draw(SCALARS | SCHEMAS))
    second["$defs"] = second["$defs"] if second.get("$defs") else {"shared": True}
    return first, second


def is_schema(schema):
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError):
        return False
    return True


def is_valid(value, schema):
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(value)
    except RecursionError:  # a schema that refers to itself, which no value fits
        return False


def is_declared(value, schemas, root):
    """Whether each property in a value is one that the schemas of its place declare or allow explicitly."""
    parts, pending = [], [*schemas]
    while pending:
        schema = pending.pop()
        if not isinstance(schema, dict) or any(schema is part for part in parts):
            continue
        parts.append(schema)
        for key in ("allOf", "anyOf", "oneOf"):
            pending += schema.get(key, [])
        pending += [schema.get(key) for key in ("if", "then", "else", "not")]
        pending += schema.get("dependentSchemas", {}).values()
        pending += [root["$defs"].get("shared")] if "$ref" in schema else []
    if isinstance(value, list):
        children = [part.get("items") for part in parts] + [x for part in parts for x in part.get("prefixItems", [])]
        children += [part.get("contains") for part in parts]
        return all(is_declared(item, children, root) for item in value)
    if not isinstance(value, dict):
        return True
    for name, item in value.items():
        here = [part["properties"][name] for part in parts if name in part.get("properties", {})]
        others = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
        others += [schema for part in parts for schema in part.get("patternProperties", {}).values()]
        if not (here or others) or not is_declared(item, here + others, root):
            return False
    return True


@settings(max_examples=200, deadline=None)
@given(changes(), st.lists(VALUES, min_size=5, max_size=12))
@example(
    ({"anyOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": True}}], "$defs": {}},
     {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "$defs": {}}),
    [{"b": "x"}],
)  # fmt: skip
def test_a_schema_that_is_called_compatible_accepts_every_value_that_the_first_declares(pair, values):
    first, second = pair
    assume(is_schema(first) and is_schema(second))
    if find_rejected(first, second):
        return
    for value in values:
        if is_valid(value, first) and is_declared(value, [first], first):
            assert is_valid(value, second)


@settings(max_examples=50, deadline=None)
@given(ROOTS)
def test_a_schema_is_compatible_with_itself_and_with_one_that_accepts_everything(schema):
    assert find_rejected(schema, copy.deepcopy(schema)) == []
    assert find_rejected(schema, True) == []
    assert find_rejected(schema, {"description": "anything"}) == []


KEYS = st.sampled_from(
    ["$ref", "allOf", "anyOf", "oneOf", "type", "enum", "properties", "items", "required", "minimum", "if", "#"]
)
REFERENCES = st.sampled_from(["#", "#/properties", "#/allOf/0", "#/anyOf"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner | REFERENCES, max_size=4),
    max_leaves=15,
)


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_no_value_in_the_place_of_a_schema_makes_the_comparison_raise(first, second):
    for removed in (True, False):
        assert isinstance(find_rejected(first, second, reports_removed=removed), list)


def nested(depth, schema):
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def bomb(last, width=30):
    """A schema with 2 to the power of *width* branches, by references."""
    steps = {
        f"s{index}": {"anyOf": [{"$ref": f"#/$defs/s{index + 1}", "minimum": n} for n in range(2)]}
        for index in range(width)
    }
    return {"$ref": "#/$defs/s0", "$defs": {**steps, f"s{width}": last}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nested(150, {"type": "string"}), nested(150, {"type": "integer"})),
        (bomb({"type": "string"}), bomb({"type": "integer"})),
        ({"$ref": "#"}, {"$ref": "#", "type": "string"}),
        ({"type": "object"}, {"anyOf": [{"$ref": "#"}, {"type": "string"}]}),
        ({"maximum": 10**400}, {"minimum": 10**400}),
    ],
    ids=["deep", "bomb", "self-reference", "recursive union", "huge numbers"],
)
def test_a_hostile_schema_is_reported_as_different_in_bounded_time(first, second):
    assert find_rejected(first, second)


def argument(schema, *required):
    return {"type": "object", "properties": {"a": schema}, "required": [*required]}


NODE = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}}
LIST = {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}
WIDER = {"$ref": "#/$defs/Node", "$defs": {"Node": {**NODE, "properties": {**NODE["properties"], "note": {}}}}}
CIRCLE = {"type": "object", "properties": {"kind": {"const": "circle"}}, "required": ["kind"]}
SQUARE = {"type": "object", "properties": {"kind": {"const": "square"}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"type": "integer"}, {"type": "number"}),
        ({"type": "string"}, {"type": ["string", "null"]}),
        ({"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": ["null", "string"]}),
        ({"enum": ["a", "b"]}, {"enum": ["b", "c", "a"]}),
        ({"enum": ["a", "b"]}, {"type": "string"}),
        ({"enum": [1]}, {"enum": [1.0]}),
        ({"enum": ["a", "b"]}, {"oneOf": [{"const": "a"}, {"const": "b"}, {"const": "c"}]}),
        ({"type": "integer", "minimum": 2}, {"type": "integer", "minimum": 1}),
        ({"type": "integer", "exclusiveMinimum": 2}, {"type": "integer", "minimum": 2}),
        (argument({"type": "string"}, "a"), argument({"type": "string"})),
        (argument({}), {"type": "object", "properties": {"a": {}, "b": {"type": "string"}}}),
        ({"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "number"}}),
        (argument({"type": "string"}), {**argument({"$ref": "#/$defs/A"}), "$defs": {"A": {"type": "string"}}}),
        (argument({}), {**argument({}), "additionalProperties": False}),
        ({**argument({}), "additionalProperties": False}, argument({})),
        (LIST, WIDER),
        ({"oneOf": [CIRCLE]}, {"oneOf": [CIRCLE, SQUARE]}),
    ],
)  # fmt: skip
def test_a_wider_schema_is_compatible(first, second):
    assert find_rejected(first, second, reports_removed=True) == []


@pytest.mark.parametrize(
    ("first", "second", "path", "text"),
    [
        ({"type": "number"}, {"type": "integer"}, "", "the type number"),
        ({}, {"type": "object"}, "", "the type string"),
        (argument({"type": ["string", "null"]}), argument({"type": "string"}), "a", "the type null"),
        (argument({"enum": ["a", "b"]}), argument({"enum": ["a"]}), "a", "the value b"),
        (argument({"type": "string"}), argument({"enum": ["a"]}), "a", "values that are not in its list"),
        ({"enum": [1]}, {"enum": [True]}, "", "the value 1"),
        (argument({}), argument({}, "a"), "", "objects without a"),
        (argument({}), {"type": "object", "properties": {"b": {}}}, "a", "it is removed"),
        (argument({}), {"type": "object", "additionalProperties": False}, "a", "any value"),
        (argument(argument({})), argument({"type": "object", "properties": {}}), "a.a", "it is removed"),
        (argument({"items": {}}), argument({"items": {"type": "string"}}), "a[]", "the type integer"),
        ({"type": "integer"}, {"type": "integer", "minimum": 3}, "", "numbers below 3"),
        ({"minimum": 3}, {"exclusiveMinimum": 3}, "", "numbers below or equal to 3"),
        ({"type": "string", "maxLength": 9}, {"type": "string", "maxLength": 8}, "", "lengths above 8"),
        ({}, {"pattern": "^a"}, "", "values that the keyword pattern excludes"),
        ({"format": "uri"}, {"format": "email"}, "", "values that the keyword format excludes"),
        ({}, {"$ref": "https://x/y"}, "", "values that https://x/y excludes, which cannot be read"),
        ({"type": "object", "additionalProperties": True}, argument({"type": "null"}), "a", "the type string"),
        (WIDER, LIST, "next.note", "it is removed"),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}]}, "", "the type null"),
        ({"oneOf": [CIRCLE, SQUARE]}, {"oneOf": [CIRCLE]}, "", "the type object"),
        ({"oneOf": [CIRCLE]}, {"oneOf": [CIRCLE, {}]}, "", "values that more than one branch of oneOf accepts"),
    ],
)  # fmt: skip
def test_what_a_narrower_schema_rejects_is_reported_with_its_place(first, second, path, text):
    differences = find_rejected(first, second, reports_removed=True)
    assert (path, text) in [(difference.path, difference.text) for difference in differences]


@given(JSON)
def test_the_order_of_keys_does_not_change_the_canonical_text(value):
    def reverse(item):
        if isinstance(item, dict):
            return {key: reverse(item[key]) for key in reversed([*item])}
        return [reverse(part) for part in item] if isinstance(item, list) else item

    assert canonical(reverse(value)) == canonical(value)

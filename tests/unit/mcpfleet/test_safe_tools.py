"""Which tools we call by ourselves: those that say that they only read, with nothing made up."""

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpfleet.tools import find_safe_tool, is_repeatable, schema_arguments

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["true", "object", "string", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "type", "const", "default", "enum", "examples", "readOnlyHint"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
SCHEMAS = st.dictionaries(
    st.sampled_from(["type", "properties", "required", "enum", "anyOf", "title", "$ref", "not", "minProperties"]),
    JSON,
    max_size=5,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b"]) | st.text(max_size=5) | JSON},
        optional={
            "inputSchema": SCHEMAS | JSON,
            "annotations": JSON | st.fixed_dictionaries({"readOnlyHint": JSON | st.just(True)}),
        },
    ),
    max_size=4,
)


@settings(derandomize=True, max_examples=300)
@given(TOOLS)
def test_only_tools_with_a_boolean_read_only_hint_are_called(tools):
    result = find_safe_tool(tools)
    if result is not None:
        (annotations,) = (tool["annotations"] for tool in tools if tool["name"] == result[0])
        assert annotations["readOnlyHint"] is True


@settings(derandomize=True, max_examples=300)
@given(SCHEMAS | JSON)
@example({"properties": None, "required": ["a"]})
@example({"properties": ["a"], "required": ["a"]})
@example({"properties": {}, "required": 5})
@example({"properties": {}, "required": [["a"]]})
def test_no_schema_makes_the_selection_of_arguments_raise(schema):
    result = schema_arguments(schema)
    assert result is None or isinstance(result, dict)


ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean"])},
        optional={
            "const": st.just("const"),
            "default": st.just("default"),
            "enum": st.just(["enum", "other"]),
            "examples": st.just(["example", "other"]),
            "minimum": st.integers(-9, 9),
        },
    ),
)


@settings(derandomize=True, max_examples=300)
@given(ARGUMENTS, st.data())
def test_every_argument_comes_from_the_schema(properties, data):
    names = data.draw(st.lists(st.sampled_from([*properties, "unknown"]), unique=True))
    result = schema_arguments({"type": "object", "properties": properties, "required": names})
    given_for = {name: item.keys() & {"const", "default", "enum", "examples"} for name, item in properties.items()}
    assert (result is None) == any(not given_for.get(name) for name in names)
    assert set((result or {}).values()) <= {"const", "default", "enum", "example"}


def test_arguments_are_valid_if_the_schemas_examples_are():
    properties = {
        "unit": {"enum": ["m", "km"]},
        "value": {"type": "number", "examples": [1.5]},
        "note": {"default": ""},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    result = schema_arguments(schema)
    assert result == {"unit": "m", "value": 1.5, "note": ""}
    jsonschema.validate(result, schema)


@pytest.mark.parametrize("keywords", [{"anyOf": [{"required": ["a"]}]}, {"minProperties": 1}, {"$ref": "#/$defs/x"}])
def test_a_schema_with_conditions_between_arguments_yields_no_arguments(keywords):
    assert schema_arguments({"type": "object", **keywords}) is None


def tool(name, hints=None, required=()):
    schema = {"type": "object", "properties": {item: {"type": "string"} for item in required}, "required": [*required]}
    return {"name": name, "inputSchema": schema, **({"annotations": hints} if hints is not None else {})}


READS = {"readOnlyHint": True}


@pytest.mark.parametrize(
    ("tools", "chosen"),
    [
        ([tool("write"), tool("read", READS)], "read"),
        ([tool("query", READS, ["filter"]), tool("first", READS), tool("second", READS)], "first"),
        ([tool("write")], None),
        ([tool("write", {})], None),
        ([tool("add", {"destructiveHint": False})], None),
        ([tool("set", {"idempotentHint": True, "destructiveHint": False})], None),
        *(([tool("sloppy", {"readOnlyHint": said})], None) for said in ("true", 1, "yes", [True], {}, None, False)),
        ([tool("twice", READS), tool("twice")], None),
        ([tool("twice"), tool("twice", READS), tool("once", READS)], "once"),
        ([], None),
    ],
)
def test_a_tool_without_a_read_only_hint_is_never_called(tools, chosen):
    result = find_safe_tool(tools)
    assert (result and result[0]) == chosen


@pytest.mark.parametrize(
    ("hints", "twice"),
    [(None, False), ({}, False), (READS, True), ({"idempotentHint": True}, True), ({"idempotentHint": "true"}, False)],
)
def test_a_tool_may_be_called_twice_only_with_an_idempotent_hint(hints, twice):
    assert is_repeatable(tool("x", hints)) is twice

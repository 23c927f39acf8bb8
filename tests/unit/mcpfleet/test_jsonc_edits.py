"""A file of JSON with comments, edited: one member changes and every comment stays."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet.jsonc import JsoncError, loads, remove_member, set_member

keys = st.sampled_from(["a", "b", "mcpServers", "ö", 'q"uote'])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
COMMENTS = ["", " ", "\n", "// note\n", "/* note */", "\n  // two\n  // lines\n"]


@st.composite
def files(draw, value=None, depth=0):
    """A text with comments anywhere they may be, and the value that it means."""
    value = draw(st.dictionaries(keys, values, max_size=4)) if value is None and depth == 0 else value
    gap = lambda: draw(st.sampled_from(COMMENTS))  # noqa: E731
    if isinstance(value, dict):
        parts = [
            f"{gap()}{json.dumps(key, ensure_ascii=draw(st.booleans()))}{gap()}:"
            f"{gap()}{draw(files(item, depth + 1))[0]}"
            for key, item in value.items()
        ]
        last = "," if parts and draw(st.booleans()) else ""
        text = "{" + f"{gap()},".join(parts) + last + gap() + "}"
    elif isinstance(value, list):
        text = "[" + ",".join(f"{gap()}{draw(files(item, depth + 1))[0]}{gap()}" for item in value) + "]"
    else:
        text = json.dumps(value)
    return (gap() + text + gap() if depth == 0 else text), value


def notes(text):
    """Every comment, in order; strings are no comments."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    return re.findall(r"//[^\n]*|/\*.*?\*/", bare)


@given(files())
def test_comments_and_trailing_commas_do_not_change_the_value(file):
    text, value = file
    assert loads(text) == value


@given(files(), keys, values)
def test_a_member_is_set_and_nothing_else_changes(file, key, value):
    text, content_before = file
    edited = set_member(text, [key], value)
    assert loads(edited) == {**content_before, key: value}
    if key not in content_before:
        assert notes(edited) == notes(text)
        undone = remove_member(edited, [key])
        assert loads(undone) == content_before
        assert notes(undone) == notes(text)


@given(files(), keys)
def test_a_member_is_removed_and_nothing_else_changes(file, key):
    text, content_before = file
    edited = remove_member(text, [key])
    assert loads(edited) == {name: value for name, value in content_before.items() if name != key}
    assert remove_member(edited, [key]) == edited


@given(files(), keys, keys, values)
def test_a_nested_member_is_set_if_its_parent_is_missing_or_an_object(file, outer, inner, value):
    text, content_before = file
    content = content_before.get(outer, {})
    if not isinstance(content, dict):
        with pytest.raises(JsoncError, match="not an object"):
            set_member(text, [outer, inner], value)
        return
    assert loads(set_member(text, [outer, inner], value)) == {**content_before, outer: {**content, inner: value}}


@given(st.text(max_size=30))
def test_invalid_json_is_refused_with_the_reason(text):
    try:
        expected = json.loads(text)
    except ValueError:
        try:
            loads(text)
        except JsoncError:
            return
        assert re.search(r"//|/\*|,", text), "only comments and commas at the end may be more"
    else:
        if text.strip(" \t\r\n") not in {"NaN", "Infinity", "-Infinity"}:
            assert loads(text) == expected


def test_an_edit_has_the_files_own_formatting():
    text = """{
    // my servers
    "mcpServers": {
        "mine": {"command": "x"} // do not touch
    }
}
"""
    entry = {"command": "mcpfleet", "args": ["connect"]}
    edited = set_member(text, ["mcpServers", "echo"], entry)
    assert (
        edited
        == """{
    // my servers
    "mcpServers": {
        "mine": {"command": "x"}, // do not touch
        "echo": {
            "command": "mcpfleet",
            "args": [
                "connect"
            ]
        }
    }
}
"""
    )
    assert remove_member(edited, ["mcpServers", "echo"]) == text


@pytest.mark.parametrize("text", ["{}", "{ }", "{\n}\n", "{ // none yet\n}"])
def test_an_empty_object_gets_its_first_member(text):
    edited = set_member(text, ["a"], 1)
    assert loads(edited) == {"a": 1}
    assert notes(edited) == notes(text)


def test_line_ends_and_tabs_are_kept():
    edited = set_member('{\r\n\t"a": 1\r\n}\r\n', ["b"], {"c": 2})
    assert edited == '{\r\n\t"a": 1,\r\n\t"b": {\r\n\t\t"c": 2\r\n\t}\r\n}\r\n'


@pytest.mark.parametrize("text", ['{"a": 1, "b": 3,\n "a": 2}', '{"a": {"c": 1,\n "c": 2}}'])
def test_a_duplicate_key_is_not_edited(text):
    with pytest.raises(JsoncError, match=r"line 2: '\w' occurs twice"):
        remove_member(text, ["a"])
    with pytest.raises(JsoncError, match=r"line 2: '\w' occurs twice"):
        set_member(text, ["a", "c"], 3)


@pytest.mark.parametrize("text", ["", "{", '{"a" 1}', '{"a": 1 "b": 2}', "[1 2]", "{} {}", "{a: 1}", "[" * 500])
def test_an_invalid_file_is_an_error_with_the_line(text):
    with pytest.raises(JsoncError, match="line 1"):
        loads(text)

"""Edits JSON with comments: one member changes, and all other bytes stay.

Some clients' configuration files may have comments and trailing commas, others are plain JSON. A parser that rewrites
them would lose the owner's comments and format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_SKIPPED = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)+", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_MAX_DEPTH = 200
_WHITESPACE = " \t\r\n"
"""JSON's white space. Python's `strip` would also remove other characters, which may be part of a comment."""
_BYTE_ORDER_MARK = "\ufeff"
"""Some editors on Windows write it at the start of a file."""


class JsoncError(ValueError):
    """The text is not JSON with comments; the message has the line."""


@dataclass
class _Member:
    key: str
    start: int
    value: _Node
    comma: int | None = None
    """The offset after its comma; None if it has none."""


@dataclass
class _Node:
    start: int
    end: int
    value: Any
    members: list[_Member] | None = None  # of an object
    items: list[_Node] = field(default_factory=list["_Node"])


def loads(text: str) -> Any:
    """Parse JSON with comments.

    Raises:
        JsoncError: The text is not valid.
    """
    return _Reader(text).read().value


def is_empty(text: str) -> bool:
    """Return whether a text has only white space, or a byte-order mark."""
    return not text.removeprefix(_BYTE_ORDER_MARK).strip(_WHITESPACE)


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """Set one member, and create missing objects on its path.

    Args:
        text: The text of the file.
        path: The keys from the outermost object to the member.
        value: The new value.

    Raises:
        JsoncError: The text is not valid, a value on the path is not an object, or a key of the path occurs twice.
    """
    node = _Reader(text).read()
    for depth, key in enumerate(path):
        if node.members is None:
            location = ".".join(path[:depth]) or "the file"
            raise JsoncError(f"{location} is not an object")
        member = _find_member(text, node.members, key)
        if member is None:
            inner = value
            for name in reversed(path[depth + 1 :]):
                inner = {name: inner}
            return _insert(text, node, key, inner, depth)
        node = member.value
    if node.value == value and type(node.value) is type(value):
        return text
    return text[: node.start] + _render(text, value, len(path)) + text[node.end :]


def remove_member(text: str, path: Sequence[str]) -> str:
    """Remove one member with its comma, if it exists.

    Raises:
        JsoncError: The text is not valid, or a key occurs twice, on the path or in the member.
    """
    node = _Reader(text).read()
    for key in path[:-1]:
        member = _find_member(text, node.members or [], key)
        if member is None:
            return text
        node = member.value
    member = _find_member(text, node.members or [], path[-1])
    if member is None:
        return text
    for inner in member.value.members or []:
        _find_member(text, member.value.members or [], inner.key)
    return _remove(text, node.members or [], member)


def _find_member(text: str, members: list[_Member], key: str) -> _Member | None:
    """Find the member of a key. Two are an error: most parsers use the last, but the owner may mean the other."""
    matches = [member for member in members if member.key == key]
    if len(matches) > 1:
        raise JsoncError(f"line {_line_number(text, matches[1].start)}: {key!r} occurs twice")
    return matches[0] if matches else None


def _line_number(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _remove(text: str, members: list[_Member], member: _Member) -> str:
    start, end = member.start, member.value.end
    index = members.index(member)
    if member.comma is not None and not text[end : member.comma - 1].strip(_WHITESPACE):
        end = member.comma
    elif member.comma is not None:  # a comment before the comma stays
        text = text[: member.comma - 1] + text[member.comma :]
    elif index > 0:
        previous = members[index - 1]
        assert previous.comma is not None  # noqa: S101 - there is a comma between two members
        text = text[: previous.comma - 1] + text[previous.comma :]
        start, end = start - 1, end - 1
    # Remove the whole line if nothing else is on it.
    line, rest = text.rfind("\n", 0, start) + 1, re.compile(r"[ \t]*\r?\n").match(text, end)
    if not text[line:start].strip() and rest:
        return text[:line] + text[rest.end() :]
    return text[:start] + text[end:].lstrip(" ")


def _insert(text: str, node: _Node, key: str, value: Any, depth: int) -> str:
    members = node.members or []
    close = node.end - 1
    newline = _newline(text)
    content = text[node.start + 1 : close]
    member_text = f"{json.dumps(key, ensure_ascii=False)}: {_render(text, value, depth + 1)}"
    trailing = "," if members and members[-1].comma is not None else ""
    comma = "," if members and not trailing else ""
    end = members[-1].comma or members[-1].value.end if members else node.start + 1
    if members and not {"\n", "\r"} & set(content):  # an object on one line stays on it
        return f"{text[:end]}{comma} {member_text}{trailing}{text[end:]}"
    # After the comments behind the last member, before the line of the closing brace.
    after = end + len(text[end:close].rstrip(_WHITESPACE))
    line = newline + _indentation(text) * (depth + 1)
    tail = "" if {"\n", "\r"} & set(text[after:close]) else newline + _indentation(text) * depth
    return f"{text[:end]}{comma}{text[end:after]}{line}{member_text}{trailing}{tail}{text[after:]}"


def _render(text: str, value: Any, depth: int) -> str:
    """A value on several lines, with the indentation of the file."""
    lines = json.dumps(value, indent=_indentation(text), ensure_ascii=False).split("\n")
    return (_newline(text) + _indentation(text) * depth).join(lines)


def _indentation(text: str) -> str:
    """The indentation of the first indented line of the file; two spaces if there is none."""
    match = re.search(r"[\r\n]([ \t]+)\S", text)
    return match.group(1) if match else "  "


def _newline(text: str) -> str:
    return next((end for end in ("\r\n", "\n", "\r") if end in text), "\n")


class _Reader:
    """Parses JSON with comments and trailing commas, and records the offsets of all values."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = len(_BYTE_ORDER_MARK) if text.startswith(_BYTE_ORDER_MARK) else 0

    def read(self) -> _Node:
        """The only value of the text."""
        self._skip()
        node = self._read_value(0)
        self._skip()
        if self._position != len(self._text):
            raise self._error("more than one value")
        return node

    def _read_value(self, depth: int) -> _Node:
        start = self._position
        if depth > _MAX_DEPTH:
            raise self._error("nested too deeply")
        opening = self._text[start : start + 1]
        if opening == "{":
            members = list(self._read_members(depth))
            return _Node(start, self._position, {item.key: item.value.value for item in members}, members)
        if opening == "[":
            items = list(self._read_items(depth))
            return _Node(start, self._position, [item.value for item in items], items=items)
        match = (_STRING if opening == '"' else _SCALAR).match(self._text, start)
        if match is None:
            raise self._error("expected a value")
        try:
            value = json.loads(match.group())
        except ValueError:  # Python parses no number of more than 4300 digits
            raise self._error("a number that is too long") from None
        self._position = match.end()
        return _Node(start, self._position, value)

    def _read_members(self, depth: int) -> Iterator[_Member]:
        self._position += 1
        self._skip()
        while not self._consume("}"):
            start = self._position
            key = _STRING.match(self._text, start)
            if key is None:
                raise self._error("expected a key")
            self._position = key.end()
            self._skip()
            if not self._consume(":"):
                raise self._error("expected a colon after a key")
            self._skip()
            member = _Member(json.loads(key.group()), start, self._read_value(depth + 1))
            self._skip()
            if self._consume(","):
                member.comma = self._position
                self._skip()
            elif self._text[self._position : self._position + 1] != "}":
                raise self._error("expected a comma between two members")
            yield member

    def _read_items(self, depth: int) -> Iterator[_Node]:
        self._position += 1
        self._skip()
        while not self._consume("]"):
            yield self._read_value(depth + 1)
            self._skip()
            if self._consume(","):
                self._skip()
            elif self._text[self._position : self._position + 1] != "]":
                raise self._error("expected a comma between two items")

    def _skip(self) -> None:
        if match := _SKIPPED.match(self._text, self._position):
            self._position = match.end()

    def _consume(self, mark: str) -> bool:
        if self._text[self._position : self._position + 1] != mark:
            return False
        self._position += 1
        return True

    def _error(self, problem: str) -> JsoncError:
        return JsoncError(f"line {_line_number(self._text, self._position)}: {problem}")

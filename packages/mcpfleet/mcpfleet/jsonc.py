"""Edits JSON with comments as a person would: one member changes, every other byte stays.

Clients' configuration files are JSON with comments and commas at the end in some clients, JSON in others. A parser that
writes them anew would lose what their owner wrote there.
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
_DEPTH = 200
_SPACE = " \t\r\n"
"""JSON's white space; what Python strips besides may stand in a comment."""
_MARK = "\ufeff"
"""What some editors on Windows begin a file with."""


class JsoncError(ValueError):
    """The text is not JSON, even with comments; says in which line."""


@dataclass
class _Member:
    key: str
    start: int
    value: _Node
    comma: int | None = None
    """Where its comma ends; None where it has none."""


@dataclass
class _Node:
    start: int
    end: int
    value: Any
    members: list[_Member] | None = None  # of an object
    items: list[_Node] = field(default_factory=list["_Node"])


def loads(text: str) -> Any:
    """The value of a text.

    Raises:
        JsoncError: It is not JSON.
    """
    return _Reader(text).whole().value


def is_empty(text: str) -> bool:
    """Whether there is nothing in a text, not even an object."""
    return not text.removeprefix(_MARK).strip(_SPACE)


def set_member(text: str, path: Sequence[str], value: Any) -> str:
    """Set one member, and make the objects around it where there are none.

    Args:
        text: The file.
        path: The keys from the outermost object to the member.
        value: JSON.

    Raises:
        JsoncError: It is not JSON, there is something else than an object on the way, or a key stands there twice.
    """
    node = _Reader(text).whole()
    for depth, key in enumerate(path):
        if node.members is None:
            where = ".".join(path[:depth]) or "the file"
            raise JsoncError(f"{where} is not an object")
        member = _member(text, node.members, key)
        if member is None:
            inner = value
            for name in reversed(path[depth + 1 :]):
                inner = {name: inner}
            return _insert(text, node, key, inner, depth)
        node = member.value
    if node.value == value and type(node.value) is type(value):
        return text
    return text[: node.start] + _written(text, value, len(path)) + text[node.end :]


def remove_member(text: str, path: Sequence[str]) -> str:
    """Take one member out, with its comma; nothing where there is none.

    Raises:
        JsoncError: It is not JSON, or a key stands there twice, on the way or within the member.
    """
    node = _Reader(text).whole()
    for key in path[:-1]:
        member = _member(text, node.members or [], key)
        if member is None:
            return text
        node = member.value
    member = _member(text, node.members or [], path[-1])
    if member is None:
        return text
    for one in member.value.members or []:
        _member(text, member.value.members or [], one.key)
    return _cut(text, node.members or [], member)


def _member(text: str, members: list[_Member], key: str) -> _Member | None:
    """The member of a key. Of two, the last one counts to most readers; the other is somebody's, too."""
    found = [one for one in members if one.key == key]
    if len(found) > 1:
        raise JsoncError(f"line {_line(text, found[1].start)}: {key!r} stands there twice")
    return found[0] if found else None


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _cut(text: str, members: list[_Member], member: _Member) -> str:
    start, end = member.start, member.value.end
    index = members.index(member)
    if member.comma is not None and not text[end : member.comma - 1].strip(_SPACE):
        end = member.comma
    elif member.comma is not None:  # a comment before the comma stays
        text = text[: member.comma - 1] + text[member.comma :]
    elif index > 0:
        before = members[index - 1]
        assert before.comma is not None  # noqa: S101 - members are parted by commas
        text = text[: before.comma - 1] + text[before.comma :]
        start, end = start - 1, end - 1
    # The whole line goes where nothing else is on it.
    line, rest = text.rfind("\n", 0, start) + 1, re.compile(r"[ \t]*\r?\n").match(text, end)
    if not text[line:start].strip() and rest:
        return text[:line] + text[rest.end() :]
    return text[:start] + text[end:].lstrip(" ")


def _insert(text: str, node: _Node, key: str, value: Any, depth: int) -> str:
    members = node.members or []
    close = node.end - 1
    newline = _newline(text)
    inside = text[node.start + 1 : close]
    written = f"{json.dumps(key, ensure_ascii=False)}: {_written(text, value, depth + 1)}"
    trailing = "," if members and members[-1].comma is not None else ""
    comma = "," if members and not trailing else ""
    end = members[-1].comma or members[-1].value.end if members else node.start + 1
    if members and not {"\n", "\r"} & set(inside):  # an object on one line stays on it
        return f"{text[:end]}{comma} {written}{trailing}{text[end:]}"
    # After the comments behind the last member, before the line of the closing brace.
    after = end + len(text[end:close].rstrip(_SPACE))
    line = newline + _unit(text) * (depth + 1)
    tail = "" if {"\n", "\r"} & set(text[after:close]) else newline + _unit(text) * depth
    return f"{text[:end]}{comma}{text[end:after]}{line}{written}{trailing}{tail}{text[after:]}"


def _written(text: str, value: Any, depth: int) -> str:
    """A value over several lines, indented as the file is."""
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return (_newline(text) + _unit(text) * depth).join(lines)


def _unit(text: str) -> str:
    """What the file indents by: that of its first indented line, else two spaces."""
    found = re.search(r"[\r\n]([ \t]+)\S", text)
    return found.group(1) if found else "  "


def _newline(text: str) -> str:
    return next((end for end in ("\r\n", "\n", "\r") if end in text), "\n")


class _Reader:
    """Reads JSON with comments and commas at the end, and keeps where everything stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = len(_MARK) if text.startswith(_MARK) else 0

    def whole(self) -> _Node:
        """The only value of the text."""
        self._skip()
        node = self._value(0)
        self._skip()
        if self._at != len(self._text):
            raise self._wrong("more than one value")
        return node

    def _value(self, depth: int) -> _Node:
        start = self._at
        if depth > _DEPTH:
            raise self._wrong("nested too deeply")
        opening = self._text[start : start + 1]
        if opening == "{":
            members = list(self._members(depth))
            return _Node(start, self._at, {one.key: one.value.value for one in members}, members)
        if opening == "[":
            items = list(self._items(depth))
            return _Node(start, self._at, [one.value for one in items], items=items)
        found = (_STRING if opening == '"' else _SCALAR).match(self._text, start)
        if found is None:
            raise self._wrong("no value where one should be")
        try:
            value = json.loads(found.group())
        except ValueError:  # Python reads no number of more than 4300 digits
            raise self._wrong("a number that is too long") from None
        self._at = found.end()
        return _Node(start, self._at, value)

    def _members(self, depth: int) -> Iterator[_Member]:
        self._at += 1
        self._skip()
        while not self._took("}"):
            start = self._at
            key = _STRING.match(self._text, start)
            if key is None:
                raise self._wrong("no key where one should be")
            self._at = key.end()
            self._skip()
            if not self._took(":"):
                raise self._wrong("no colon behind a key")
            self._skip()
            member = _Member(json.loads(key.group()), start, self._value(depth + 1))
            self._skip()
            if self._took(","):
                member.comma = self._at
                self._skip()
            elif self._text[self._at : self._at + 1] != "}":
                raise self._wrong("no comma between two members")
            yield member

    def _items(self, depth: int) -> Iterator[_Node]:
        self._at += 1
        self._skip()
        while not self._took("]"):
            yield self._value(depth + 1)
            self._skip()
            if self._took(","):
                self._skip()
            elif self._text[self._at : self._at + 1] != "]":
                raise self._wrong("no comma between two items")

    def _skip(self) -> None:
        if found := _SKIPPED.match(self._text, self._at):
            self._at = found.end()

    def _took(self, mark: str) -> bool:
        if self._text[self._at : self._at + 1] != mark:
            return False
        self._at += 1
        return True

    def _wrong(self, what: str) -> JsoncError:
        return JsoncError(f"line {_line(self._text, self._at)}: {what}")

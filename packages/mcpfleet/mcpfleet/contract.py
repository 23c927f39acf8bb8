"""The contract of a server: what it lists, locked in `tools/SERVER.json`, and what has changed since.

Clients keep copies of what a server lists. A renamed parameter breaks them, and a changed description changes what a
model does, perhaps on an attacker's behalf. Everything that a server lists is untrusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from mcpfleet.bounds import parse_json_object
from mcpfleet.errors import McpfleetError
from mcpfleet.inert import inert
from mcpfleet.schemas import TEXT_KEYWORDS, canonical, find_rejected
from mcpfleet.tools import Json

Kind = Literal["breaking", "additive", "description"]

KINDS: Final[Mapping[str, str]] = {
    "tools": "name",
    "prompts": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
}
"""What a server lists, each with the key that identifies an entry."""
CHANGES: Final[tuple[Kind, ...]] = ("breaking", "additive", "description")
MAX_DEPTH: Final = 100
FORMAT: Final = 1

_NOUNS: Final = {"tools": "tool", "prompts": "prompt", "resources": "resource", "resourceTemplates": "template"}
_HINTS: Final = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
"""The hints of MCP's ToolAnnotations, each with its default."""
_TEXT_KEYS: Final = frozenset({"title", "description", "icons", "_meta"})
_CHANGING_KEYS: Final = frozenset({"size"})
"""Keys of resources that change with their content, and so are not locked."""
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""MCP's default for `$schema`."""
_TASK_SUPPORT: Final = {"forbidden": {"call"}, "optional": {"call", "task"}, "required": {"task"}}


class ContractError(McpfleetError):
    """A server's lists, or the file of a lock, are invalid."""


@dataclass(frozen=True)
class Contract:
    """What a server lists.

    Attributes:
        instructions: The server's instructions for models; '' if it has none.
        entries: The entries by kind (`KINDS`), and by name or URI.
    """

    instructions: str = ""
    entries: Mapping[str, Mapping[str, Json]] = field(default_factory=dict[str, Mapping[str, Json]])

    def count(self) -> str:
        """How many entries of each kind there are, as text."""
        counts = [(len(self.entries.get(kind, ())), noun) for kind, noun in _NOUNS.items()]
        return ", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for count, noun in counts if count) or "nothing"


@dataclass(frozen=True)
class Change:
    """One change of a contract. Its texts are untrusted.

    Attributes:
        kind: `breaking`: calls that worked may fail now, or an annotation has changed; `additive`: they still work;
            `description`: what people and models read has changed.
        entry: The entry, as `tool add`; `instructions` for the server's instructions.
        text: What has changed.
    """

    kind: Kind
    entry: str
    text: str


@dataclass(frozen=True)
class Lock:
    """A locked contract.

    Attributes:
        contract: The contract.
        allowed: The kinds of changes that the lock allows.
    """

    contract: Contract
    allowed: frozenset[str] = frozenset()

    def find_refused(self, changes: Iterable[Change]) -> list[Change]:
        """The changes that the lock does not allow."""
        return [change for change in changes if change.kind not in self.allowed]


def build_contract(instructions: str | None, lists: Mapping[str, Iterable[Json]]) -> Contract:
    """Build a contract from what a server lists.

    Raises:
        ContractError: An entry has no name, two have the same, or one is nested too deeply or is not JSON.
    """
    entries: dict[str, dict[str, Json]] = {}
    for kind, identity in KINDS.items():
        listed = entries.setdefault(kind, {})
        for entry in lists.get(kind, ()):
            name: object = entry.get(identity)
            if not isinstance(name, str) or not name:
                raise ContractError(f"The server lists a {_NOUNS[kind]} without a {identity}.")
            if name in listed:
                raise ContractError(f"The server lists the {_NOUNS[kind]} {inert(name, 80)} twice.")
            if _depth_exceeds(entry, MAX_DEPTH):
                raise ContractError(
                    f"The {_NOUNS[kind]} {inert(name, 80)} is nested more than {MAX_DEPTH} levels deep."
                )
            try:
                json.dumps(entry, allow_nan=False)
            except ValueError:
                raise ContractError(f"The {_NOUNS[kind]} {inert(name, 80)} has a number that is not JSON.") from None
            listed[name] = {key: value for key, value in entry.items() if key not in _CHANGING_KEYS}
    return Contract(instructions or "", entries)


def _depth_exceeds(value: object, limit: int) -> bool:
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > limit:
            return True
        if isinstance(item, dict):
            pending += [(part, depth + 1) for part in cast("dict[str, object]", item).values()]
        elif isinstance(item, list):
            pending += [(part, depth + 1) for part in cast("list[object]", item)]
    return False


def digest(value: object) -> str:
    """The hash of a JSON value; key order and whitespace do not matter."""
    return f"sha256:{hashlib.sha256(canonical(value).encode()).hexdigest()}"


def render_lock(server: str, lock: Lock) -> str:
    """The text of a lock's file. It is ASCII: invisible characters are visible in a review."""
    contract = lock.contract
    values: dict[str, Any] = {
        "format": FORMAT,
        "server": server,
        "allow": sorted(lock.allowed),
        "hash": digest([contract.instructions, contract.entries]),
        "instructions": contract.instructions,
    }
    for kind in KINDS:
        listed = contract.entries.get(kind, {})
        values[kind] = {
            name: {"hash": digest(listed[name]), "definition": json.loads(canonical(listed[name]))}
            for name in sorted(listed)
        }
    return json.dumps(values, indent=2) + "\n"


def parse_lock(text: str, origin: str, server: str) -> Lock:
    """Parse the text of a lock's file.

    Raises:
        ContractError: It is not a lock of this server, or its hashes do not match.
    """
    step = f"Write it again with `mcpfleet tools lock {server}`."
    try:
        values = parse_json_object(text)
    except ValueError as error:
        raise ContractError(f"{origin} is not a lock: {inert(str(error))}. {step}") from None
    if values.get("format") != FORMAT or values.get("server") != server:
        raise ContractError(f"{origin} is not a lock of {server} in format {FORMAT}. {step}")
    allowed, instructions = values.get("allow", []), values.get("instructions", "")
    if not isinstance(allowed, list) or any(kind not in CHANGES for kind in cast("list[object]", allowed)):
        raise ContractError(f"{origin}: allow is a list of: {', '.join(CHANGES)}.")
    lists: dict[str, list[Json]] = {}
    for kind, identity in KINDS.items():
        for name, item in _as_object(values.get(kind)).items():
            definition = _as_object(_as_object(item).get("definition"))
            if definition.get(identity) != name or digest(definition) != _as_object(item).get("hash"):
                raise ContractError(f"{origin}: the hash of {_NOUNS[kind]} {inert(name, 80)} does not match. {step}")
            lists.setdefault(kind, []).append(definition)
    contract = build_contract(str(instructions), lists)
    if digest([contract.instructions, contract.entries]) != values.get("hash"):
        raise ContractError(f"{origin}: its hash does not match its content. {step}")
    return Lock(contract, frozenset(cast("list[str]", allowed)))


def find_changes(old: Contract, new: Contract) -> list[Change]:
    """Compare two contracts; an empty list if they are the same."""
    changes: list[Change] = []
    if old.instructions != new.instructions:
        changes.append(Change("description", "instructions", _text_change("", old.instructions, new.instructions)))
    for kind, noun in _NOUNS.items():
        before, after = old.entries.get(kind, {}), new.entries.get(kind, {})
        for name in sorted({*before, *after}):
            entry = f"{noun} {name}"
            if name not in after:
                changes.append(Change("breaking", entry, "it is removed"))
            elif name not in before:
                changes.append(Change("additive", entry, "it is new"))
            elif canonical(before[name]) != canonical(after[name]):
                found = [Change(change, entry, text) for change, text in _compare_entries(before[name], after[name])]
                changes += found or [Change("additive", entry, "it is written differently, and means the same")]
    return sorted(changes, key=lambda change: CHANGES.index(change.kind))


def _compare_entries(old: Json, new: Json) -> Iterator[tuple[Kind, str]]:
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if canonical(before) == canonical(after):
            continue
        match key:
            case "inputSchema":
                yield from _compare_inputs(before, after)
            case "outputSchema":
                yield from _compare_outputs(before, after, is_new=key not in old, is_removed=key not in new)
            case "annotations":
                yield from _compare_annotations(_as_object(before), _as_object(after))
            case "execution":
                yield from _compare_execution(_as_object(before), _as_object(after))
            case "arguments":
                yield from _compare_prompt_arguments(before, after)
            case _ if key in _TEXT_KEYS:
                yield "description", _text_change(key, before, after)
            case _:
                yield "additive" if key not in old else "breaking", f"{key} changed"


def _compare_inputs(old: object, new: object) -> Iterator[tuple[Kind, str]]:
    old_parts, new_parts = _split_schema(old), _split_schema(new)
    differences = find_rejected(old, new, reports_removed=True)
    for difference in differences:
        place = difference.path or "the arguments"
        text = difference.text if difference.text.startswith("it is ") else f"no longer accepts {difference.text}"
        yield "breaking", f"{place}: {text}"
    for path in sorted(old_parts.places & new_parts.places):
        before, after = old_parts.defaults.get(path), new_parts.defaults.get(path)
        if before != after:
            place = ".".join(path) or "the arguments"
            yield "additive" if before is None else "breaking", f"the default of {place} changed"
    yield from _compare_dialects(old, new)
    yield from _compare_texts(old_parts, new_parts)
    if not differences and canonical(old_parts.rest) != canonical(new_parts.rest):
        before_names, after_names = (_as_object(_as_object(schema).get("properties")) for schema in (old, new))
        added = sorted(after_names.keys() - before_names.keys())
        yield (
            "additive",
            f"accepts also {', '.join(added)}" if added else "accepts more, or the same written differently",
        )


def _compare_outputs(old: object, new: object, *, is_new: bool, is_removed: bool) -> Iterator[tuple[Kind, str]]:
    if is_new or is_removed:
        yield ("additive", "it has an output schema now") if is_new else ("breaking", "its output schema is removed")
        return
    old_parts, new_parts = _split_schema(old), _split_schema(new)
    yield from _compare_dialects(old, new)
    differences = find_rejected(new, old)
    for difference in differences:
        yield (
            "breaking",
            f"its answer{f' ({difference.path})' if difference.path else ''} can now have {difference.text}",
        )
    yield from _compare_texts(old_parts, new_parts)
    if not differences and canonical(old_parts.rest) != canonical(new_parts.rest):
        yield "additive", "its answers are a part of those before, or have more properties"


def _compare_dialects(old: object, new: object) -> Iterator[tuple[Kind, str]]:
    before, after = (_as_object(schema).get("$schema", _DIALECT) for schema in (old, new))
    if before != after:
        yield "breaking", "$schema changed, so keywords can have another meaning"


def _compare_annotations(old: Json, new: Json) -> Iterator[tuple[Kind, str]]:
    for key in sorted({*old, *new}):
        if key == "title":
            if old.get(key) != new.get(key):
                yield "description", _text_change("annotations.title", old.get(key), new.get(key))
        elif key == "lastModified":
            continue
        elif key in _HINTS:
            before, after = old.get(key, _HINTS[key]), new.get(key, _HINTS[key])
            if canonical(before) != canonical(after):
                yield "breaking", f"{key} changed from {inert(canonical(before), 40)} to {inert(canonical(after), 40)}"
        elif canonical(old.get(key)) != canonical(new.get(key)):
            yield "additive" if key not in old else "breaking", f"annotations.{key} changed"


def _compare_execution(old: Json, new: Json) -> Iterator[tuple[Kind, str]]:
    before, after = (_TASK_SUPPORT.get(str(value.get("taskSupport", "forbidden"))) for value in (old, new))
    is_wider = before is not None and after is not None and before <= after
    yield "additive" if is_wider else "breaking", "execution.taskSupport changed"


def _compare_prompt_arguments(old: object, new: object) -> Iterator[tuple[Kind, str]]:
    before, after = _arguments_by_name(old), _arguments_by_name(new)
    if before is None or after is None:
        yield "breaking", "its arguments changed"
        return
    for name in sorted({*before, *after}):
        first, second = before.get(name, {}), after.get(name, {})
        if name not in after:
            yield "breaking", f"the argument {name} is removed"
        elif second.get("required") is True and first.get("required") is not True:
            yield "breaking", f"the argument {name} is required"
        elif name not in before:
            yield "additive", f"the argument {name} is new"
        for key in ("title", "description"):
            if name in before and name in after and first.get(key) != second.get(key):
                yield "description", _text_change(f"{key} of {name}", first.get(key), second.get(key))


def _arguments_by_name(value: object) -> dict[str, Json] | None:
    items = cast("list[object]", value) if isinstance(value, list) else None if value is not None else []
    named = {str(_as_object(item).get("name")): _as_object(item) for item in items or []}
    return named if items is not None and len(named) == len(items) else None


_Path = tuple[str, ...]


@dataclass
class _SchemaParts:
    """A schema without texts and defaults (`rest`), and these by their place."""

    rest: object = None
    places: set[_Path] = field(default_factory=set[_Path])
    texts: dict[tuple[_Path, str], object] = field(default_factory=dict[tuple[_Path, str], object])
    defaults: dict[_Path, str] = field(default_factory=dict[_Path, str])


_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def _split_schema(schema: object) -> _SchemaParts:
    parts = _SchemaParts()
    parts.rest = _strip(schema, (), parts)
    return parts


def _strip(schema: object, path: _Path, parts: _SchemaParts) -> object:
    parts.places.add(path)
    if not isinstance(schema, dict):
        return schema
    rest: dict[str, object] = {}
    for key, value in cast("dict[str, object]", schema).items():
        if key in TEXT_KEYWORDS:
            parts.texts[path, key] = value
        elif key == "default":
            parts.defaults[path] = canonical(value)
        elif key in _MAPS and isinstance(value, dict):
            prefix = () if key == "properties" else (key,)
            items = cast("dict[str, object]", value).items()
            rest[key] = {name: _strip(item, (*path, *prefix, name), parts) for name, item in items}
        elif key in _LISTS and isinstance(value, list):
            listed = enumerate(cast("list[object]", value))
            rest[key] = [_strip(item, (*path, f"{key}[{index}]"), parts) for index, item in listed]
        elif key in _SINGLE:
            rest[key] = _strip(value, (*path, key), parts)
        elif key != "$schema":  # _compare_dialects compares it
            rest[key] = value
    return rest


def _compare_texts(old: _SchemaParts, new: _SchemaParts) -> Iterator[tuple[Kind, str]]:
    """Compare the texts of places that both schemas have; a text of a new or removed place belongs to that change."""
    for path, key in sorted({*old.texts, *new.texts}):
        before, after = old.texts.get((path, key)), new.texts.get((path, key))
        if path in old.places & new.places and canonical(before) != canonical(after):
            yield "description", _text_change(".".join((*path, key)), before, after)


def _text_change(place: str, old: object, new: object) -> str:
    """Both texts from a little before their first difference, so that a change at the end of a long text is visible."""
    before, after = ("" if text is None else text if isinstance(text, str) else canonical(text) for text in (old, new))
    shared = next((at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    start = max(0, (min(len(before), len(after)) if shared is None else shared) - 30)
    dots = "…" if start else ""
    shown = [f'"{dots}{inert(text[start:], 200)}"' if text else "nothing" for text in (before, after)]
    return f"{place + ': ' if place else ''}{shown[0]} is now {shown[1]}"


def find_invisible(contract: Contract) -> list[str]:
    """The entries with characters that a reader does not see: a text may say more to a model than to a person."""
    named = [
        (f"{_NOUNS[kind]} {name}", entry) for kind, listed in contract.entries.items() for name, entry in listed.items()
    ]
    texts = [("instructions", contract.instructions), *named]
    return [name for name, value in texts if _has_invisible(value)]


def _has_invisible(value: object) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            visible = item.translate({ord("\n"): " ", ord("\t"): " ", ord("\r"): " "})
            if inert(visible) != visible:
                return True
        elif isinstance(item, dict):
            for key, part in cast("dict[str, object]", item).items():
                pending += [key, part]
        elif isinstance(item, list):
            pending += cast("list[object]", item)
    return False


def _as_object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}

"""Finds what one JSON schema accepts and another does not, for the schemas of tools.

The comparison is careful: if it finds nothing, every value that the first schema declares is valid for the second.
If it cannot tell, it reports a difference. An object of the first schema is read as its declared properties only, if
the schema does not say `additionalProperties`: a client does not send arguments that it doesn't know.

Schemas are untrusted. Patterns are compared and never run, references are only followed within the document, and the
number of steps is limited. Keywords are those of JSON Schema 2020-12, which is MCP's default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote

Schema = object
"""A JSON schema: an object, or a boolean. A server can send any other value, too."""

Object = Mapping[str, Any]

MAX_STEPS: Final = 20_000
"""The most pairs of schemas that one comparison looks at."""
_MAX_DEPTH: Final = 100

TEXT_KEYWORDS: Final = frozenset({"title", "description", "examples", "$comment", "deprecated"})
"""Keywords that people and models read, and that accept or reject nothing."""
_IGNORED: Final = TEXT_KEYWORDS | {"default", "readOnly", "writeOnly", "$schema", "$id", "$anchor", "$defs"}
_IGNORED_OR_FOLLOWED: Final = _IGNORED | {"definitions", "$ref", "allOf", "anyOf", "oneOf"}
_GROUPS: Final = (("if", "then", "else"), ("contains", "minContains", "maxContains"), ("prefixItems", "items"))
"""Keywords that depend on each other; they are only compared as a whole."""
_HIDING: Final = frozenset(
    {"$ref", "$dynamicRef", "if", "dependentSchemas", "not", "patternProperties", "unevaluatedProperties"}
)
"""Keywords by which a schema can have properties that are not in its `properties`."""
_ATOMS: Final[Mapping[str, frozenset[str]]] = {
    **{name: frozenset({name}) for name in ("null", "boolean", "object", "array", "string", "integer")},
    "number": frozenset({"integer", "fraction"}),
}
_ALL_TYPES: Final = frozenset[str]().union(*_ATOMS.values())
_NUMBERS: Final = frozenset({"integer", "fraction"})
_LIMITS: Final = (
    ("minimum", "maximum", _NUMBERS, "numbers"),
    ("minLength", "maxLength", frozenset({"string"}), "lengths"),
    ("minItems", "maxItems", frozenset({"array"}), "numbers of items"),
    ("minProperties", "maxProperties", frozenset({"object"}), "numbers of properties"),
)
_SHOWN_VALUES: Final = 5


@dataclass(frozen=True)
class Difference:
    """Values that one schema accepts, and another does not.

    Attributes:
        path: The place, as `order.items[].price`; '' for the whole value.
        text: The values.
    """

    path: str
    text: str


class _TooComplexError(Exception):
    """The comparison takes too many steps."""


def canonical(value: object) -> str:
    """A JSON value as text, the same for each order of keys; 1 and 1.0 are the same number."""
    return json.dumps(_normalize(value), sort_keys=True, separators=(",", ":"))


def _normalize(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _normalize(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_normalize(item) for item in cast("list[object]", value)]
    return value


def find_rejected(first: Schema, second: Schema, *, reports_removed: bool = False) -> list[Difference]:
    """Find values that the first schema declares, and that the second rejects or may reject.

    Args:
        first: A schema.
        second: Another schema.
        reports_removed: Whether to also report properties of the first that the second does not declare.
    """
    if canonical(first) == canonical(second):
        return []
    comparison = _Comparison(first, second, reports_removed=reports_removed)
    try:
        differences = comparison.enter((first,), second, "", frozenset())
    except (_TooComplexError, RecursionError):
        return [Difference("", "values that cannot be compared, because the schemas are too complex")]
    return [*dict.fromkeys(differences)]


@dataclass
class _Comparison:
    first: Schema
    second: Schema
    reports_removed: bool
    steps: int = MAX_STEPS
    derived: dict[object, Object] = field(default_factory=dict[object, Object])
    """Schemas that the comparison creates. Each is created once, so that its identity tells a recursion."""

    def enter(
        self, inner: tuple[Schema, ...], outer: Schema, path: str, assumed: frozenset[object]
    ) -> list[Difference]:
        """Compare the schemas of one place in a value; all schemas of *inner* apply to it."""
        if len(assumed) > _MAX_DEPTH:
            raise _TooComplexError
        if outer is True:
            return []
        names, is_open = self._names(inner, self.first)
        removed: list[Difference] = []
        if self.reports_removed and names and not is_open:
            outer_names, outer_is_open = self._names((outer,), self.second)
            if not outer_is_open:
                removed = [Difference(_join(path, name), "it is removed") for name in sorted(names - outer_names)]
        return removed + self._compare(inner, outer, path, _Place(frozenset(names), assumed))

    def _compare(self, inner: tuple[Schema, ...], outer: Schema, path: str, place: _Place) -> list[Difference]:
        self._step()
        if outer is True or _accepts_everything(outer):
            return []
        key = (frozenset(map(id, inner)), id(outer))
        if key in place.active:  # the schema refers to itself without a value between
            return [Difference(path, "values that cannot be compared, because a schema refers to itself")]
        if key in place.assumed:
            return []
        place = _Place(place.names, place.assumed, place.active | {key})
        schemas = self._expand(inner, self.first)
        if schemas is None:
            return []
        for index, schema in enumerate(schemas):
            for keyword in ("anyOf", "oneOf"):
                if isinstance(branches := schema.get(keyword), list):
                    others = (*schemas[:index], *schemas[index + 1 :], self._without(schema, keyword))
                    return [
                        difference
                        for branch in cast("list[Schema]", branches)
                        for difference in self._compare((*others, branch), outer, path, place)
                    ]
        return self._check(schemas, outer, path, place)

    def _check(self, inner: list[Object], outer: Schema, path: str, place: _Place) -> list[Difference]:
        """Check schemas without references and unions against each keyword of another schema."""
        if outer is True or not (types := _common_types(inner)):
            return []
        if not isinstance(outer, dict):
            return [Difference(path, "any value")]
        outer = cast("dict[str, Any]", outer)
        if len(inner) == 1 and not _has_reference(outer) and canonical(_bare(inner[0])) == canonical(_bare(outer)):
            return []
        found: list[Difference] = []
        if "$ref" in outer:
            target = _resolve(self.second, outer["$ref"])
            if target is None:
                found.append(Difference(path, f"values that {_shown(outer['$ref'])} excludes, which cannot be read"))
            else:
                found += self._compare((*inner,), target, path, place)
        for member in _as_list(outer.get("allOf")):
            found += self._compare((*inner,), member, path, place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in outer:
                found += self._check_union(inner, types, keyword, outer[keyword], path, place)
        texts = [*_rejected_types(types, outer), *_rejected_values(inner, types, outer)]
        texts += _rejected_limits(inner, types, outer)
        if "object" in types:
            texts += _rejected_objects(inner, outer)
            found += self._check_properties(inner, outer, path, place)
        if "array" in types:
            found += self._check_items(inner, outer, path, place)
        texts += _rejected_by_others(inner, outer)
        return found + [Difference(path, text) for text in texts]

    def _check_properties(self, inner: list[Object], outer: Object, path: str, place: _Place) -> list[Difference]:
        properties, patterns = _as_object(outer.get("properties")), _as_object(outer.get("patternProperties"))
        declared = {name for schema in inner for name in _as_object(schema.get("properties"))}
        is_closed = not any("additionalProperties" in schema or _HIDING & schema.keys() for schema in inner)
        inside, found = place.assumed | place.active, list[Difference]()
        for name in [*dict.fromkeys([*properties, *sorted(declared)])]:
            wanted = properties.get(name, outer.get("additionalProperties", True))
            if name in declared or not is_closed or name in place.names:
                found += self.enter(_property_schemas(inner, name), wanted, _join(path, name), inside)
        for pattern, wanted in patterns.items():
            known = [patterns.get(pattern) for patterns in (_as_object(s.get("patternProperties")) for s in inner)]
            if not any(
                item is not None and not self.enter((item,), wanted, _join(path, pattern), inside) for item in known
            ):
                found.append(Difference(path, f"properties that the pattern {_shown(pattern)} excludes"))
        if (wanted := outer.get("additionalProperties", True)) is not True and not is_closed:
            others = tuple(
                schema["additionalProperties"]
                for schema in inner
                if "additionalProperties" in schema and _patterns(schema) <= patterns.keys()
            )
            found += self.enter(others, wanted, _join(path, "*"), inside)
        return found

    def _check_items(self, inner: list[Object], outer: Object, path: str, place: _Place) -> list[Difference]:
        if "items" not in outer or "prefixItems" in outer or isinstance(outer["items"], list):
            return []  # if it has prefixItems, _rejected_by_others reports it
        schemas = [schema for schema in inner if "items" in schema and "prefixItems" not in schema]
        items: tuple[Schema, ...] = tuple(schema["items"] for schema in schemas)
        return self.enter(items, outer["items"], f"{path}[]", place.assumed | place.active)

    def _check_union(
        self, inner: list[Object], types: frozenset[str], keyword: str, union: object, path: str, place: _Place
    ) -> list[Difference]:
        """Check that each value fits a branch: all values one, or those of each type, or each listed value."""
        branches = _as_list(union)
        if keyword == "oneOf" and not self._are_disjoint(branches):
            is_same = any(canonical(schema.get(keyword)) == canonical(union) for schema in inner)
            if is_same and not _has_reference(union):
                return []
            return [Difference(path, "values that more than one branch of oneOf accepts")]

        def fits(*more: Object) -> bool:
            return any(not self._compare((*inner, *more), branch, path, place) for branch in branches)

        if fits():
            return []
        values = _listed_values(inner, types)
        if values is not None:
            parts = [(self._derive(canonical(value), {"const": value}), _shown(value)) for value in values]
        else:
            names = sorted({"number" if atom == "fraction" else atom for atom in types})
            names = [name for name in names if name != "integer" or "fraction" not in types]
            parts = [(self._derive(name, {"type": name}), f"the type {name}") for name in names]
        return [Difference(path, text) for part, text in parts if not fits(part)]

    def _are_disjoint(self, branches: Sequence[Schema]) -> bool:
        """Return whether no value fits two branches, because of their types or of the values of a property."""
        facts: list[tuple[frozenset[str], dict[str | None, set[str]]]] = []
        for branch in branches:
            schemas = self._expand((branch,), self.second)
            if schemas is None:
                continue
            types, tags = _common_types(schemas), dict[str | None, set[str]]()
            if (values := _listed_values(schemas, types)) is not None:
                tags[None] = {canonical(value) for value in values}
            required = {name for schema in schemas for name in _names_in(schema.get("required"))}
            for name in required if types <= {"object"} else ():
                parts = self._expand(_property_schemas(schemas, name), self.second) or []
                values = _listed_values(parts, _common_types(parts))
                if values is not None:
                    tags[name] = {canonical(value) for value in values}
            facts.append((types, tags))
        for index, (types, tags) in enumerate(facts):
            for other_types, other_tags in facts[index + 1 :]:
                self._step()
                are_tagged = any(tags[name].isdisjoint(other_tags[name]) for name in tags.keys() & other_tags.keys())
                if types & other_types and not are_tagged:
                    return False
        return True

    def _expand(self, schemas: Iterable[Schema], root: Schema) -> list[Object] | None:
        """Follow the references and `allOf` of schemas that all apply; None if one of them accepts no value."""
        pending, seen, expanded = [*schemas], set[int](), list[Object]()
        while pending:
            self._step()
            schema = pending.pop(0)
            if schema is False:
                return None
            if not isinstance(schema, dict) or id(cast("object", schema)) in seen:
                continue  # true, or a value that is no schema: any value may fit
            schema = cast("dict[str, Any]", schema)
            seen.add(id(schema))
            followed: list[str] = []
            if "$ref" in schema and (target := _resolve(root, schema["$ref"])) is not None:
                pending.append(target)
                followed.append("$ref")
            if isinstance(schema.get("allOf"), list):
                pending += schema["allOf"]
                followed.append("allOf")
            rest = self._without(schema, *followed) if followed else schema
            if rest.keys() - _IGNORED - {"definitions"}:
                expanded.append(rest)
        return expanded

    def _names(self, schemas: Iterable[Schema], root: Schema) -> tuple[set[str], bool]:
        """The properties that schemas of one place declare, in any branch; and whether they also allow others."""
        pending, seen, names, is_open = [*schemas], set[int](), set[str](), False
        while pending:
            self._step()
            schema = pending.pop()
            if not isinstance(schema, dict) or id(cast("object", schema)) in seen:
                continue
            schema = cast("dict[str, Any]", schema)
            seen.add(id(schema))
            names.update(_as_object(schema.get("properties")))
            is_open = is_open or bool(schema.get("additionalProperties")) or bool(schema.get("patternProperties"))
            for keyword in ("allOf", "anyOf", "oneOf"):
                pending += _as_list(schema.get(keyword))
            pending += [schema.get(keyword) for keyword in ("if", "then", "else")]
            pending += _as_object(schema.get("dependentSchemas")).values()
            pending.append(_resolve(root, schema.get("$ref")))
        return names, is_open

    def _without(self, schema: Object, *keywords: str) -> Object:
        rest = {key: value for key, value in schema.items() if key not in keywords}
        return self._derive((id(schema), keywords), rest)

    def _derive(self, key: object, schema: Object) -> Object:
        return self.derived.setdefault(key, schema)

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise _TooComplexError


@dataclass(frozen=True)
class _Place:
    """Where a comparison is.

    Attributes:
        names: The properties that the first schema declares here, in any branch.
        assumed: Pairs of schemas that are compared further out in the value, and so need no second comparison.
        active: Pairs that are compared for this same value.
    """

    names: frozenset[str]
    assumed: frozenset[object]
    active: frozenset[object] = frozenset()


def _rejected_types(types: frozenset[str], outer: Object) -> list[str]:
    if "type" not in outer:
        return []
    missing = types - _types({"type": outer["type"]})
    if not _is_type(outer["type"]):
        return ["values of an unknown type"]
    names = {"number" if atom == "fraction" else atom for atom in missing}
    return [f"the type {name}" for name in sorted(names)]


def _rejected_values(inner: list[Object], types: frozenset[str], outer: Object) -> list[str]:
    allowed = _values(outer)
    if allowed is None:
        return []
    texts = {canonical(value) for value in allowed}
    listed = _listed_values(inner, types)
    if listed is None:
        return ["values that are not in its list"]
    rejected = [value for value in listed if canonical(value) not in texts]
    more = [f"{len(rejected) - _SHOWN_VALUES} more values"] if len(rejected) > _SHOWN_VALUES else []
    return [f"the value {_shown(value)}" for value in rejected[:_SHOWN_VALUES]] + more


def _rejected_limits(inner: list[Object], types: frozenset[str], outer: Object) -> list[str]:
    texts: list[str] = []
    for lower, upper, applies, noun in _LIMITS:
        if not types & applies:
            continue
        for keyword, sign, word in ((lower, 1, "below"), (upper, -1, "above")):
            exclusive = f"exclusive{keyword[0].upper()}{keyword[1:]}" if keyword in {"minimum", "maximum"} else ""
            wanted = _bound(outer, keyword, exclusive, sign)
            if wanted is None or (keyword.startswith("min") and keyword != "minimum" and wanted <= (0, 0)):
                continue
            bounds = [bound for schema in inner if (bound := _bound(schema, keyword, exclusive, sign)) is not None]
            if not bounds or max(bounds) < wanted:
                equal = "or equal to " if wanted[1] else ""
                texts.append(f"{noun} {word} {equal}{_shown(wanted[0] * sign)}")
    return texts


def _bound(schema: Object, keyword: str, exclusive: str, sign: int) -> tuple[float, int] | None:
    """A limit, as a pair that is greater if the limit is stricter; None if there is none."""
    bounds = [
        (schema[key] * sign, int(key == exclusive)) for key in (keyword, exclusive) if _is_number(schema.get(key))
    ]
    return max(bounds) if bounds else None


def _rejected_objects(inner: list[Object], outer: Object) -> list[str]:
    required = {name for schema in inner for name in _names_in(schema.get("required"))}
    missing = [name for name in _names_in(outer.get("required")) if name not in required]
    return [f"objects without {_shown(name)}" for name in missing]


def _rejected_by_others(inner: list[Object], outer: Object) -> list[str]:
    """The keywords of a schema that are only compared as a whole, and that no other schema has with the same value."""
    groups: list[tuple[str, ...]] = []
    for group in _GROUPS:
        is_simple = (
            group[0] == "prefixItems" and "prefixItems" not in outer and not isinstance(outer.get("items"), list)
        )
        if not is_simple and any(keyword in outer for keyword in group):
            groups.append(group)
    grouped = {keyword for group in _GROUPS for keyword in group}
    groups += [(keyword,) for keyword in outer if keyword not in grouped and not _is_compared(keyword, outer[keyword])]
    texts: list[str] = []
    for group in groups:
        wanted = {keyword: outer[keyword] for keyword in group if keyword in outer}
        if group[0].startswith(("unevaluated", "$")) or _has_reference(wanted):
            is_same = False
        elif group == ("multipleOf",) and _is_integer(outer["multipleOf"]) and outer["multipleOf"] > 0:
            is_same = any(
                _is_integer(s.get("multipleOf")) and s["multipleOf"] % outer["multipleOf"] == 0 for s in inner
            )
        else:
            is_same = any(
                canonical({keyword: schema[keyword] for keyword in group if keyword in schema}) == canonical(wanted)
                for schema in inner
            )
        if not is_same:
            texts.append(f"values that the keyword {_shown(next(iter(wanted)))} excludes")
    return texts


def _is_compared(keyword: str, value: object) -> bool:
    """Return whether a keyword is compared by its meaning; a value of the wrong kind is not."""
    match keyword:
        case "type" | "const":
            return True
        case "enum" | "required" | "allOf" | "anyOf" | "oneOf":
            return isinstance(value, list)
        case "properties" | "patternProperties":
            return isinstance(value, dict)
        case "additionalProperties":
            return isinstance(value, (dict, bool))
        case "uniqueItems":
            return value is False
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return _is_number(value)
        case "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties":
            return _is_number(value)
        case _:
            return keyword in _IGNORED_OR_FOLLOWED


def _types(schema: Object) -> frozenset[str]:
    """The types that a schema accepts; a number is an integer or a fraction."""
    types = _ALL_TYPES
    if _is_type(declared := schema.get("type")):
        names = cast("list[str]", declared if isinstance(declared, list) else [declared])
        types = frozenset[str]().union(*(_ATOMS[name] for name in names))
    if (values := _values(schema)) is not None:
        types &= {_type_of(value) for value in values}
    return types


def _is_type(value: object) -> bool:
    names = cast("list[object]", value if isinstance(value, list) else [value])
    return all(isinstance(name, str) and name in _ATOMS for name in names)


def _common_types(schemas: Iterable[Object]) -> frozenset[str]:
    types = _ALL_TYPES
    for schema in schemas:
        types &= _types(schema)
    return types


def _type_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "fraction"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _values(schema: Object) -> list[Any] | None:
    """The only values that a schema accepts; None if it has no list of them."""
    if "const" in schema:
        return [schema["const"]]
    return cast("list[Any]", schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _listed_values(schemas: Iterable[Object], types: frozenset[str]) -> list[Any] | None:
    """The only values of these types that schemas accept together; None if they have no list of them."""
    lists = [values for schema in schemas if (values := _values(schema)) is not None]
    if lists:
        texts = [{canonical(value) for value in values} for values in lists]
        common = texts[0].intersection(*texts[1:])
        return [value for value in lists[0] if _type_of(value) in types and canonical(value) in common]
    if types <= {"boolean", "null"}:
        return [*([None] if "null" in types else []), *([False, True] if "boolean" in types else [])]
    return None


def _property_schemas(schemas: Iterable[Object], name: str) -> tuple[Schema, ...]:
    """The schemas that apply to one property."""
    found: list[Schema] = []
    for schema in schemas:
        properties = _as_object(schema.get("properties"))
        if name in properties:
            found.append(properties[name])
        elif "additionalProperties" in schema and "patternProperties" not in schema:
            found.append(schema["additionalProperties"])
    return tuple(found)


def _patterns(schema: Object) -> Set[str]:
    return _as_object(schema.get("patternProperties")).keys()


def _resolve(root: Schema, reference: object) -> Schema:
    """The schema that a reference within the document names; None if there is none."""
    if not isinstance(reference, str) or not reference.startswith("#") or (reference != "#" and reference[1] != "/"):
        return None
    node: object = root
    for part in unquote(reference[2:]).split("/") if reference not in {"#", "#/"} else []:
        key = part.replace("~1", "/").replace("~0", "~")
        items = cast("list[object]", node) if isinstance(node, list) else []
        if items and key.isdecimal() and key.isascii() and len(key) < 7:
            node = items[int(key)] if int(key) < len(items) else None
        else:
            node = cast("Object", node).get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and "$id" in node:
            return None  # the references inside are relative to another address
    return cast("Schema", node) if isinstance(node, (dict, bool)) else None


def _has_reference(value: object) -> bool:
    text = canonical(value)
    return '"$ref"' in text or '"$dynamicRef"' in text or '"$recursiveRef"' in text


def _accepts_everything(schema: Schema) -> bool:
    return isinstance(schema, dict) and not _bare(cast("Object", schema))


def _bare(schema: Object) -> Object:
    return {key: value for key, value in schema.items() if key not in _IGNORED}


def _names_in(value: object) -> list[str]:
    return [name for name in _as_list(value) if isinstance(name, str)]


def _as_list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _as_object(value: object) -> Object:
    return cast("Object", value) if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

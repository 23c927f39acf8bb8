"""Binds query parameters as Google's front end does: by name in either spelling, by type, and no unknown one.

Behind it a handler reads canonical names (`validateOnly`) and canonical values (`true`, `false`) alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.rest.parameter_table import SYSTEM, TABLE

_PARAMETER: Final = re.compile(r"(?P<name>[$\w.]+)(?P<kind>:int|:bool)?(?P<repeated>\*)?(?P<mark>[!-])?")
_BOOLEANS: Final = {"true": "true", "1": "true", "false": "false", "0": "false"}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_NOTHING: Final = ("", "0", "false")
_MANY: Final = 200


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One query parameter of a method.

    Attributes:
        name: as the discovery document spells it.
        kind: `int`, `bool`, or empty for a string.
        repeated: whether it may be given several times.
        refused: Google honours it and this cloud does not.
    """

    name: str
    kind: str = ""
    repeated: bool = False
    refused: bool = False

    def read(self, value: str) -> str:
        """The canonical text of *value*.

        Raises:
            GoogleError: INVALID_ARGUMENT: of another type; UNIMPLEMENTED.
        """
        if self.kind == "bool":
            if value.lower() not in _BOOLEANS:
                raise _mistyped(self.name, "TYPE_BOOL", value)
            value = _BOOLEANS[value.lower()]
        elif self.kind == "int" and value and not _INTEGER.fullmatch(value):
            raise _mistyped(self.name, "TYPE_INT32" if self.name.endswith(("Size", "Results")) else "TYPE_INT64", value)
        if self.refused and value not in _NOTHING:
            raise unimplemented(self.name, "leave this query parameter out.")
        return value


@cache
def parameters() -> Mapping[tuple[str, str], Mapping[str, Parameter]]:
    """Every method (`GET`, the path of its route) with its parameters by each name that they go by."""
    system = SYSTEM.split()
    found: dict[tuple[str, str], Mapping[str, Parameter]] = {}
    for base, methods in TABLE.items():
        for line in filter(None, map(str.strip, methods.splitlines())):
            verb, *rest = line.split()
            path = rest.pop(0) if rest and rest[0][0] in ":/" else ""
            found[verb, base + path] = _by_name([*rest, *system])
    return found


def known_of(method: str, path: str) -> Mapping[str, Parameter] | None:
    """The parameters of the method at the route *path*; None where the path is no method of Google's JSON APIs."""
    return parameters().get((method, path))


def bind(query: str, known: Mapping[str, Parameter]) -> str:
    """The *query* with canonical names and values.

    Raises:
        GoogleError: INVALID_ARGUMENT: unknown, given twice, or of another type; UNIMPLEMENTED.
    """
    try:
        given = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MANY)
    except ValueError as refusal:
        raise invalid(f"Invalid query: {refusal}") from None
    bound: list[tuple[str, str]] = []
    seen: set[str] = set()
    for name, value in given:
        parameter = known.get(name)
        if parameter is None:
            raise invalid(
                f"Invalid JSON payload received. Unknown name {json.dumps(name)}: Cannot bind query parameter. "
                f"Field '{name}' could not be found in request message."
            )
        if parameter.name in seen and not parameter.repeated:
            raise invalid(
                f"Invalid JSON payload received. Unknown name {json.dumps(parameter.name)}: "
                "Proto field is not repeating, cannot start list."
            )
        seen.add(parameter.name)
        bound.append((parameter.name, parameter.read(value)))
    return urlencode(bound)


def binding(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """The *routes*; those of Google's JSON APIs take a query only through `bind`."""
    for route in routes:
        if isinstance(route, Route):
            known = {verb: found for verb in route.methods or () if (found := known_of(verb, route.path)) is not None}
            if known:
                route.app = _Bound(route.app, {"HEAD": known.get("GET", {}), **known})
    return list(routes)


class _Bound:
    def __init__(self, app: ASGIApp, known: Mapping[str, Mapping[str, Parameter]]) -> None:
        self._app = app
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if query := scope["query_string"]:
            bound = bind(query.decode("latin-1"), self._known[scope["method"]])
            scope = {**scope, "query_string": bound.encode("ascii")}
        await self._app(scope, receive, send)


def _by_name(declared: Sequence[str]) -> Mapping[str, Parameter]:
    names: dict[str, Parameter] = {}
    for text in declared:
        match = _PARAMETER.fullmatch(text)
        if match is None:
            raise ValueError(f"{text} declares no parameter")
        parameter = Parameter(
            name=match["name"],
            kind=(match["kind"] or "").removeprefix(":"),
            repeated=match["repeated"] is not None,
            refused=match["mark"] == "!",
        )
        names |= {parameter.name: parameter, _snake(parameter.name): parameter}
    return names


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _mistyped(name: str, kind: str, value: str) -> GoogleError:
    return invalid(f"Invalid value at '{_snake(name)}' ({kind}), {json.dumps(value)}")

"""Binds a request to its method, and its query parameters as Google's front end does: by name, by type, no unknown one.

Behind it a handler reads canonical names (`validateOnly`) and canonical values (`true`, `false`) alone, and the body
through `reading.body_of`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.rest.honoured import Standing, standing_of_parameter
from mcpfleet_local_cloud.rest.reading import METHOD, snake
from mcpfleet_local_cloud.rest.schemas import Method, api_of, method_at

_STRINGS: Final = (
    "access_token alt $alt callback fields $fields key oauth_token quotaUser $userProject uploadType userIp"
)
SYSTEM: Final[Mapping[str, str]] = {
    **dict.fromkeys([*_STRINGS.split(), "$.xgafv", "upload_protocol"], "string"),
    **dict.fromkeys(["prettyPrint", "$prettyPrint"], "bool"),
}
"""What every method has (cloud.google.com/apis/docs/system-parameters). A token belongs into the header."""
_SESSION: Final = {"upload_id": "string"}
"""Of a resumable upload, which goes on where it began (cloud.google.com/storage/docs/performing-resumable-uploads)."""
_BOOLEANS: Final = {"true": "true", "1": "true", "false": "false", "0": "false"}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_NOTHING: Final = ("", "0", "false")
_MANY: Final = 200


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One query parameter of a method.

    Attributes:
        name: as the discovery document spells it.
        kind: as the table has it.
        repeated: whether it may be given several times.
        standing: what the local cloud does with it.
    """

    name: str
    kind: str
    repeated: bool
    standing: Standing

    def read(self, value: str) -> str:
        """The canonical text of *value*.

        Raises:
            GoogleError: INVALID_ARGUMENT: of another type; UNIMPLEMENTED.
        """
        if self.kind == "bool":
            found = _BOOLEANS.get(value.lower())
        elif self.kind.startswith("enum "):
            found = value if value in ("", *self.kind.removeprefix("enum ").split("|")) else None
        elif self.kind.startswith(("int", "uint")):
            found = value if not value or _INTEGER.fullmatch(value) else None
        else:
            found = value
        if found is None:
            kind = f"TYPE_{self.kind.partition(' ')[0].upper()}"
            raise invalid(f"Invalid value at '{snake(self.name)}' ({kind}), {json.dumps(value)}")
        if self.standing.kind == "refused" and found not in _NOTHING:
            raise unimplemented(self.name, self.standing.why)
        return found


def parameters_of(method: Method, path: str = "") -> Mapping[str, Parameter]:
    """The parameters of *method* at *path*, by each name that they go by."""
    found: dict[str, Parameter] = {}
    for name, kind in {**SYSTEM, **method.query, **(_SESSION if path.startswith("/upload/") else {})}.items():
        one = Parameter(
            name=name,
            kind=kind.removesuffix("*"),
            repeated=kind.endswith("*"),
            standing=standing_of_parameter(method.id, name),
        )
        found |= {name: one, snake(name): one}
    return found


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
    """The *routes*; those of Google's JSON APIs take only what a method of Google's takes."""
    for route in routes:
        if isinstance(route, Route) and api_of(route.path):
            route.app = _Bound(route.app, route.path)
    return list(routes)


class _Bound:
    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path
        self._named = [name for name in ("collection", "setter") if f"{{{name}}}" in path]
        self._parameters: dict[str, Mapping[str, Parameter]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._path
        for name in self._named:
            path = path.replace(f"{{{name}}}", scope["path_params"][name])
        method = method_at("GET" if scope["method"] == "HEAD" else scope["method"], path)
        if method is None:
            raise GoogleError("NOT_FOUND", f"The local cloud has no method {scope['method']} {scope['path']}.")
        scope[METHOD] = method
        if query := scope["query_string"]:
            if method.id not in self._parameters:
                self._parameters[method.id] = parameters_of(method, path)
            bound = bind(query.decode("latin-1"), self._parameters[method.id])
            scope["query_string"] = bound.encode("ascii")
        await self._app(scope, receive, send)

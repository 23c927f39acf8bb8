"""Finds the method of a request and checks its query parameters as Google's front end does: known names, right types.

Handlers therefore see only canonical names (`validateOnly`) and canonical values (`true`, `false`). They read the body
with `message_parser.read_body`.
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
from mcpfleet_local_cloud.rest.message_parser import METHOD, to_snake_case
from mcpfleet_local_cloud.rest.schemas import Method, api_of, find_method
from mcpfleet_local_cloud.rest.supported_fields import Support, support_of_parameter

_STRINGS: Final = (
    "access_token alt $alt callback fields $fields key oauth_token quotaUser $userProject uploadType userIp"
)
SYSTEM_PARAMETERS: Final[Mapping[str, str]] = {
    **dict.fromkeys([*_STRINGS.split(), "$.xgafv", "upload_protocol"], "string"),
    **dict.fromkeys(["prettyPrint", "$prettyPrint"], "bool"),
}
"""The parameters of every method (cloud.google.com/apis/docs/system-parameters). A token belongs in the header."""
_UPLOAD_PARAMETERS: Final = {"upload_id": "string"}
"""The parameter of a resumable upload, which is continued at the URL where it began.

Source: cloud.google.com/storage/docs/performing-resumable-uploads.
"""
_BOOLEANS: Final = {"true": "true", "1": "true", "false": "false", "0": "false"}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_DEFAULT_VALUES: Final = ("", "0", "false")
_MAX_PARAMETERS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One query parameter of a method.

    Attributes:
        name: the name in the discovery document.
        kind: the type, as in the table (`schemas`).
        repeated: whether the parameter may occur several times.
        support: how far the local cloud supports it.
    """

    name: str
    kind: str
    repeated: bool
    support: Support

    def parse(self, value: str) -> str:
        """Return the canonical text of *value*.

        Raises:
            GoogleError: INVALID_ARGUMENT: *value* has the wrong type; UNIMPLEMENTED.
        """
        if self.kind == "bool":
            text = _BOOLEANS.get(value.lower())
        elif self.kind.startswith("enum "):
            text = value if value in ("", *self.kind.removeprefix("enum ").split("|")) else None
        elif self.kind.startswith(("int", "uint")):
            text = value if not value or _INTEGER.fullmatch(value) else None
        else:
            text = value
        if text is None:
            kind = f"TYPE_{self.kind.partition(' ')[0].upper()}"
            raise invalid(f"Invalid value at '{to_snake_case(self.name)}' ({kind}), {json.dumps(value)}")
        if self.support.level == "refused" and text not in _DEFAULT_VALUES:
            raise unimplemented(self.name, self.support.reason)
        return text


def parameters_of(method: Method, path: str = "") -> Mapping[str, Parameter]:
    """The parameters of *method* at *path*, by each of their accepted names."""
    parameters: dict[str, Parameter] = {}
    for name, kind in {
        **SYSTEM_PARAMETERS,
        **method.query,
        **(_UPLOAD_PARAMETERS if path.startswith("/upload/") else {}),
    }.items():
        parameter = Parameter(
            name=name,
            kind=kind.removesuffix("*"),
            repeated=kind.endswith("*"),
            support=support_of_parameter(method.id, name),
        )
        parameters |= {name: parameter, to_snake_case(name): parameter}
    return parameters


def bind_query(query: str, parameters: Mapping[str, Parameter]) -> str:
    """Return *query* with canonical names and values.

    Raises:
        GoogleError: INVALID_ARGUMENT: a parameter is unknown, repeated, or has the wrong type; UNIMPLEMENTED.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError as refusal:
        raise invalid(f"Invalid query: {refusal}") from None
    bound: list[tuple[str, str]] = []
    bound_names: set[str] = set()
    for name, value in pairs:
        parameter = parameters.get(name)
        if parameter is None:
            raise invalid(
                f"Invalid JSON payload received. Unknown name {json.dumps(name)}: Cannot bind query parameter. "
                f"Field '{name}' could not be found in request message."
            )
        if parameter.name in bound_names and not parameter.repeated:
            raise invalid(
                f"Invalid JSON payload received. Unknown name {json.dumps(parameter.name)}: "
                "Proto field is not repeating, cannot start list."
            )
        bound_names.add(parameter.name)
        bound.append((parameter.name, parameter.parse(value)))
    return urlencode(bound)


def bind_routes(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Make the routes of Google's JSON APIs check the method and the query parameters; return all *routes*."""
    for route in routes:
        if isinstance(route, Route) and api_of(route.path):
            route.app = _BoundApp(route.app, route.path)
    return list(routes)


class _BoundApp:
    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path
        self._variables = [name for name in ("collection", "setter") if f"{{{name}}}" in path]
        self._parameters: dict[str, Mapping[str, Parameter]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._path
        for name in self._variables:
            path = path.replace(f"{{{name}}}", scope["path_params"][name])
        method = find_method("GET" if scope["method"] == "HEAD" else scope["method"], path)
        if method is None:
            raise GoogleError("NOT_FOUND", f"The local cloud has no method {scope['method']} {scope['path']}.")
        scope[METHOD] = method
        if query := scope["query_string"]:
            if method.id not in self._parameters:
                self._parameters[method.id] = parameters_of(method, path)
            bound = bind_query(query.decode("latin-1"), self._parameters[method.id])
            scope["query_string"] = bound.encode("ascii")
        await self._app(scope, receive, send)

"""Checks what the local cloud answers against the schemas of Google's APIs."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_local_cloud.rest.message_parser import METHOD
from mcpfleet_local_cloud.rest.schemas import APIS, Method, load_api

_TEXTS = {
    "string": re.compile(r"(?s).*"),
    "int64": re.compile(r"-?\d+"),
    "uint64": re.compile(r"\d+"),
    "duration": re.compile(r"-?\d+(\.\d+)?s"),
    "timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
    "bytes": re.compile(r"[A-Za-z0-9+/_-]*=*"),
    "mask": re.compile(r"[\w.,*]*"),
}
_NUMBERS = {"int32": int, "uint32": int, "float": (int, float), "double": (int, float), "bool": bool}


def wrong(api: str, schema: str, answer: Any, path: str = "") -> Iterator[str]:
    """What of *answer* Google's *schema* does not have, by its path."""
    if not isinstance(answer, dict):
        yield f"{path} is no {schema}"
        return
    schema_fields = load_api(api).schemas[schema]
    for name, value in answer.items():
        field_path = f"{path}.{name}".lstrip(".")
        if name == "@type":
            continue
        if name not in schema_fields:
            yield f"{field_path} is no field of {schema}"
        else:
            yield from _of_kind(api, schema_fields[name].removesuffix("!"), value, field_path)
    if schema == "Operation" and not api.startswith("compute."):
        yield from _operation(api, answer)


def _operation(api: str, answer: Mapping[str, Any]) -> Iterator[str]:
    for part in ("metadata", "response"):
        nested = answer.get(part)
        if nested is None:
            continue
        if "@type" not in nested:
            yield f"operation {part} has no @type"
            continue
        short = nested["@type"].rpartition(".")[2]
        # An operation of one version is read by another one, too.
        api_name = next(
            (
                candidate
                for candidate in set(APIS.values())
                if _fits(candidate, api) and short in load_api(candidate).schemas
            ),
            None,
        )
        if api_name:
            yield from wrong(api_name, short, nested, part)
        elif short != "Empty":
            yield f"operation {part} is {nested['@type']}, which is no schema of {api}"
    if answer.get("done") and ("response" in answer) == ("error" in answer):
        yield "a finished operation has a response or an error"


def _fits(table_api: str, api: str) -> bool:
    return table_api.partition(".")[0] == api.partition(".")[0]


def _of_kind(api: str, kind: str, value: Any, path: str) -> Iterator[str]:
    if kind == "any":
        return
    if kind[0] in "[{":
        if not isinstance(value, list if kind[0] == "[" else dict):
            yield f"{path} = {value!r} is no {kind}"
            return
        for key, nested_value in enumerate(value) if isinstance(value, list) else value.items():
            yield from _of_kind(api, kind[1:-1], nested_value, f"{path}[{key}]")
    elif kind.startswith("enum "):
        if value not in kind.removeprefix("enum ").split("|"):
            yield f"{path} = {value!r} is no {kind}"
    elif kind in _TEXTS:
        if not isinstance(value, str) or not _TEXTS[kind].fullmatch(value):
            yield f"{path} = {value!r} is no {kind}"
    elif kind in _NUMBERS:
        if not isinstance(value, _NUMBERS[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{path} = {value!r} is no {kind}"
    else:
        yield from wrong(api, kind, value, path)


@dataclass
class Checked:
    """An app whose answers are checked; `found` has what is wrong with them."""

    app: ASGIApp
    found: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[bytes] = []
        status: list[int] = []

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
            await send(message)

        await self.app(scope, receive, seen)
        method = scope.get(METHOD)
        is_complete = b"fields=" not in scope.get("query_string", b"") and b"alt=media" not in scope.get(
            "query_string", b""
        )
        if method is not None and status == [200] and is_complete and not scope["path"].startswith("/download/"):
            self.found += self._judge(method, b"".join(parts))

    def _judge(self, method: Method, body: bytes) -> Iterator[str]:
        if not method.response:
            yield from () if not body else [f"{method.id} answers nothing"]
        elif body:
            yield from (f"{method.id}: {mistake}" for mistake in wrong(method.api, method.response, json.loads(body)))

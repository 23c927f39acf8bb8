"""Golden calls: calls of tools with what their answers must hold, in a file of the user's.

The file is a JSON list. Each call names a `tool`, its `arguments`, and what it expects: `outcome` (default: answered),
`contains` (texts of the answer), and `structured` (values that the structured answer must have, among others). With
several servers in one file, each call also names its `server`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import pydantic

from mcpfleet.errors import UsageError
from mcpfleet.inert import error_line, inert
from mcpfleet.schemas import canonical
from mcpfleet.system import decode_text
from mcpfleet.tool_calls import Outcome, ToolCall

MAX_BYTES: Final = 4 * 2**20
_SHOWN: Final = 200


class GoldenCall(pydantic.BaseModel):
    """A call, and what its answer must hold.

    Attributes:
        server: The server's name in the fleet; None if only one server is verified.
        tool: The tool's name.
        arguments: Its arguments.
        outcome: The outcome that the call must have.
        code: The code of the JSON-RPC error, or the HTTP status, that it must have; None for any.
        contains: Texts that the answer must contain.
        structured: Values that the structured answer must have; objects in it may have more keys.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    server: str | None = None
    tool: str = pydantic.Field(min_length=1)
    arguments: dict[str, Any] = pydantic.Field(default_factory=dict[str, Any])
    outcome: Literal["answered", "tool_error", "protocol_error", "http_error"] = "answered"
    code: int | None = None
    contains: list[str] = pydantic.Field(default_factory=list[str])
    structured: Any = None

    def find_failures(self, call: ToolCall) -> Iterator[str]:
        """What a call's outcome lacks; one line each."""
        expected: Outcome = self.outcome
        if call.outcome != expected:
            yield call.failure or f"{expected} was expected, and the tool answered: {inert(call.text, _SHOWN)}"
            return
        if self.code is not None and call.code != self.code:
            yield f"the code {self.code} was expected, and it is {call.code}"
        for text in self.contains:
            if text not in call.text:
                yield f'"{inert(text, _SHOWN)}" is not in the answer: {inert(call.text, _SHOWN)}'
        if self.structured is not None:
            answer = (call.result or {}).get("structuredContent")
            yield from _find_missing(self.structured, answer, "structured")


_CALLS: Final = pydantic.TypeAdapter(list[GoldenCall])


def read_golden_calls(file: Path | None, servers: Sequence[str]) -> Mapping[str, tuple[GoldenCall, ...]]:
    """Read golden calls, by the server that they call; none without a file.

    Raises:
        UsageError: The file cannot be read, is invalid, or calls a server that is not verified.
    """
    if file is None:
        return {}
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"--golden {file} is larger than {MAX_BYTES >> 20} MiB.")
        calls = _CALLS.validate_json(decode_text(content))
    except OSError as error:
        raise UsageError(f"--golden {file} cannot be read: {error.strerror}.") from None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        reason = inert(f"{place}: {first['msg']}" if place else first["msg"], _SHOWN)
        raise UsageError(f"--golden {file}: {reason}. It is a JSON list of calls such as {_EXAMPLE}.") from None
    except ValueError as error:
        raise UsageError(f"--golden {file} is not JSON: {error_line(error)}.") from None
    if not calls:
        raise UsageError(f"--golden {file} has no calls, so it would prove nothing.")
    by_server: dict[str, list[GoldenCall]] = {}
    for index, call in enumerate(calls):
        name = call.server or (servers[0] if len(servers) == 1 else "")
        if name not in servers:
            problem = f"{inert(call.server, 80)} is not verified" if call.server else "it names no server"
            raise UsageError(f"--golden {file}: [{index}]: {problem}. The servers are: {', '.join(servers)}.")
        by_server.setdefault(name, []).append(call)
    return {name: tuple(listed) for name, listed in by_server.items()}


_EXAMPLE: Final = '{"tool": "add", "arguments": {"a": 1}, "contains": ["1"]}'


def _find_missing(expected: object, actual: object, path: str) -> Iterator[str]:
    """The values that are missing or different; an object may have more keys, and a list may not be longer."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        values = cast("dict[str, object]", actual)
        for key, value in cast("dict[str, object]", expected).items():
            if key in values:
                yield from _find_missing(value, values[key], f"{path}.{key}")
            else:
                yield f"{inert(f'{path}.{key}', 80)} is missing"
        return
    if isinstance(expected, list) and isinstance(actual, list):
        items, values = cast("list[object]", expected), cast("list[object]", actual)
        if len(items) == len(values):
            for index, (value, item) in enumerate(zip(items, values, strict=True)):
                yield from _find_missing(value, item, f"{path}[{index}]")
            return
    texts = canonical(cast("object", expected)), canonical(cast("object", actual))
    if texts[0] != texts[1]:
        yield f"{inert(path, 80)} should be {inert(texts[0], _SHOWN)}, and is {inert(texts[1], _SHOWN)}"

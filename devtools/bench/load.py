"""Load for an MCP endpoint: several connections with sequential calls, whose responses are checked."""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

_LEGACY: Final = "2025-11-25"
_MODERN: Final = "2026-07-28"
_PREFIX: Final = "io.modelcontextprotocol/"


@dataclass(frozen=True)
class Response:
    """An HTTP response and its JSON-RPC message.

    Attributes:
        status: The HTTP status.
        headers: The headers by lower-case name.
        message: The last message in the body; None if there is none.
    """

    status: int
    headers: dict[str, str]
    message: dict[str, Any] | None

    def text(self) -> str | None:
        """The text of a tool's result; None if it is an error."""
        result = (self.message or {}).get("result", {})
        if result.get("isError") or not result.get("content"):
            return None
        return result["content"][0].get("text")

    def error_text(self) -> str:
        """The error message of a failed response; empty if it has none."""
        message = self.message or {}
        if "error" in message:
            return str(message["error"].get("message", ""))
        content: list[dict[str, Any]] = message.get("result", {}).get("content") or [{}]
        return str(content[0].get("text", ""))


@dataclass
class Figures:
    """The figures of a load.

    Attributes:
        seconds: The duration of the load.
        times: The seconds of each successful call.
        wrong: The number of failed calls, by problem.
    """

    seconds: float = 0.0
    times: list[float] = field(default_factory=list[float])
    wrong: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def rate(self) -> float:
        """Successful calls per second."""
        return len(self.times) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The time in milliseconds that the given share of the calls stayed below."""
        ordered = sorted(self.times) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def tool_call(tool: str, arguments: dict[str, Any], identity: int, *, modern: bool) -> tuple[Any, dict[str, str]]:
    """The message of a tool call and its HTTP headers."""
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    headers = {"mcp-protocol-version": _LEGACY}
    if modern:
        params["_meta"] = {f"{_PREFIX}protocolVersion": _MODERN, f"{_PREFIX}clientCapabilities": {}}
        headers = {"mcp-protocol-version": _MODERN, "mcp-method": "tools/call", "mcp-name": tool}
    return {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}, headers


class Client:
    """A client with one persistent connection to an endpoint."""

    def __init__(self, url: str, *, modern: bool, stateful: bool = False) -> None:
        self._url = urlsplit(url)
        self._modern = modern
        self._stateful = stateful
        self._session: str | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, tool: str, arguments: dict[str, Any], identity: int = 1) -> Response:
        """Call a tool.

        Raises:
            OSError: The connection broke.
            asyncio.IncompleteReadError: The response is incomplete.
            ValueError: The response is not JSON.
        """
        if self._stateful and self._session is None:
            await self._begin_session()
        message, headers = tool_call(tool, arguments, identity, modern=self._modern)
        if self._session:
            headers["mcp-session-id"] = self._session
        answer = await self._post(message, headers)
        if self._stateful and answer.status in (400, 404):
            self._session = None
        return answer

    async def _begin_session(self) -> None:
        info = {"name": "bench", "version": "1"}
        params = {"protocolVersion": _LEGACY, "capabilities": {}, "clientInfo": info}
        answer = await self._post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, {})
        self._session = answer.headers.get("mcp-session-id")
        if self._session is None:
            raise ConnectionError(f"no session: {answer.status} {answer.error_text()}")
        headers = {"mcp-session-id": self._session, "mcp-protocol-version": _LEGACY}
        await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)

    async def _post(self, message: dict[str, Any], headers: dict[str, str]) -> Response:
        body = json.dumps(message).encode()
        lines = [
            f"POST {self._url.path} HTTP/1.1",
            f"host: {self._url.netloc}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._url.hostname, self._url.port, limit=2**20)
        reader, writer = self._streams
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            return await _read(reader)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    status = int(head[0].split()[1])
    if headers.get("content-type", "").startswith("text/event-stream"):
        events = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
        events = [event for event in events if event.startswith(b"{")]
        return Response(status, headers, json.loads(events[-1]) if events else None)
    try:
        return Response(status, headers, json.loads(body) if body else None)
    except ValueError:
        return Response(status, headers, None)


async def load(url: str, *, connections: int, seconds: float, modern: bool, stateful: bool) -> Figures:
    """Call `add` repeatedly on several connections for a number of seconds."""
    figures = Figures()
    clients = [Client(url, modern=modern, stateful=stateful) for _ in range(connections)]
    for client in clients:
        await client.call("add", {"a": 1, "b": 2})  # opens sessions and connections before the measurement
    started = time.perf_counter()

    async def call_repeatedly(number: int, client: Client) -> None:
        while (start := time.perf_counter()) - started < seconds:
            number += connections
            try:
                answer = await client.call("add", {"a": number, "b": 1}, number)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                figures.wrong[type(error).__name__] = figures.wrong.get(type(error).__name__, 0) + 1
                continue
            if answer.text() == str(number + 1) and (answer.message or {}).get("id") == number:
                figures.times.append(time.perf_counter() - start)
            else:
                problem = f"{answer.status} {answer.error_text()[:80]}"
                figures.wrong[problem] = figures.wrong.get(problem, 0) + 1

    await asyncio.gather(*(call_repeatedly(number, client) for number, client in enumerate(clients)))
    figures.seconds = time.perf_counter() - started
    for client in clients:
        await client.close()
    return figures

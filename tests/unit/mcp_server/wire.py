"""Sends one HTTP request to an ASGI application and records its messages, which ordinary clients hide."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

MODERN = "2026-07-28"
SECONDS = 5


class Request:
    """A request in flight."""

    def __init__(self, app, scope, body=b"", *, has_more=False) -> None:
        self._in: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._in.put_nowait({"type": "http.request", "body": body, "more_body": has_more})
        self.task = asyncio.create_task(app(scope, self._in.get, self._send))

    async def _send(self, message) -> None:
        # As a connection that is full does: whoever else wants to write gets a turn in between.
        for _ in range(5 if message["type"] == "http.response.start" else 1):
            await asyncio.sleep(0)
        await self.out.put(message)

    def hang_up(self) -> None:
        """The client goes away."""
        self._in.put_nowait({"type": "http.disconnect"})

    async def start(self) -> tuple[int, dict[str, str]]:
        """Wait for status and headers."""
        message = await asyncio.wait_for(self.out.get(), SECONDS)
        assert message["type"] == "http.response.start", message
        headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return message["status"], headers

    async def part(self) -> tuple[bytes, bool]:
        """Wait for the next part of the body, and whether there is more."""
        message = await asyncio.wait_for(self.out.get(), SECONDS)
        assert message["type"] == "http.response.body", message
        return message.get("body", b""), message.get("more_body", False)

    async def event(self) -> dict[str, Any]:
        """Wait for the next event of a stream."""
        body, _ = await self.part()
        assert body.startswith(b"event: message\r\ndata: "), body
        return json.loads(body.partition(b"data: ")[2])

    async def answer(self) -> tuple[int, Any]:
        """Wait for a complete JSON response."""
        status, headers = await self.start()
        assert headers["content-type"] == "application/json", headers
        body, has_more = await self.part()
        assert not has_more
        await asyncio.wait_for(self.task, SECONDS)
        return status, json.loads(body)


def meta(**more) -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        **more,
    }


def message(method="tools/call", params=None, *, modern=True, progress=None, request_id=1) -> dict[str, Any]:
    """A JSON-RPC request as a client of either protocol version sends it."""
    params = dict(params or {})
    extra = {} if progress is None else {"progressToken": progress}
    if modern:
        params["_meta"] = meta(**extra)
    elif extra:
        params["_meta"] = extra
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def scope_of(content, *, modern=True, path="/mcp", headers=()) -> dict[str, Any]:
    lines = [
        (b"host", b"localhost"),
        (b"accept", b"application/json, text/event-stream"),
        (b"content-type", b"application/json"),
    ]
    if modern:
        lines += [(b"mcp-protocol-version", MODERN.encode()), (b"mcp-method", content["method"].encode())]
        name = content["params"].get("name") or content["params"].get("uri")
        if name:
            lines.append((b"mcp-name", name.encode()))
    replaced = {name for name, _ in headers}
    lines = [line for line in lines if line[0] not in replaced] + [line for line in headers if line[1] is not None]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": lines,
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }


def post(app, content, *, modern=True, headers=()) -> Request:
    """Send a message."""
    return Request(app, scope_of(content, modern=modern, headers=headers), json.dumps(content).encode())


def get(app, path, headers=()) -> Request:
    scope = scope_of({"method": "", "params": {}}, modern=False, path=path, headers=headers)
    return Request(app, {**scope, "method": "GET"})


def call(app, name, arguments=None, *, modern=True, progress=None, headers=()) -> Request:
    """Call a tool."""
    content = message(params={"name": name, "arguments": arguments or {}}, modern=modern, progress=progress)
    return post(app, content, modern=modern, headers=headers)


@asynccontextmanager
async def started(app):
    """Run an application's lifespan round a block."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await asyncio.wait_for(from_app.get(), SECONDS))["type"] == "lifespan.startup.complete"
    try:
        yield app
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(task, SECONDS)

"""Fixtures for hosted servers in memory: settings, HTTP through ASGI, the SDK's client, captured logs."""

import gc
import io
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from mcpfleet_server import logs
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.asgi import lifespan

URL = "http://127.0.0.1:8080"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    """The developer's own variables don't reach a test."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    return Settings


@pytest.fixture
def serving(make_settings):
    """`async with serving(server, **environment) as http`: the hosted server, spoken to over HTTP in memory."""

    @asynccontextmanager
    async def serve(server, headers=None, **environment) -> AsyncIterator[httpx2.AsyncClient]:
        app = build_app(server, make_settings(**environment))
        transport = httpx2.ASGITransport(app)
        async with (
            lifespan(app),
            httpx2.AsyncClient(transport=transport, base_url=URL, headers=headers) as http,
        ):
            yield http

    return serve


@pytest.fixture(params=["legacy", "auto"])
def protocol(request) -> str:
    """Both protocol versions, as the SDK's client names them; `auto` is the newest that the server speaks."""
    return request.param


@pytest.fixture
def connected(serving, protocol):
    """`async with connected(server, **environment) as client`: the official client over HTTP, in each version."""

    @asynccontextmanager
    async def connect(server, **options) -> AsyncIterator[Client]:
        async with (
            serving(server, **options) as http,
            Client(streamable_http_client(f"{URL}/mcp", http_client=http), mode=protocol) as client,
        ):
            yield client

    return connect


@pytest.fixture
def process_state() -> Iterator[None]:
    """Put back what a process installs for good: log handlers and levels, signal handlers, frozen objects."""
    root, handler = logging.getLogger(), signal.getsignal(signal.SIGTERM)
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs._VERBOSE_LOGGERS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, original in levels.items():
        logging.getLogger(name).setLevel(original)
    logging.captureWarnings(capture=False)
    logs.bind_trace(None)
    signal.signal(signal.SIGTERM, handler)
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def logged(process_state) -> Callable[..., list[dict[str, Any]]]:
    """Install our logging on a buffer; call it for the lines so far, each of which has to be a JSON object."""
    stream = io.StringIO()
    logs.install(stream=stream)

    def lines(**install: Any) -> list[dict[str, Any]]:
        if install:
            logs.install(stream=stream, **install)
        text = stream.getvalue()
        assert text == "" or text.endswith("\n")
        entries = [json.loads(line) for line in text.splitlines()]
        assert all(isinstance(entry, dict) for entry in entries)
        return entries

    return lines

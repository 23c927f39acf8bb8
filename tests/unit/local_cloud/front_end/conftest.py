"""An ingress in memory: a fake instance behind it, and requests that are driven event by event."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end.ingress import create_ingress
from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.network.upstream import Response, UpstreamError

SERVICE = "projects/p/locations/europe-west1/services/echo"
PORT = 18555
URL = f"http://127.0.0.1:{PORT}"
DOOR = ServiceEndpoint(
    service=SERVICE,
    audiences=frozenset({URL, "https://echo-1.europe-west1.run.app", "my-audience"}),
    hosts=frozenset({"echo-1.europe-west1.run.app"}),
)


@dataclass
class FakeInstance:
    """A fake instance: it answers as configured and records its requests."""

    status: int = 200
    headers: list = field(default_factory=lambda: [(b"Content-Type", b"text/plain")])
    chunks: list = field(default_factory=lambda: [b"hello"])
    breaks_before: bool = False
    breaks_after: int | None = None
    hangs: bool = False
    timeout: float = 300.0
    requests: list = field(default_factory=list)
    given_up: int = 0
    released: int = 0
    refuses: Exception | None = None

    affinity: str = ""

    async def lease(self, service, affinity=""):
        self.asked_for = affinity
        if self.refuses is not None:
            raise self.refuses
        return self

    @property
    def upstream(self):
        return self

    def release(self):
        self.released += 1

    @asynccontextmanager
    async def send(self, method, target, headers, body):
        received = b"".join([chunk async for chunk in body]) if body is not None else None
        self.requests.append((method, target, headers, received))
        try:
            if self.breaks_before:
                raise UpstreamError("connection reset")
            yield Response(self.status, self.headers, self._body())
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _body(self):
        for number, chunk in enumerate(self.chunks):
            if number == self.breaks_after:
                raise UpstreamError("connection reset")
            yield chunk
        if self.hangs:
            await asyncio.Event().wait()


class Rights:
    """The callers with permission to invoke: a set of email addresses; None in it stands for all users."""

    def __init__(self, *members):
        self.members = set(members)

    def allows(self, email, permission, resource):
        assert (permission, resource) == ("run.routes.invoke", SERVICE)
        return email in self.members


class Exchange:
    """One request with the messages sent to its caller; the caller can disconnect."""

    def __init__(self, app, path, headers, method, body, query, raw_path=None):
        self.events = []
        self.hung_up = asyncio.Event()
        self.began = asyncio.Event()
        self.body_began = asyncio.Event()
        self._incoming = list(body)
        self._app = app
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": raw_path or path.encode(),
            "query_string": query,
            "headers": headers,
            "server": ("127.0.0.1", PORT),
            "client": ("127.0.0.9", 40000),
        }

    async def run(self):
        async def receive():
            if self._incoming:
                chunk = self._incoming.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(self._incoming)}
            await self.hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            self.events.append(message)
            (self.body_began if self.began.is_set() else self.began).set()

        async with asyncio.timeout(10):
            await self._app(self.scope, receive, send)
        return self

    @property
    def status(self):
        return self.events[0]["status"]

    @property
    def headers(self):
        return dict(self.events[0]["headers"])

    @property
    def body(self):
        return b"".join(event.get("body", b"") for event in self.events[1:])

    @property
    def complete(self):
        return self.events[-1].get("more_body") is False


@pytest.fixture(scope="session")
def signer(tmp_path_factory):
    """The cloud's own signature."""
    return Identity(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def front(signer):
    """`front(instance, …)`: one request through the ingress; returns the finished exchange."""

    def request(
        instance,
        *,
        path="/mcp",
        headers=(),
        method="GET",
        body=(b"",),
        query=b"",
        rights=None,
        door=DOOR,
        during=None,
        host=f"127.0.0.1:{PORT}",
    ):
        async def scenario():
            app = create_ingress(lambda port: door, signer, rights or Rights(None), instance)
            exchange = Exchange(app, path, [(b"host", host.encode()), *headers], method, body, query)
            running = asyncio.create_task(exchange.run())
            if during is not None:
                await during(exchange, running)
            return await running

        return asyncio.run(scenario())

    return request


@pytest.fixture
def kit():
    """The names of this module for the tests, which can't import a conftest."""

    class Kit:
        Instance = FakeInstance
        May = Rights
        service, port, url, door = SERVICE, PORT, URL, DOOR

    return Kit

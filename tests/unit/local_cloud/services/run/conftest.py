"""A Cloud Run in memory: its HTTP API, a data plane that records its calls, and a way to kill it at any moment."""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from mcpfleet_local_cloud.data_plane.contract import Revision, RolloutError
from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.rest.parameters import bind_routes
from mcpfleet_local_cloud.services.run import RunModel, routes
from mcpfleet_local_cloud.state.store import Document, Store
from tests.unit.local_cloud.answers import Checked

PROJECT, NUMBER, REGION = "demo", 481516234200, "europe-west1"
SERVICES = f"/run/v2/projects/{PROJECT}/locations/{REGION}/services"
RUNTIME = f"mcp-hello@{PROJECT}.iam.gserviceaccount.com"
COMPUTE = f"{NUMBER}-compute@developer.gserviceaccount.com"
DIGEST = "sha256:" + "a" * 64
PATIENCE = 5


class MemoryStore(Store):
    """A store that reports when data is on disk."""

    def __init__(self) -> None:
        super().__init__(None)
        self.written: Callable[[], None] = lambda: None

    def put(self, kind: str, name: str, body: Document) -> None:
        super().put(kind, name, body)
        self._tell()

    def delete(self, kind: str, name: str) -> bool:
        try:
            return super().delete(kind, name)
        finally:
            self._tell()

    @contextmanager
    def transaction(self) -> Generator[None]:
        with super().transaction():
            yield
        self._tell()

    def _tell(self) -> None:
        if self._depth == 0:
            self.written()

    def copy(self) -> "MemoryStore":
        other = MemoryStore()
        source: sqlite3.Connection = self._db
        source.backup(other._db)
        return other


class Plane:
    """A data plane that only records its calls; it can be slow (`hold`), refuse (`refuse`) and fail (`broken`)."""

    def __init__(self) -> None:
        self.running: dict[str, Revision] = {}
        self.routed: dict[str, Revision] = {}
        self.calls: list[tuple[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.broken: dict[str, Exception] = {}
        self.holds: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.happened: Callable[[], None] = lambda: None

    def hold(self, step: str) -> asyncio.Event:
        """Let the next calls of *step* wait until the event is set."""
        self.holds[step] = asyncio.Event()
        return self.holds[step]

    async def _step(self, step: str, subject: str) -> None:
        self.calls.append((step, subject))
        self.happened()
        self.reached[step].set()
        if step in self.holds:
            await self.holds[step].wait()
        if step in self.broken:
            raise self.broken[step]
        if step in self.refusals:
            raise RolloutError(self.refusals[step])
        await asyncio.sleep(0)

    async def resolve(self, image: str) -> str:
        await self._step("resolve", image)
        return image if "@" in image else f"{image.partition(':')[0]}@{DIGEST}"

    async def start(self, revision: Revision) -> None:
        # As containers do: they are there before the probe succeeds, and stay where the caller is killed.
        running = self.running.get(revision.name)
        self.running[revision.name] = revision
        try:
            await self._step("start", revision.name)
        except RolloutError:
            self.running.pop(revision.name)
            if running is not None:
                self.routed = {
                    name: running_revision
                    for name, running_revision in self.routed.items()
                    if running_revision.name != revision.name
                }
            raise
        self.happened()

    async def route(self, service: str, revision: Revision) -> None:
        await self._step("route", revision.name)
        assert self.running[revision.name] == revision, "routed to what does not run"
        self.routed[service] = revision
        self.happened()

    async def retire(self, revision: Revision) -> None:
        await self._step("retire", revision.name)
        assert revision.name not in {routed_revision.name for routed_revision in self.routed.values()}, (
            "retired what serves"
        )
        self.running.pop(revision.name, None)
        self.happened()

    async def remove(self, service: str) -> None:
        await self._step("remove", service)
        self.routed.pop(service, None)
        short = service.rpartition("/")[2]
        self.running = {name: revision for name, revision in self.running.items() if revision.service != short}
        self.happened()

    def address(self, service: str) -> str:
        if "address" in self.refusals:
            raise RolloutError(self.refusals["address"])
        return f"http://127.0.0.1:{20000 + sum(service.encode()) % 1000}"

    def count(self, step: str) -> int:
        return sum(1 for called, _ in self.calls if called == step)


class FakeAuthorizer:
    """The bearer is the caller's e-mail address; rights are the real policies'."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self.apis = {"run.googleapis.com"}

    def authenticate(self, request: Request) -> Any:
        email = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not email:
            raise GoogleError("UNAUTHENTICATED", "Request is missing required authentication credential.")
        return type("Caller", (), {"email": email})()

    def require(self, caller: Any, permission: str, resource: str) -> None:
        if not self.policies.allows(caller.email, permission, resource):
            raise GoogleError(
                "PERMISSION_DENIED", f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
            )

    def require_api(self, project: str, api: str) -> None:
        if api not in self.apis:
            raise GoogleError("PERMISSION_DENIED", f"{api} has not been used in project {project}")

    def find_project(self, id_or_number: str) -> Document:
        if id_or_number not in (PROJECT, str(NUMBER)):
            raise GoogleError("PERMISSION_DENIED", f"Permission denied on resource project {id_or_number}.")
        return {"projectId": PROJECT, "projectNumber": str(NUMBER)}


class World:
    """A Cloud Run; `restarted` returns it as a new process would find it."""

    def __init__(self, store: MemoryStore | None = None, plane: Plane | None = None) -> None:
        self.store = store or MemoryStore()
        self.plane = plane or Plane()
        self.accounts = {RUNTIME, COMPUTE}
        self.operations = Operations(self.store)
        self.policies = Policies(self.store, lambda email: email in self.accounts)
        if store is None:
            self.policies.set(
                f"projects/{PROJECT}", {"bindings": [{"role": "roles/owner", "members": ["user:ann@x.org"]}]}
            )
        self.authorizer = FakeAuthorizer(self.policies)
        self.model = RunModel(
            self.store,
            self.operations,
            self.plane,
            self.policies,
            lambda: "127.0.0.1:8470",
            accounts=type("Accounts", (), {"exists": lambda _, email: email in self.accounts})(),
            networks=type("Networks", (), {"network_of": lambda *_: ("default", "default")})(),
            meshes=type("Meshes", (), {"exists": lambda _, mesh: mesh.endswith("/meshes/there")})(),
            instance_data=type("Sources", (), {"check": lambda _, revision: None})(),
        )
        authorizer: Any = self.authorizer
        app = Starlette(routes=bind_routes(routes(self.model, authorizer)), exception_handlers={GoogleError: _refusal})
        self.app = Checked(app)
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://cloud")

    async def call(self, method: str, path: str, body: Any = None, *, as_: str = "ann@x.org", **extra: Any) -> Any:
        path = path if path.startswith("/run/") else f"{SERVICES}{path}"
        headers = {"Authorization": f"Bearer {as_}"} if as_ else {}
        return await self.client.request(method, path, json=body, headers=headers, **extra)

    async def ok(self, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        answer = await self.call(method, path, body, **extra)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def begin(self, body: Any, name: str = "hello") -> Document:
        """Ask for a service; the operation, still running."""
        return await self.ok("POST", f"?serviceId={name}", body)

    async def finish(self, operation: Document) -> Document:
        async with asyncio.timeout(PATIENCE):
            return await self.operations.wait(operation["name"], PATIENCE)

    async def create(self, body: Any, name: str = "hello") -> Document:
        done = await self.finish(await self.begin(body, name))
        assert "error" not in done, done
        return await self.ok("GET", f"/{name}")

    async def patch(self, body: Any, name: str = "hello", query: str = "") -> Document:
        """Replace a service; the finished operation."""
        done = await self.finish(await self.ok("PATCH", f"/{name}{query}", body))
        async with asyncio.timeout(PATIENCE):
            await self.model.wait_drained()
        return done

    async def revisions(self, name: str = "hello") -> dict[str, str]:
        """The state of each revision, by its number."""
        services = self.model.inventory()
        return next(
            (
                {revision["name"].split("-")[-2]: revision["state"] for revision in service["revisions"]}
                for service in services
            ),
            {},
        )

    def snapshot(self) -> Callable[[], "World"]:
        """Return the store and the containers as a new process finds them after `kill -9` at this moment."""
        store, running = self.store.copy(), dict(self.plane.running)

        def reborn() -> World:
            plane = Plane()
            plane.running = dict(running)  # Docker keeps them; routes are gone with the process
            world = World(store.copy(), plane)
            world.accounts = set(self.accounts)
            return world

        return reborn

    async def close(self) -> None:
        await self.model.close()
        await self.operations.close()
        await self.client.aclose()
        assert sorted(set(self.app.found)) == [], "the answers are not those of Google's schemas"


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GoogleError)
    return JSONResponse(error.body(), status_code=error.http_code)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def new_world() -> type[World]:
    return World


@pytest.fixture
async def world(anyio_backend: str) -> Any:
    world = World()
    yield world
    await world.close()


@pytest.fixture
def body() -> Document:
    """A service as small as can be."""
    return {"template": {"containers": [{"image": "docker.io/acme/hello:1"}]}}


@pytest.fixture
def wire_body() -> Document:
    """The create body of docs/google-apis.md 1.1, as the provider sent it, without its secret."""
    return {
        "customAudiences": ["mcp://hello"],
        "ingress": "INGRESS_TRAFFIC_ALL",
        "labels": {"a": "b", "goog-pulumi-provisioned": "true"},
        "template": {
            "containers": [
                {
                    "env": [{"name": "S", "value": ""}, {"name": "A", "value": "b"}],
                    "image": "docker.io/acme/hello",
                    "resources": {"cpuIdle": True, "limits": {"cpu": "1", "memory": "512Mi"}},
                    "startupProbe": {
                        "failureThreshold": 3,
                        "grpc": None,
                        "httpGet": {"path": "/healthz"},
                        "periodSeconds": 10,
                        "tcpSocket": None,
                        "timeoutSeconds": 1,
                    },
                }
            ],
            "scaling": {"maxInstanceCount": 3},
            "serviceAccount": RUNTIME,
        },
    }

"""A local cloud in memory, with clients and a clock: no socket, process or container."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google.auth._helpers
import google.oauth2.service_account
import httpx2
import pytest
from starlette.testclient import TestClient

import mcpfleet_local_cloud.bootstrap
from mcpfleet_local_cloud.app import create_app
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.environment import exports
from mcpfleet_local_cloud.data_plane.contract import Revision
from mcpfleet_local_cloud.identity.tokens import Identity, new_key
from mcpfleet_local_cloud.plugins.call import Call
from mcpfleet_local_cloud.plugins.gcp.config import _camel_case, configure
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.resources import CheckInput
from mcpfleet_local_cloud.plugins.values import Secret
from mcpfleet_local_cloud.state.folder import Settings
from tests.unit.local_cloud.answers import Checked

NOW = 1_790_000_000.0
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"


class Clock:
    """A clock that the test advances."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class MemoryPlane:
    """A data plane that records what it was told to run."""

    running: dict[str, Revision] = field(default_factory=dict)
    routed: dict[str, str] = field(default_factory=dict)

    async def resolve(self, image: str) -> str:
        return image if "@" in image else f"{image.rpartition(':')[0]}@sha256:{'0' * 64}"

    async def start(self, revision: Revision) -> None:
        self.running[revision.name] = revision

    async def route(self, service: str, revision: Revision) -> None:
        self.routed[service] = revision.name

    async def retire(self, revision: Revision) -> None:
        self.running.pop(revision.name, None)

    async def remove(self, service: str) -> None:
        self.routed.pop(service, None)
        short = service.rpartition("/")[2]
        self.running = {name: revision for name, revision in self.running.items() if revision.service != short}

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{20000 + sum(service.encode()) % 1000}"


@dataclass
class Ran:
    """A step that a worker was given."""

    arguments: list[str]
    environment: tuple[tuple[str, str], ...]
    files: dict[str, str]


class MemoryWorker:
    """A build worker that records what it was told to run."""

    def __init__(self) -> None:
        self.steps: list[Ran] = []
        self.says = ["building the weather"]
        self.pushed: list[tuple[str, str]] = []
        self.forgotten: list[str] = []
        self.failure: Exception | None = None
        self.push_failure: Exception | None = None
        self.held = False
        self.began = threading.Event()
        self.ended_by_cancel = False
        self.who: Any = None

    async def run(self, step: Any, log: Any) -> None:
        files = {
            path.relative_to(step.folder).as_posix(): path.read_text()
            for path in sorted(step.folder.rglob("*"))
            if path.is_file()
        }
        self.steps.append(Ran(list(step.arguments), step.environment, files))
        for line in self.says:
            log(line)
        self.began.set()
        if self.held:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ended_by_cancel = True
                raise
        if self.failure is not None:
            raise self.failure

    async def push(self, image: str, token: str, log: Any) -> str:
        if self.push_failure is not None:
            raise self.push_failure
        self.pushed.append((image, self.who(token)))
        return "sha256:" + "d1" * 32

    async def remove(self, images: Any) -> None:
        self.forgotten += images


@pytest.fixture
def worker() -> MemoryWorker:
    return MemoryWorker()


@pytest.fixture(scope="session")
def cloud_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The signing key that every cloud of this session gets: making one takes a tenth of a second."""
    folder = tmp_path_factory.mktemp("cloud-keys")
    Identity(folder)
    return folder


@pytest.fixture(scope="session")
def account_key() -> Any:
    """The key that every deployer of this session gets, for the same reason."""
    return new_key()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time, also for google-auth."""
    clock = Clock()
    monkeypatch.setattr(
        google.auth._helpers, "utcnow", lambda: datetime.fromtimestamp(clock.now, UTC).replace(tzinfo=None)
    )
    return clock


@pytest.fixture
def plane() -> MemoryPlane:
    return MemoryPlane()


@dataclass
class Running:
    """A started cloud and the means to call it."""

    cloud: Cloud
    client: TestClient
    clock: Clock
    plane: MemoryPlane
    lines: list[dict[str, Any]]
    credentials: Path

    @property
    def project(self) -> str:
        return self.cloud.settings.project

    def credential(self, name: str) -> dict[str, Any]:
        return json.loads((self.credentials / f"{name}.json").read_text())

    def access_token(self, email: str) -> str:
        return self.cloud.identity.mint_access_token(email=email, scopes=[CLOUD_PLATFORM])[0]

    def headers(self, email: str | None = None) -> dict[str, str]:
        email = email or f"deployer@{self.project}.iam.gserviceaccount.com"
        return {"Authorization": f"Bearer {self.access_token(email)}"}

    def call(self, method: str, path: str, body: Any = None, *, as_: str | None = None, **extra: Any) -> Any:
        """The answer to a request of the deployer (or of the principal *as_*)."""
        headers = {**self.headers(as_), **extra.pop("headers", {})}
        return self.client.request(method, path, json=body, headers=headers, **extra)

    def grant(self, role: str, member: str, resource: str | None = None) -> None:
        """Add a grant behind the API's back."""
        name = resource or f"projects/{self.project}"
        policy = self.cloud.policies.get(name)
        bindings = [*policy.get("bindings", []), {"role": role, "members": [member]}]
        self.cloud.policies.set(name, {"bindings": bindings})

    def enable(self, *apis: str) -> None:
        self.cloud.usage.enable(self.cloud.projects.get(self.project), [f"{api}.googleapis.com" for api in apis])


@pytest.fixture
def settings(tmp_path: Path, cloud_keys: Path, account_key: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(mcpfleet_local_cloud.bootstrap, "new_key", lambda: account_key)
    state = tmp_path / "cloud"
    shutil.copytree(cloud_keys, state / "keys")
    return Settings(state=state)


@pytest.fixture
def web() -> dict[str, Any]:
    """The responses of issuers on this machine by URL, as bytes or a document; other URLs refuse the connection."""
    return {}


def _issuers(web: dict[str, Any]) -> httpx2.MockTransport:
    def answer(request: httpx2.Request) -> httpx2.Response:
        content = web.get(str(request.url))
        if content is None:
            raise httpx2.ConnectError("connection refused")
        if isinstance(content, int):
            return httpx2.Response(content, headers={"location": "http://127.0.0.1:1/"})
        return httpx2.Response(200, content=content if isinstance(content, bytes) else json.dumps(content).encode())

    return httpx2.MockTransport(answer)


@pytest.fixture
def start(
    settings: Settings,
    clock: Clock,
    plane: MemoryPlane,
    worker: MemoryWorker,
    tmp_path: Path,
    web: dict[str, Any],
) -> Iterator[Any]:
    """Start the cloud of this test's state, again and again if wished: `start(port=…)` as a context."""

    @contextmanager
    def started(**changes: Any) -> Iterator[Running]:
        cloud = Cloud(replace(settings, **changes), data_plane=plane, worker=worker, issuers=_issuers(web), clock=clock)
        worker.who = cloud.identity.verify_access_token
        lines: list[dict[str, Any]] = []
        app = Checked(create_app(cloud, lines.append))
        with TestClient(app, raise_server_exceptions=False) as client:
            assert client.portal is not None
            client.portal.call(cloud.start)
            try:
                yield Running(cloud, client, clock, plane, lines, tmp_path / "credentials")
            finally:
                client.portal.call(cloud.stop)
        assert sorted(set(app.found)) == [], "the answers are not those of Google's schemas"

    return started


@pytest.fixture
def running(start: Any) -> Iterator[Running]:
    """A started cloud, as a fresh project is."""
    with start() as running:
        yield running


@pytest.fixture
def deployer_jwt(running: Running) -> str:
    """The bearer that google-auth makes from `deployer.json` by itself, without a call."""
    credentials = google.oauth2.service_account.Credentials.from_service_account_info(
        running.credential("deployer"), scopes=[CLOUD_PLATFORM]
    )
    credentials.refresh(None)
    assert isinstance(credentials.token, (str, bytes))
    return credentials.token if isinstance(credentials.token, str) else credentials.token.decode()


@dataclass
class Program:
    """The emulated gcp provider over this cloud's own APIs: what a Pulumi program would get."""

    running: Running
    api: Api = field(init=False)
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        endpoints = {
            _camel_case(name.removeprefix("GOOGLE_")): value
            for name, value in exports(CloudFolder(root=Path(), state=Path()), None).items()
            if name.endswith("_CUSTOM_ENDPOINT")
        }
        settings = {"project": self.running.project, "region": "europe-west1", "accessToken": "t", **endpoints}
        self.api = Api(configure(settings, {}), httpx2.MockTransport(self._answer))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")
        self.bodies.append(request.content)
        headers = {**self.running.headers(), "content-type": request.headers.get("content-type", "")}
        answer = self.running.client.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=headers
        )
        return httpx2.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

    def check(self, kind: str, inputs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        checked, failures = RESOURCES[kind].check(self.api, CheckInput(name="res", olds={}, news=inputs))
        return opened(checked), [failure.reason for failure in failures]

    def create(self, kind: str, inputs: dict[str, Any]) -> Any:
        """The resource as the engine keeps it."""
        checked, failures = self.check(kind, inputs)
        assert failures == []
        return RESOURCES[kind].create(self.api, Call(), "res", checked, preview=False)

    def update(self, kind: str, state: Any, inputs: dict[str, Any]) -> Any:
        """Update the resource to other inputs; a change that needs a replacement is an error."""
        assert not any(change.replace for change in self.diff(kind, state, inputs).values())
        checked, _ = self.check(kind, inputs)
        updated = RESOURCES[kind].update(self.api, Call(), state.resource_id, state.properties, checked, preview=False)
        return replace(state, properties=updated)

    def diff(self, kind: str, state: Any, inputs: dict[str, Any]) -> Any:
        checked, failures = self.check(kind, inputs)
        assert failures == []
        return RESOURCES[kind].diff(self.api, state.properties, checked).changes

    def replaced(self, kind: str, state: Any, inputs: dict[str, Any]) -> list[str]:
        """The properties that force a new resource."""
        return sorted(path for path, change in self.diff(kind, state, inputs).items() if change.replace)

    def read(self, kind: str, state: Any) -> Any:
        return RESOURCES[kind].read(self.api, Call(), state.resource_id, state.properties)

    def imported(self, kind: str, identity: str) -> Any:
        return RESOURCES[kind].read(self.api, Call(), identity, {})

    def delete(self, kind: str, state: Any) -> None:
        RESOURCES[kind].delete(self.api, Call(), state.resource_id, state.properties)


RESOURCES: dict[str, Any] = GcpProvider()._resources


def opened(value: Any) -> Any:
    """Secrets as the engine passes them back."""
    if isinstance(value, Secret):
        return opened(value.value)
    if isinstance(value, dict):
        return {key: opened(item) for key, item in value.items()}
    return [opened(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def program(running: Running) -> Program:
    return Program(running)

"""Fixtures of the real gcp provider's recorded calls, of the project before, and of the same fleet on the emulated one.

`create.jsonl` is the fleet of 103 resources from nothing, `edit.jsonl` the beginning of its change, `drift.jsonl` a
lost resource made again: pulumi-gcp (the bridge of 9.35, the provider's code of 10.x) against a local cloud in November
2026. A line is a call: method and path, body, status, and the answer's shape, in which only etags and the names of
operations are as they were. Uploads and what other providers sent (Cloud Build, Logging) are left out, and reads that
brought nothing new.
"""

import json
import runpy
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import pulumi
import pytest
import yaml
from pulumi.runtime import mocks, settings

from mcpfleet_local_cloud.plugins.call import Call
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.resources import CheckInput
from mcpfleet_local_cloud.plugins.values import from_struct, to_struct
from tests.unit.event_loops import event_loops

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
APIS = (
    "agentregistry artifactregistry cloudbuild compute dns iam iamcredentials iap logging networksecurity "
    "networkservices run secretmanager storage trafficdirector"
)
DIGEST = "sha256:" + "d1" * 32
Named = tuple[str, str]


@pytest.fixture
def calls() -> Callable[[str], list[dict[str, Any]]]:
    """The calls of a recording."""

    def recorded(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]

    return recorded


@pytest.fixture
def project(running: Any) -> Any:
    """The project of the recording: its APIs, and what its fleet takes for granted."""
    running.enable(*APIS.split())
    base = f"projects/{running.project}"
    for secret in ("toolbox-db", "toolbox-config", "iap-client"):
        running.call("POST", f"/secretmanager/v1/{base}/secrets?secretId={secret}", {"replication": {"automatic": {}}})
        for _ in range(2):
            running.call("POST", f"/secretmanager/v1/{base}/secrets/{secret}:addVersion", {"payload": {"data": "YQ=="}})
    running.call("POST", f"/storage/v1/b?project={running.project}", {"name": "acme-data", "location": "EU"})
    running.call("POST", f"/iam/v1/{base}/serviceAccounts", {"accountId": "shared-sa"})
    return running


@dataclass
class Made:
    """A resource as the engine keeps it."""

    resource_id: str
    inputs: dict[str, Any]
    state: dict[str, Any]


@dataclass
class Engine(pulumi.runtime.Mocks):
    """The part of the Pulumi engine that an update needs, over the emulated gcp provider."""

    program: Any
    project: str
    made: dict[Named, Made] = field(default_factory=dict)
    seen: list[Named] = field(default_factory=list)
    looked_up: set[str] = field(default_factory=set[str])
    replaced: list[tuple[Named, Made]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    provider: GcpProvider = field(default_factory=GcpProvider)

    def up(self, fleet: str) -> list[tuple[str, str, Any]]:
        """Bring the stack to the fleet of that file; the calls that it took: method, path, body."""
        self.seen.clear()
        before = len(self.program.requests)
        given = yaml.safe_load((HERE / fleet).read_text())
        config = {"gcp:project": self.project, "mcpfleet:fleet": json.dumps(given, sort_keys=True)}
        with event_loops(2):
            try:
                mocks.set_mocks(self, project="mcpfleet", stack="test")
                pulumi.runtime.set_all_config(config)
                pulumi.runtime.test(lambda: runpy.run_path(str(ROOT), run_name="__main__"))()
            finally:
                settings.reset_options()
                pulumi.runtime.set_all_config({})
        gone = [(name, self.made.pop(name)) for name in reversed([*self.made]) if name not in self.seen]
        for name, made in [*self.replaced, *gone]:
            self._delete(name, made)
        self.replaced.clear()
        return [
            (*_call(request), json.loads(body) if body.startswith(b"{") else None)
            for request, body in list(zip(self.program.requests, self.program.bodies, strict=True))[before:]
        ]

    def changes(self, of: Callable[[Made], dict[str, Any]]) -> dict[Named, list[str]]:
        """Return the changes of a second update, over the states that *of* returns."""
        found: dict[Named, list[str]] = {}
        for name, made in self.made.items():
            diff = self._of(name).diff(self.program.api, from_struct(to_struct(of(made))), made.inputs)
            if diff.changes:
                found[name] = sorted(diff.changes)
        return found

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if not args.typ.startswith("gcp:"):
            tags = args.inputs.get("tags") or [""]
            return f"{args.name}-id", {**args.inputs, "digest": DIGEST, "ref": f"{tags[0]}@{DIGEST}"}
        with self.lock:
            name = (args.typ, args.name)
            self.seen.append(name)
            self.made[name] = self._updated(name, self.made.get(name), dict(args.inputs))
            return self.made[name].resource_id, self.made[name].state

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        with self.lock:
            before = len(self.program.requests)
            try:
                return self._opened(self.provider._invokes[args.token](self.program.api, Call(), dict(args.args))), []
            finally:
                self.looked_up |= {" ".join(_call(item)) for item in self.program.requests[before:]}

    def _updated(self, name: Named, old: Made | None, news: dict[str, Any]) -> Made:
        resource, api = self._of(name), self.program.api
        asked = CheckInput(name=name[1], olds=old.inputs if old else {}, news=from_struct(to_struct(news)))
        checked, failures = resource.check(api, asked)
        assert failures == [], (name, failures)
        inputs = self._opened(checked)
        if old is not None:
            difference = resource.diff(api, old.state, inputs)
            if not any(change.replace for change in difference.changes.values()):
                if not difference.changes:
                    return old
                state = resource.update(api, Call(), old.resource_id, old.state, inputs, preview=False)
                return Made(old.resource_id, inputs, self._opened(state))
            if old.inputs.get("name") == inputs.get("name"):
                self._delete(name, old)
            else:
                self.replaced.append((name, old))
        made = resource.create(api, Call(), name[1], inputs, preview=False)
        return Made(made.resource_id, inputs, self._opened(made.properties))

    def _delete(self, name: Named, made: Made) -> None:
        self._of(name).delete(self.program.api, Call(), made.resource_id, made.state)

    def _of(self, name: Named) -> Any:
        return self.provider._resources[name[0]]

    def _opened(self, properties: Any) -> dict[str, Any]:
        return from_struct(to_struct(properties))


def _call(request: str) -> tuple[str, str]:
    """Method and path, without what every call has."""
    method, _, target = request.partition(" ")
    path, _, query = target.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query) if name not in ("alt", "prettyPrint")]
    return method, unquote(path) + (f"?{urlencode(sorted(kept))}" if kept else "")


@pytest.fixture
def engine(project: Any, program: Any, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine without resources; the provider's pauses take no time."""
    monkeypatch.setattr(Call, "wait", lambda self, _seconds: self.raise_if_stopped())
    return Engine(program, project.project)

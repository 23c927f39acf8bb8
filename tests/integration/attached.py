"""A local cloud without containers, emulated providers, and stacks that use both."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pulumi
import pulumi_gcp as gcp
import pytest
import uvicorn
from pulumi import automation

from mcpfleet_local_cloud.app import create_app
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.state.folder import Settings
from tests.integration.checkout import free_port

PROJECT = "mcpfleet-local"
REGION = "europe-west1"
ENGINE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mcpfleet/pulumi/v3.256.0"
ENDPOINTS = {
    "GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT": "run/v2/",
    "GOOGLE_ARTIFACT_REGISTRY_CUSTOM_ENDPOINT": "artifactregistry/v1/",
    "GOOGLE_IAM_BETA_CUSTOM_ENDPOINT": "iam/v1/",
    "GOOGLE_RESOURCE_MANAGER_CUSTOM_ENDPOINT": "crm/v1/",
    "GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT": "serviceusage/v1beta1/",
    "GOOGLE_CLOUD_BILLING_CUSTOM_ENDPOINT": "billing/v1/",
}


@dataclass
class BookPlane:
    """Runs nothing; fails on demand."""

    broken: str = ""
    running: dict[str, object] = field(default_factory=dict)
    gate: threading.Event | None = None

    async def resolve(self, image):
        return image if "@" in image else f"{image}@sha256:{'0' * 64}"

    async def start(self, revision):
        deadline = time.monotonic() + 60
        while self.gate is not None and not self.gate.is_set() and time.monotonic() < deadline:  # noqa: ASYNC110 - another thread opens it
            await asyncio.sleep(0.02)
        if self.broken:
            raise RolloutError(self.broken)
        self.running[revision.name] = revision

    async def route(self, service, revision):
        pass

    async def retire(self, revision):
        self.running.pop(revision.name, None)

    async def remove(self, service):
        self.running = {name: item for name, item in self.running.items() if item.service != service.rpartition("/")[2]}

    def address(self, service):
        return f"http://127.0.0.1:{20000 + sum(service.encode()) % 1000}"


class Google:
    """A local cloud on loopback that can be stopped and started again on the same port."""

    def __init__(self, folder):
        self.port = free_port()
        self.settings = Settings(state=folder / "cloud", port=self.port)
        self.credentials = folder / "credentials"
        self.plane = BookPlane()
        self.lines = []
        self.cloud = None

    def start(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(30), "the local cloud did not start"

    async def _serve(self, ready):
        self.cloud = Cloud(self.settings, data_plane=self.plane, credentials=self.credentials)
        app = create_app(self.cloud, self.lines.append)
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_config=None, lifespan="off"))
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 - uvicorn tells it by a flag only
            await asyncio.sleep(0.01)
        await self.cloud.start()
        ready.set()
        await serving
        await self.cloud.stop()

    def stop(self):
        self._server.should_exit = True
        self._thread.join(30)

    def calls(self):
        """The requests since the last question, without the polling of operations."""
        lines, self.lines[:] = list(self.lines), []
        return [f"{item['method']} {item['path']}" for item in lines if "/operations/" not in item["path"]]

    def changes(self):
        return [item for item in self.calls() if not item.startswith("GET")]


@contextlib.contextmanager
def loops_closed():
    """Close the event loops that are made meanwhile: the Automation API leaves that of a program that failed open.

    Its language server cancels the program's tasks, and passes over `loop.close()` if one of them ends otherwise. The
    collector of garbage finds the loop and its coroutines whenever it runs; after the last test it fails the whole run.
    """
    made, new = [], asyncio.new_event_loop

    def noted():
        made.append(new())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", noted)
        yield
    for loop in made:
        if not loop.is_closed():
            if tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks, timeout=10))
            loop.close()


class Deployment:
    """A stack of its own state."""

    def __init__(self, attached, folder, name):
        self.program = lambda: None
        self.folder = folder
        path = os.environ["PATH"] if shutil.which("pulumi") else f"{ENGINE}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            "PATH": path,
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DEBUG_PROVIDERS": attached,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        os.environ["PATH"] = path
        self.stack = automation.create_stack(
            stack_name=name,
            project_name="plugins",
            program=lambda: self.program(),  # noqa: PLW0108 - each update may bring another program
            opts=automation.LocalWorkspaceOptions(env_vars=self.environment, work_dir=str(folder)),
        )
        for key, value in {
            "gcp:project": PROJECT,
            "gcp:region": REGION,
            "gcp:universeDomain": "mcpfleet.test",
            "gcp:pollInterval": "1s",
            "gcp:batching": '{"sendAfter":"0s"}',
        }.items():
            self.stack.set_config(key, automation.ConfigValue(value))

    def up(self, program=None, **more):
        self.program = program or self.program
        return self.stack.up(on_event=lambda _event: None, **more)

    def changes(self, program=None, **more):
        """Return the operations of an update, without unchanged resources."""
        summary = self.up(program, **more).summary.resource_changes
        return {kind: count for kind, count in summary.items() if kind != "same"}

    def state(self):
        return self.stack.export_stack().deployment

    @property
    def file(self):
        """The path of the state on disk; an export would show secrets."""
        return next((self.folder / ".pulumi/stacks").rglob(f"{self.stack.name}.json"))

    def pulumi(self, *command):
        """The command itself, where the Automation API has no method for it."""
        done = subprocess.run(
            ["pulumi", *command, "--stack", self.stack.name, "--non-interactive"],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def resource(self, kind):
        found = [item for item in self.state()["resources"] if item["type"].endswith(kind)]
        assert len(found) == 1, f"{kind}: {[item['urn'] for item in found]}"
        return found[0]


def engine_of(parent):
    """The Pulumi CLI that this process started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if int(after_name[1]) == parent and name == "pulumi":
            return int(folder.name)
    raise AssertionError("no engine is running")


APIS = ("run", "iam", "artifactregistry", "cloudresourcemanager", "cloudbilling", "serviceusage")


def fleet(name, *, memory="512Mi", location=REGION, labels=True, imports=None, **service):
    """Create a resource of each type that the project's program uses; *imports* has the ids of existing resources."""
    marks = {"fleet": name} if labels else None

    def options(resource, **more):
        return pulumi.ResourceOptions(import_=(imports or {}).get(resource), **more)

    def program():
        apis = [gcp.projects.Service(api, service=f"{api}.googleapis.com", opts=options(api)) for api in APIS]
        repository = gcp.artifactregistry.Repository(
            "images",
            repository_id=f"{name}-images",
            location=REGION,
            format="DOCKER",
            labels=marks,
            cleanup_policies=[{"id": "keep", "action": "KEEP", "most_recent_versions": {"keep_count": 5}}],
            opts=options("images", depends_on=apis),
        )
        account = gcp.serviceaccount.Account(
            "account",
            account_id=f"mcp-{name}",
            display_name=f"MCP server {name}",
            opts=options("account", depends_on=apis),
        )
        cloud_run = gcp.cloudrunv2.Service(
            "service",
            **{
                "name": f"mcp-{name}",
                "location": location,
                "deletion_protection": False,
                "labels": marks,
                "template": {
                    "service_account": account.email,
                    "scaling": {"max_instance_count": 3},
                    "containers": [
                        {
                            "image": pulumi.Output.concat(repository.registry_uri, "/app@sha256:", "0" * 64),
                            "ports": {"container_port": 8080},
                            "envs": [
                                {"name": "MCP_PATH", "value": "/mcp"},
                                {"name": "TOKEN", "value": pulumi.Output.secret("hush")},
                            ],
                            "resources": {"limits": {"cpu": "1", "memory": memory}, "cpu_idle": True},
                            "startup_probe": {"http_get": {"path": "/health"}, "period_seconds": 1},
                        }
                    ],
                },
                **service,
            },
            opts=options("service", depends_on=apis),
        )
        invoker = gcp.cloudrunv2.ServiceIamMember(
            "invoker",
            name=cloud_run.name,
            location=cloud_run.location,
            role="roles/run.invoker",
            member="user:ada@mcpfleet.test",
            opts=options("invoker"),
        )
        pulumi.export("uri", cloud_run.uri)
        pulumi.export("registry", repository.registry_uri)
        pulumi.export("invoker", invoker.id)
        pulumi.export("project", gcp.organizations.get_project().number)

    return program

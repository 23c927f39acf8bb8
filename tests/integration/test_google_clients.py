"""Google's own clients, unmodified, use the local cloud's APIs, and check the tables of the APIs.

The cloud is in memory, behind a port: no container is needed for what its control plane says.
"""

import asyncio
import copy
import json
import os
import re
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from devtools.discovery import COMMAND, find_documents, render_tables, served_routes, short_names
from devtools.peers import find_google_clients
from mcpfleet_local_cloud.app import create_app
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from mcpfleet_local_cloud.rest.message_parser import fields_of
from mcpfleet_local_cloud.rest.schemas import APIS, FOLDER, api_of, load_api
from mcpfleet_local_cloud.rest.supported_fields import ENUM_NUMBERS
from mcpfleet_local_cloud.state.folder import Settings
from tests.integration.checkout import free_port
from tests.unit.local_cloud.answers import Checked
from tests.unit.local_cloud.conftest import MemoryPlane, MemoryWorker, Running
from tests.unit.local_cloud.everything import PLACE, PROJECT, fill

pytestmark = pytest.mark.integration

CLIENTS = Path(__file__).parent / "google_clients.py"
ROBOT = "/iamcredentials/v1/projects/-/serviceAccounts/account-aa@mcpfleet-local.iam.gserviceaccount.com"
STEPS = (
    *("run", "secret_manager", "artifact_registry", "cloud_storage"),
    *("every_list_by_its_discovery_document", "numbers_of_enums"),
)


@pytest.fixture(scope="module")
def served_cloud(tmp_path_factory):
    """A cloud in memory with two of everything, and the requests that made them; its answers are judged."""
    state, port = tmp_path_factory.mktemp("google") / "cloud", free_port()
    cloud = Cloud(Settings(state=state, port=port), data_plane=MemoryPlane(), worker=MemoryWorker())
    app = Checked(create_app(cloud, lambda _: None))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))

    async def serve() -> None:
        await cloud.start()
        await server.serve()
        await cloud.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    for _ in range(600):
        if server.started:
            break
        time.sleep(0.05)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        plane: Any = cloud.data_plane
        running = Running(cloud, client, time.time, plane, [], state.parent / "credentials")
        yield running, fill(running)
    server.should_exit = True
    thread.join(30)
    assert sorted(set(app.found)) == [], "the answers are not those of Google's schemas"


@pytest.fixture(scope="module")
def outcomes(served_cloud):
    """The results of the steps of google_clients.py."""
    cloud, _ = served_cloud
    packages = find_google_clients(ThisHost(), Paths.from_environ(os.environ))
    command = [sys.executable, "-S", str(CLIENTS), str(cloud.client.base_url).rstrip("/")]
    command += [str(cloud.credentials / "deployer.json"), str(FOLDER)]
    environ = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environ)
    assert done.returncode == 0, done.stderr
    return {item["step"]: item for item in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("step", STEPS)
def test_googles_client_libraries_work_unmodified(outcomes, step):
    assert "raised" not in outcomes[step], outcomes[step]["raised"]


def test_googles_client_libraries_read_every_page_of_every_list(outcomes):
    found = outcomes["every_list_by_its_discovery_document"]["gave"]

    assert [name for name, count in found.items() if count < 2] == [
        "cloudresourcemanager.v1 cloudresourcemanager.projects.list",  # there is one
        "iam.v1 iam.projects.serviceAccounts.keys.list",  # it has no pages
        "logging.v2 logging.entries.list",  # there are none
    ]
    for step, name in (("run", "aa"), ("secret_manager", "aa"), ("cloud_storage", "bucket-aa")):
        assert outcomes[step]["gave"][:1] == [name]


def test_an_enum_value_has_the_number_of_googles_packages(outcomes):
    """A number that is read as another value would be honoured as that."""
    wrong, compared = set(), 0
    packages = outcomes["numbers_of_enums"]["gave"]
    for api in sorted(set(APIS.values())):
        known: list[dict[str, int]] = packages.get(api.partition(".")[0], [])
        for values in asked_for(api):
            numbers = {name: number for number, name in enumerate(ENUM_NUMBERS.get(values[0], values)) if name}
            # A newer document has some names more.
            same = [item for item in known if 2 * len(set(values) & set(item)) > len(values)]
            compared += bool(same)
            if same and not any(all(item.get(name) in (None, numbers[name]) for name in numbers) for item in same):
                wrong.add(values)

    assert wrong == set()
    assert compared > 20


def asked_for(api):
    """The values of every enum that a request to *api* may have, and that is not only the API's to write."""
    left = [method.request for method in load_api(api).methods.values() if method.request]
    seen, found = set(left), set()
    while left:
        for one in fields_of(api, left.pop()).values():
            inner = one.kind.strip("[]{}")
            if one.support.level != "output_only" and inner in load_api(api).schemas and inner not in seen:
                left.append(inner)
                seen.add(inner)
            elif one.support.level != "output_only" and inner.startswith("enum "):
                found.add(tuple(inner.removeprefix("enum ").split("|")))
    return found


def test_the_tables_match_the_generators_output():
    made = render_tables(find_documents(), served_routes())

    assert [api for api, table in made.items() if (FOLDER / f"{api}.json").read_text() != table] == [], COMMAND


# What everything.py does not make, for what Google requires in it.
FURTHER = [
    (
        f"/run/v2/{PLACE}/services?serviceId=large",
        {
            "template": {
                "containers": [
                    {
                        "image": "docker.io/acme/hello:1",
                        "env": [
                            {"name": "A", "value": "b"},
                            {"name": "S", "valueSource": {"secretKeyRef": {"secret": "aa"}}},
                        ],
                        "startupProbe": {"httpGet": {"httpHeaders": [{"name": "A", "value": "b"}]}},
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    }
                ],
                "volumes": [{"name": "v", "secret": {"secret": "aa", "items": [{"path": "p", "version": "1"}]}}],
            }
        },
    ),
    (f"/run/v2/{PLACE}/services/aa:setIamPolicy", {"policy": {"bindings": []}}),
    (f"/artifactregistry/v1/{PLACE}/repositories/aa:setIamPolicy", {"policy": {"bindings": []}}),
    (f"/secretmanager/v1/{PROJECT}/secrets/aa:setIamPolicy", {"policy": {"bindings": []}}),
    (
        f"/secretmanager/v1/{PROJECT}/secrets?secretId=replicated",
        {"replication": {"userManaged": {"replicas": [{"location": "europe-west1"}]}}},
    ),
    (
        f"/agentregistry/v1/{PLACE}/services?serviceId=mcp",
        {
            "mcpServerSpec": {"type": "NO_SPEC"},
            "interfaces": [{"url": "https://a.dev", "protocolBinding": "JSONRPC"}],
        },
    ),
    (f"/agentregistry/v1/{PLACE}/services?serviceId=agent", {"agentSpec": {"type": "NO_SPEC"}}),
    (f"{ROBOT}:generateAccessToken", {"scope": ["https://www.googleapis.com/auth/cloud-platform"]}),
    (f"{ROBOT}:generateIdToken", {"audience": "https://a.dev"}),
]


def test_fields_that_google_requires_are_required(served_cloud):
    """A request without it would be taken here, and refused by Google."""
    cloud, sent = served_cloud
    cloud.enable("iamcredentials")
    cloud.grant(
        "roles/iam.serviceAccountTokenCreator", f"serviceAccount:deployer@{cloud.project}.iam.gserviceaccount.com"
    )
    taken, tried = [], set()
    for path, body in sent + FURTHER:
        api, method = api_of(path), method_of(path)
        assert (path, body) not in FURTHER or cloud.call("POST", path, body).status_code == 200, path
        # A name that is free: what is wrong with a request is to be said, not that the name is taken.
        free, last = re.subn(r"Id=[\w-]*$", "Id=another-one", path)
        for where in requirements(api, method.request, body):
            lacking = copy.deepcopy(body)
            holder = lacking
            for one in where[:-1]:
                holder = holder[one]
            del holder[where[-1]]
            tried.add((api, where[-1]))
            answer = cloud.call("POST", free, lacking)
            if answer.status_code != 400:
                taken.append(f"{path} without {where}: {answer.text}")
        if last and cloud.call("POST", path.partition("?")[0], body).status_code != 400:
            taken.append(f"{path} without an id")

    assert taken == []
    assert len(tried) > 20


def method_of(path):
    found = load_api(api_of(path)).methods.items()
    bare = path.partition("?")[0]
    return next(
        method
        for key, method in found
        if key.startswith("POST ") and re.fullmatch(re.sub(r"\{\w+\}", "[^/:]+", key.removeprefix("POST ")), bare)
    )


@cache
def required(api):
    """The fields of each schema whose description begins with `Required`."""
    document = json.loads((find_documents() / f"{api}.json").read_text())["schemas"]
    return {
        name: {
            field
            for field, item in schema.get("properties", {}).items()
            if item.get("description", "").lower().startswith(("required", "[required]"))
        }
        for name, schema in zip(short_names(document).values(), document.values(), strict=True)
    }


def requirements(api, schema, value, at=()):
    """The way to every field of the message *value* that has to be there."""
    for name, inner in value.items():
        found = fields_of(api, schema)[name]
        if name in required(api).get(schema, ()):
            yield (*at, name)
        kind = found.kind.strip("[]{}")
        for key, one in {"[": enumerate, "{": dict.items}.get(found.kind[0], lambda one: [(None, one)])(inner):
            if isinstance(one, dict) and kind in load_api(api).schemas:
                yield from requirements(api, kind, one, (*at, name) if key is None else (*at, name, key))

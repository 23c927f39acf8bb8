"""The whole program, `__main__.py` itself, with the real config files of the repository."""

import json
import re
import runpy
from pathlib import Path
from typing import get_args

import pulumi
import pytest
import yaml

from pulumi_mcpfleet.fleet import parse_fleet
from pulumi_mcpfleet.fleet.base import kind_of
from pulumi_mcpfleet.fleet.client import Client
from pulumi_mcpfleet.fleet.sources import KINDS

ROOT = Path(__file__).parents[3]
STACKS = sorted(path.name for path in ROOT.glob("Pulumi.*.yaml"))

ACCOUNT = "gcp:serviceaccount/account:Account"
CLOUD_IMAGE = "mcpfleet-build:index:Image"
GRANT = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
IMAGE = "docker-build:index:Image"
CLIENT = "mcpfleet:index:McpClient"
SERVER = "mcpfleet:index:McpServer"
SERVICE = "gcp:cloudrunv2/service:Service"


def stack_config(name):
    config = yaml.safe_load((ROOT / name).read_text())["config"]
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}


@pytest.fixture(name="run")
def _run(deploy):
    """Run `__main__.py` with a stack's config file, or with a fleet."""

    def run(stack="Pulumi.dev.yaml", *, fleet=None, **options):
        config = stack_config(stack) | ({} if fleet is None else {"mcpfleet:fleet": json.dumps(fleet)})
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config, **options)

    return run


def test_there_are_stacks_to_run():
    assert {"Pulumi.dev.yaml", "Pulumi.local.yaml"} <= set(STACKS)


@pytest.mark.parametrize("stack", STACKS)
def test_every_stack_of_the_repository_deploys_every_server_and_client_it_names(run, stack):
    fleet = json.loads(stack_config(stack)["mcpfleet:fleet"])
    servers, clients = set(fleet["servers"]), set(fleet.get("clients", {}))
    plan = run(stack)
    assert plan.names(SERVER) == set(plan.exports["servers"]) == servers
    assert plan.names(CLIENT) == set(plan.exports["clients"]) == clients
    builders = {name for name in plan.names(ACCOUNT) if name == "fleet-build"}
    assert plan.names(ACCOUNT) - builders == servers | clients
    assert bool(builders) == bool(plan.of(CLOUD_IMAGE)), "who builds is there where something is built in the cloud"
    assert {service.inputs["name"] for service in plan.of(SERVICE)} == {f"mcp-{name}" for name in servers | clients}


@pytest.mark.parametrize("stack", STACKS)
def test_a_preview_of_a_new_stack_plans_the_same_resources_though_nothing_is_known(run, stack):
    planned, deployed = run(stack, cloud_answers=False), run(stack)
    assert {(r.type, r.name) for r in planned.resources} == {(r.type, r.name) for r in deployed.resources}


def test_the_local_stack_is_the_same_program_as_dev_but_for_coordinates(run):
    kinds = [{r.type for r in run(stack).resources} for stack in ("Pulumi.dev.yaml", "Pulumi.local.yaml")]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("stack", ["Pulumi.local.yaml", "Pulumi.showcase.yaml"])
def test_a_stack_of_this_machine_needs_no_image_but_those_that_setup_makes(run, stack):
    plan = run(stack)
    for image in plan.of(IMAGE):
        assert image.inputs["buildArgs"] == {"BASE_IMAGE": "mcpfleet/base:python3.13"}
    assert plan.container("toolbox")["image"] == "docker.io/mcpfleet-examples/toolbox:1"


@pytest.mark.parametrize("stack", ["Pulumi.local.yaml", "Pulumi.showcase.yaml"])
def test_a_stack_of_this_machine_lets_in_ada_and_its_own_clients_alone(run, stack):
    plan = run(stack)
    members = {grant.inputs["member"] for grant in plan.of(GRANT)}
    people = {member for member in members if member.startswith("user:")}
    assert people == {"user:ada@mcpfleet.test"}
    clients = {
        f"serviceAccount:mcp-{name}"
        for name, client in plan.exports["clients"].items()
        if client["topology"] != "sidecar"
    }
    assert {member.partition("@")[0] for member in members - people} == clients


def test_the_showcase_has_every_kind_of_source_and_every_topology_that_one_machine_can_hold():
    fleet = parse_fleet(json.loads(stack_config("Pulumi.showcase.yaml")["mcpfleet:fleet"]))
    # git needs a daemon, a registry is somebody's; `build` is `folder` with a Dockerfile, which
    # tests/integration/test_sources.py deploys.
    assert {kind_of(server.source, KINDS) for server in fleet.servers.values()} == set(KINDS) - {
        "git",
        "build",
        "registry",
    }
    assert {client.topology for client in fleet.clients.values()} == set(
        get_args(Client.model_fields["topology"].annotation)
    ), "add one of each to Pulumi.showcase.yaml"


def test_a_config_file_without_a_fleet_is_told_what_belongs_there(deploy):
    with pytest.raises(pulumi.RunError) as refusal:
        deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config={"gcp:project": "p"})
    assert str(refusal.value) == "fleet: missing; add mcpfleet:fleet under config, as docs/fleet.md shows"


def test_the_export_says_all_that_a_client_needs(run):
    fleet = {
        "region": "europe-west1",
        "servers": {
            "first": {"source": {"image": "a/b"}},
            "second": {
                "source": {"image": "a/b"},
                "path": "/x",
                "access": {"iam": {"invokers": ["user:ada@acme.dev"]}},
            },
        },
    }
    servers = run(fleet=fleet).exports["servers"]
    assert servers["second"] == {
        "mcp_url": "https://mcp-second-h4sh-ew.a.run.app/x",
        "service_url": "https://mcp-second-h4sh-ew.a.run.app",
        "urls": {"europe-west1": "https://mcp-second-h4sh-ew.a.run.app"},
        "audience": "https://mcp-second-h4sh-ew.a.run.app",
        "service": "mcp-second",
        "region": "europe-west1",
        "project": "acme-mcp-dev",
        "access": "iam",
        "public_reason": None,
        "oauth": None,
        "ingress": "all",
        "reached": "proxy",
        "transports": ["streamable-http"],
        "sessions": "stateless",
        "health_path": None,
        "domain": None,
        "dns_records": None,
        "address": None,
        "invokers": ["user:ada@acme.dev"],
        "program_audience": None,
        "client_config": {"mcpServers": {"second": {"type": "http", "url": "http://127.0.0.1:3001/x"}}},
        "proxy_command": (
            "gcloud run services proxy mcp-second --project acme-mcp-dev --region europe-west1 --port 3001"
        ),
        "proxy_port": 3001,
    }
    assert "--port 3000" in servers["first"]["proxy_command"], "the first in the file has the first port"


@pytest.mark.parametrize(("profile", "protected"), [("dev", False), ("prod", True)])
def test_the_profile_decides_deletion_protection_and_a_server_may_differ(run, profile, protected):
    source = {"source": {"image": f"docker.io/a/b@sha256:{'0' * 64}"}}
    servers = {"plain": source, "differs": {**source, "deletion_protection": not protected}}
    plan = run(fleet={"region": "europe-west1", "profile": profile, "servers": servers})
    assert plan.service("plain").inputs["deletionProtection"] is protected
    assert plan.service("differs").inputs["deletionProtection"] is not protected


def test_labels_reach_everything_that_can_carry_them(run):
    fleet = {"region": "europe-west1", "labels": {"team": "x"}, "servers": {"echo": {"source": {"image": "a/b"}}}}
    plan = run(fleet=fleet)
    labelled = [plan.one(SERVICE), plan.one("gcp:artifactregistry/repository:Repository")]
    assert [resource.inputs["labels"] for resource in labelled] == [{"team": "x"}] * 2


def test_a_bad_fleet_stops_the_program_with_its_mistakes_and_no_traceback(run):
    with pytest.raises(pulumi.RunError, match=re.escape("fleet.regin: unknown key; did you mean region?")):
        run(fleet={"regin": "europe-west1", "servers": {}})


def test_a_folder_without_a_dockerfile_is_found_before_any_build(run):
    with pytest.raises(
        pulumi.RunError, match=r"^fleet\.servers\.echo\.source\.build: there is no docs/nowhere/Dockerfile"
    ):
        run(fleet={"region": "europe-west1", "servers": {"echo": {"source": {"build": "docs/nowhere"}}}})


def test_a_service_named_by_the_user_is_called_so_wherever_google_is_asked_for_it(run):
    iap = {"iap": {"members": ["user:ada@acme.dev"], "programmatic_clients": ["1-a.apps.googleusercontent.com"]}}
    named = {"source": {"image": "docker.io/acme/tool:1"}, "service_name": "tools"}
    echo = {**named, "access": iap, "domain": "mcp.acme.dev"}
    open_to_one = {**named, "service_name": "others", "access": {"iam": {"invokers": ["user:ada@acme.dev"]}}}
    servers = {"echo": echo, "other": open_to_one}
    plan = run(fleet={"region": "europe-west1", "organization": "481516", "servers": servers})
    assert plan.names(SERVICE) == {"echo.tools-europe-west1", "other.others-europe-west1"}
    assert {resource.inputs["name"] for resource in plan.of(SERVICE)} == {"tools", "others"}
    service = plan.one(SERVICE, "echo.tools-europe-west1")
    variables = {
        variable["name"]: variable.get("value") for variable in service.inputs["template"]["containers"][0]["envs"]
    }
    assert variables["MCPFLEET_ALLOWED_HOSTS"] == "tools-*.run.app,mcp.acme.dev"
    assert variables["MCPFLEET_IAP_AUDIENCE"] == "/projects/4711/locations/europe-west1/services/tools"
    assert plan.one("gcp:iap/settings:Settings").inputs["name"].endswith("/services/tools")
    assert {resource.inputs["name"] for resource in plan.of(GRANT)} == {"tools", "others"}
    (group,) = plan.of("gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup")
    assert group.inputs["cloudRun"] == {"service": "tools"}
    assert {resource.inputs["accountId"] for resource in plan.of(ACCOUNT)} == {"mcp-echo", "mcp-other"}
    outputs = plan.exports["servers"]["other"]
    assert outputs["service"] == "others"
    assert outputs["proxy_command"].startswith("gcloud run services proxy others --project")

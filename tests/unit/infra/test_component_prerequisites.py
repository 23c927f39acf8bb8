"""What a fleet names and does not make is looked for before anything but the APIs is touched: the whole program."""

import json
import runpy
from pathlib import Path

import grpc
import pulumi
import pytest

from pulumi_mcpfleet.components.prerequisites import NETWORK, SECRET, SUBNETWORK, find_prerequisites
from pulumi_mcpfleet.fleet import parse_fleet

ROOT = Path(__file__).parents[3]
EXISTING = {"source": {"image": "docker.io/acme/toolbox:1"}}
REF = {"secret": "db", "version": "3"}
FLEET = {
    "region": "europe-west1",
    "servers": {
        "echo": {**EXISTING, "secrets": {"KEY": REF, "/run/keys/a": REF}, "vpc": {"network": "mcp"}},
        "tool": {**EXISTING, "service_account": "a@p.iam.gserviceaccount.com"},
    },
}


class Refused(grpc.RpcError):
    """What the engine answers when a provider's function fails."""

    def __init__(self, message):
        super().__init__()
        self.words = message

    def code(self):
        return grpc.StatusCode.UNKNOWN

    def details(self):
        return self.words


MISSING = {
    SECRET: Refused("googleapi: Error 404: Secret [projects/1/secrets/db] not found or has no versions."),
    NETWORK: Refused("projects/p/global/networks/mcp not found"),
    SUBNETWORK: Refused("googleapi: Error 404: The resource was not found, notFound"),
}


@pytest.fixture(name="run")
def _run(deploy):
    def run(lookups, **options):
        config = {"gcp:project": "p", "mcpfleet:fleet": json.dumps(FLEET)}
        program = lambda: runpy.run_path(str(ROOT), run_name="__main__")  # noqa: E731
        return deploy(program, config=config, lookups=lookups, **options)

    return run


def test_all_that_is_missing_is_said_at_once_and_nothing_but_apis_was_touched(run, empty_plan):
    with pytest.raises(pulumi.RunError) as refused:
        run(MISSING, plan=empty_plan)
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "fleet.servers.echo.secrets.KEY",
        "fleet.servers.echo.vpc.network",
        "fleet.servers.echo.vpc.network",
    ]
    assert "there is no version 3 of the secret db in p; gcloud secrets versions add db --project=p" in lines[0]
    assert "there is no network mcp; see gcloud compute networks list --project=p" in lines[1]
    assert "there is no subnetwork mcp in europe-west1; name one of gcloud compute networks subnets" in lines[2]
    touched = {resource.type for resource in empty_plan.resources if resource.type.startswith("gcp:")}
    assert touched == {"gcp:projects/service:Service"}


def test_a_version_that_is_disabled_is_none(run):
    with pytest.raises(pulumi.RunError, match="version 3 of the secret db in p is disabled or destroyed; enable it"):
        run({SECRET: {"enabled": False}})


def test_what_cannot_be_looked_at_is_left_to_the_deployment(run):
    denied = Refused("googleapi: Error 403: Permission 'compute.networks.get' denied")
    assert run({SECRET: denied, NETWORK: denied, SUBNETWORK: denied}).service("echo")


def test_the_preview_of_a_new_stack_looks_for_nothing(run):
    assert run(MISSING, cloud_answers=False).service("echo")


def test_each_thing_is_looked_for_once_and_where_it_is():
    servers = {
        "one": {
            **EXISTING,
            "domain": "one.acme.dev",
            "secrets": {"A": {"secret": "projects/vault/secrets/db", "version": "latest"}},
            "volumes": {"v": {"secret": "tls", "items": {"a": {"version": 1}, "b": {"version": 2}}, "mount": "/v"}},
            "sidecars": {"redis": {"image": "a/redis", "secrets": {"A": {"secret": "tls", "version": 1}}}},
            "vpc": {"subnetwork": "projects/host/regions/us-central1/subnetworks/s"},
        },
        "two": {**EXISTING, "domain": "two.acme.dev", "vpc": {"network": "mcp"}},
        "three": {**EXISTING, "domain": "three.acme.dev", "vpc": {"connector": "mcp"}},
    }
    prerequisites = find_prerequisites(
        parse_fleet({"regions": ["europe-west1", "us-central1"], "servers": servers}), "p"
    )
    lookups = [
        (need.function, tuple(argument for argument in need.arguments.values() if isinstance(argument, str)))
        for need in prerequisites
    ]
    assert sorted(lookups) == sorted(
        [
            (SECRET, ("vault", "db")),
            (SECRET, ("p", "tls", "1")),
            (SECRET, ("p", "tls", "2")),
            (SUBNETWORK, ("host", "us-central1", "s")),
            (NETWORK, ("p", "mcp")),
            (SUBNETWORK, ("p", "europe-west1", "mcp")),
            (SUBNETWORK, ("p", "us-central1", "mcp")),
        ]
    )

"""What a changed key of the fleet replaces, in which order, and what it leaves behind: the whole program twice, judged
by the provider."""

import json
import runpy
from pathlib import Path

import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.values import UNKNOWN, from_struct, to_struct
from pulumi_mcpfleet.fleet import Server
from tests.unit.infra.provider_diff import Call, configured_provider, find_replacement

ROOT = Path(__file__).parents[3]
HELD = ("gcp:certificatemanager/", "gcp:compute/", "gcp:networkservices/")
"""Google refuses to delete these while another resource has them (400 resourceInUseByAnotherResource)."""

EXISTING = {"source": {"image": "docker.io/acme/toolbox:1"}}
MESHED = {**EXISTING, "calls": ["echo"], "topology": "mesh", "vpc": {"network": "default"}}
SERVICE = "gcp:cloudrunv2/service:Service"
KEY = "projects/acme-dev/locations/europe-west1/keyRings/mcp/cryptoKeys/run"
EXPORT = {"nfs": {"server": "10.0.0.2", "path": "/share", "read_only": False}, "mount": "/v"}
SECRET = {"secret": "token", "version": "1"}


@pytest.fixture(scope="module")
def provider():
    return configured_provider()


@pytest.fixture(name="run")
def _run(deploy):
    def run(fleet, project="p"):
        config = {"gcp:project": project, "mcpfleet:fleet": json.dumps(fleet)}
        return deploy(lambda: runpy.run_path(str(ROOT), run_name="__main__"), config=config)

    return run


def replaced(provider, before, after):
    """The resources that the second run replaces, each with its order."""
    found = {}
    was = {(one.type, one.name): one for one in before.resources}
    for one in after.resources:
        old = was.get((one.type, one.name))
        if old is None or not one.type.startswith("gcp:"):
            continue
        if answer := find_replacement(provider, old.inputs, one):
            first = answer.deleteBeforeReplace if one.delete_before_replace is None else one.delete_before_replace
            found[one.type, one.name] = "delete first" if first else "create first"
    return found


def in_use(before, found):
    """What would be deleted first while another resource has it, which Google refuses."""
    return [
        f"{used[1]} by {resource.name}"
        for resource in before.resources
        for used in resource.dependencies
        if used[0].startswith(HELD) and resource.type.startswith(HELD)
        if found.get(used) == "delete first" != found.get((resource.type, resource.name))
    ]


def fleet(client=None, *, regions=("europe-west1",), registry=None, labels=None, servers=None, **keys):
    """A fleet of the server `echo` with these keys, in *servers* those that a fleet has too; perhaps of a client."""
    found = {"servers": {"echo": {**EXISTING, **keys, **(servers or {})}}}
    found |= {"clients": {"agent": client}} if client else {}
    found |= {"regions": regions} if len(regions) > 1 else {"region": regions[0]}
    found |= {"registry": registry} if registry else {}
    return found | ({"labels": labels} if labels else {})


DOMAIN = {"domain": "old.acme.dev"}
REGIONS = ["europe-west1", "us-central1"]
OLD = {**EXISTING, **DOMAIN}


def balanced(kind, **servers):
    """A fleet of these servers, whose domains share a load balancer, or do not."""
    return {"region": "europe-west1", "load_balancer": kind, "servers": servers}


CHANGES = {
    "domain": (fleet(**DOMAIN), fleet(domain="new.acme.dev"), {"ManagedSslCertificate echo": "create first"}),
    "domain given": (fleet(), fleet(**DOMAIN), {}),
    "domain taken": (fleet(**DOMAIN), fleet(), {}),
    "domain's ingress": (fleet(**DOMAIN), fleet(**DOMAIN, ingress="internal-and-lb"), {}),
    "domain's service": (fleet(**DOMAIN), fleet(**DOMAIN, source={"image": "docker.io/acme/other:1"}), {}),
    "load_balancer": (balanced("per-server", echo=OLD), balanced("both", echo=OLD), {}),
    "load_balancer, moved": (balanced("both", echo=OLD), balanced("shared", echo=OLD), {}),
    "load_balancer, back": (balanced("shared", echo=OLD), balanced("both", echo=OLD), {}),
    "shared domain": (balanced("shared", echo=OLD), balanced("shared", echo={**OLD, "domain": "new.acme.dev"}), {}),
    "shared domain given": (
        balanced("shared", echo=OLD),
        balanced("shared", echo=OLD, other={**EXISTING, "domain": "other.acme.dev"}),
        {},
    ),
    "shared domain taken": (
        balanced("shared", echo=OLD, other={**EXISTING, "domain": "other.acme.dev"}),
        balanced("shared", echo=OLD),
        {},
    ),
    "domain_path": (
        balanced("shared", echo=OLD),
        balanced("shared", echo={**OLD, "domain_path": "/echo", "path": "/echo/mcp"}),
        {},
    ),
    "regions": (fleet(**DOMAIN), fleet(**DOMAIN, regions=REGIONS), {}),
    "first region": (
        fleet(**DOMAIN, regions=REGIONS),
        fleet(**DOMAIN, regions=REGIONS[::-1]),
        {"Repository fleet": "delete first"},
    ),
    "region": (fleet(**DOMAIN), fleet(**DOMAIN, regions=["us-central1"]), {"Repository fleet": "delete first"}),
    "labels": (fleet(MESHED, **DOMAIN), fleet(MESHED, **DOMAIN, labels={"team": "a"}), {}),
    "registry.repository": (fleet(), fleet(registry={"repository": "other"}), {"Repository fleet": "delete first"}),
    "registry.keep": (fleet(), fleet(registry={"keep": 3}), {}),
    "registry.remote": (fleet(registry={"remote": "ghcr.io"}), fleet(registry={"remote": ["ghcr.io", "quay.io"]}), {}),
    "mesh client": (fleet(MESHED), fleet({**MESHED, "topology": "service"}), {}),
    "mesh timeout": (fleet(MESHED), fleet(MESHED, timeout=600), {}),
    "mesh network": (fleet(MESHED), fleet({**MESHED, "vpc": {"network": "other"}}), {}),
    "invokers": (
        fleet(access={"iam": {"invokers": ["user:ada@acme.dev"]}}),
        fleet(access={"iam": {"invokers": ["user:bob@acme.dev"]}}),
        {},
    ),
    "secrets": (fleet(secrets={"A": SECRET}), fleet(secrets={"A": {**SECRET, "secret": "other"}}), {}),
    "service_account": (fleet(), fleet(service_account="a@p.iam.gserviceaccount.com"), {}),
    "agent_registry": (fleet(), fleet(agent_registry="functional-type"), {}),
    "vpc": (fleet(vpc={"network": "a"}), fleet(vpc={"network": "b"}), {}),
    "service_name": (fleet(MESHED, **DOMAIN), fleet(MESHED, **DOMAIN, service_name="tools"), {}),
    "service_name, another": (fleet(**DOMAIN, service_name="one"), fleet(**DOMAIN, service_name="two"), {}),
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_replaces_just_this_and_in_this_order(run, provider, key):
    before, after, expected = CHANGES[key]
    before, after = run(before), run(after)
    found = replaced(provider, before, after)
    assert not in_use(before, found)
    assert {f"{type_.rpartition(':')[2]} {name}": order for (type_, name), order in found.items()} == expected


def test_a_move_to_another_project_deletes_nothing_that_is_in_use(run, provider):
    everything = fleet(MESHED, **DOMAIN)
    before, after = run(everything), run(everything, project="q")
    found = replaced(provider, before, after)
    assert {type_ for type_, _ in found} > {one.type for one in before.resources if one.type.startswith(HELD)}
    assert not in_use(before, found)


def test_a_shared_load_balancer_moves_to_another_project_and_deletes_nothing_that_is_in_use(run, provider):
    before, after = run(balanced("both", echo=OLD)), run(balanced("both", echo=OLD), project="q")
    found = replaced(provider, before, after)
    assert {type_ for type_, _ in found} > {one.type for one in before.resources if one.type.startswith(HELD)}
    assert not in_use(before, found)


def test_while_domains_move_nothing_of_the_old_load_balancer_changes(run):
    """Its address answers until the records name the new one: so there is no break."""
    alone, both, shared = (run(balanced(kind, echo=OLD)) for kind in ("per-server", "both", "shared"))

    def made(plan):
        return {(one.type, one.name, one.parent): one.inputs for one in plan.resources if one.type.startswith(HELD)}

    assert made(alone).items() <= made(both).items()
    assert made(shared).items() <= made(both).items()
    gone = {type_.rpartition(":")[2] for type_, *_ in made(both).keys() - made(shared).keys()}
    assert gone == {
        *("GlobalAddress", "GlobalForwardingRule", "ManagedSslCertificate", "TargetHttpProxy", "TargetHttpsProxy"),
        "URLMap",
    }


SHARED = "projects/host/global/networks/b"
GOES = {
    "vpc.subnetwork": (fleet(vpc={"network": "a", "subnetwork": "s"}), fleet(vpc={"network": "b"})),
    "vpc.subnetwork, shared": (fleet(vpc={"network": "a", "subnetwork": "s"}), fleet(vpc={"network": SHARED})),
    "vpc.tags": (fleet(vpc={"network": "a", "tags": ["x"]}), fleet(vpc={"network": "a"})),
    "vpc.all_traffic": (fleet(vpc={"network": "a", "all_traffic": True}), fleet(vpc={"network": "a"})),
    "vpc": (fleet(vpc={"network": "a", "subnetwork": "s"}), fleet()),
    "agent_registry": (fleet(agent_registry="functional-type"), fleet()),
    "topology": (fleet(MESHED), fleet({**MESHED, "topology": "service"})),
    "domain, default_url": (fleet(**DOMAIN, default_url=False), fleet()),
    "path, transports, sessions, audiences, allowed_origins": (
        fleet(
            path="/tools",
            transports=["streamable-http", "sse"],
            sessions="stateful",
            max_instances=1,
            audiences=["https://a.dev"],
            allowed_origins=["https://a.dev"],
        ),
        fleet(),
    ),
    "env, roles, startup_boost, deletion_protection": (
        fleet(env={"A": "b"}, roles=["roles/bigquery.user"], startup_boost=False, deletion_protection=True),
        fleet(),
    ),
    "source": (fleet(source={**EXISTING["source"], "port": 5000, "args": ["-v"], "command": ["/x"]}), fleet()),
    "ingress": (fleet(ingress="internal"), fleet()),
    "timeout, concurrency": (fleet(timeout=900, concurrency=3), fleet()),
    "cpu, memory": (fleet(cpu=2, memory="1Gi"), fleet()),
    "min_instances, max_instances": (fleet(min_instances=1, max_instances=2), fleet()),
    "execution_environment": (fleet(execution_environment="gen2"), fleet()),
    "health_path": (fleet(health_path="/ready"), fleet()),
    "probes": (fleet(health_path="/ready", probes={"startup": {"port": 9000}}), fleet(health_path="/ready")),
    "probes.readiness": (fleet(health_path="/ready", probes={"readiness": {"period": 5}}), fleet(health_path="/ready")),
    "service_account": (fleet(service_account="a@p.iam.gserviceaccount.com"), fleet()),
    "description": (fleet(description="old"), fleet()),
    "secrets": (fleet(secrets={"/run/a/b": SECRET, "A": SECRET}), fleet()),
    "sidecars, depends_on": (
        fleet(sidecars={"redis": {"image": "a/redis", "startup": {"port": 6379}}}, depends_on=["redis"]),
        fleet(),
    ),
    "labels": (fleet(labels={"team": "a"}), fleet()),
    "cpu_throttling": (fleet(cpu_throttling=False), fleet()),
    "session_affinity": (fleet(session_affinity=True), fleet()),
    "use_http2": (fleet(use_http2=True), fleet()),
    "gpu, gpu_zonal_redundancy": (
        fleet(cpu=4, memory="16Gi", cpu_throttling=False, gpu="nvidia-l4", gpu_zonal_redundancy=False),
        fleet(),
    ),
    "encryption_key": (fleet(encryption_key=KEY), fleet()),
    "binary_authorization": (fleet(binary_authorization="default"), fleet()),
    "binary_authorization, own": (
        fleet(binary_authorization="projects/acme-dev/platforms/cloudRun/own"),
        fleet(binary_authorization="default"),
    ),
    "labels, own": (fleet(labels={"team": "a"}, servers={"labels": {"team": "b", "own": "c"}}), fleet()),
    "annotations": (fleet(annotations={"acme.dev/owner": "ada"}), fleet()),
    "cloudsql_instances": (fleet(cloudsql_instances=["acme-dev:europe-west1:tools"]), fleet()),
    "volumes": (fleet(vpc={"network": "a"}, volumes={"v": EXPORT}), fleet(vpc={"network": "a"})),
    "volumes on disk": (fleet(volumes={"v": {"disk": "10Gi", "mount": "/v"}}), fleet()),
    "probes.grpc": (
        fleet(probes={"startup": {"grpc": {"service": "a"}}, "liveness": {"grpc": {}}}),
        fleet(health_path="/ready"),
    ),
    "gpu, large": (fleet(cpu=20, memory="80Gi", cpu_throttling=False, gpu="nvidia-rtx-pro-6000"), fleet()),
    "volumes of a secret": (
        fleet(volumes={"v": {"secret": "s", "items": {"a": {"version": "1"}}, "mode": "0400", "mount": "/v"}}),
        fleet(volumes={"v": {"secret": "s", "file": "a", "version": "1", "mount": "/v"}}),
    ),
    "vpc.connector": (fleet(vpc={"connector": "mcp"}), fleet(vpc={"network": "a"})),
    "vpc.network": (fleet(vpc={"network": "a", "subnetwork": "s"}), fleet(vpc={"connector": "mcp"})),
    "access": (fleet(access={"public": {"reason": "no private data"}}), fleet()),
}


REPLACED = {"agent_registry": {(SERVICE, "echo-europe-west1"): "delete first"}}
"""What goes with a key by being replaced; what goes with any other is changed in place."""


def test_every_key_of_a_server_is_in_these_tables():
    named = {word.split(".")[0].split(" ")[0] for key in (*CHANGES, *GOES) for word in key.split(", ")}
    assert set(Server.model_fields) - named == set(), "a key whose change is in no table: add it to GOES"


def settled(value):
    """*value* without what only the cloud can tell, and what is empty."""
    if isinstance(value, dict):
        found = {key: settled(one) for key, one in value.items()}
        return {key: one for key, one in found.items() if one not in (None, {}, [], "", False, UNKNOWN)}
    return [settled(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("key", GOES)
def test_what_a_key_had_set_goes_with_it(run, provider, key):
    """An update keeps what the program does not say any more, where the cloud too may set it."""
    before, after = (run(each) for each in GOES[key])
    found = replaced(provider, before, after)
    assert not in_use(before, found)
    assert found == REPLACED.get(key, {})
    for kind, name in {(one.type, one.name) for one in before.resources if one.type == SERVICE}:
        urn = f"urn:pulumi:test::mcpfleet::{kind}::{name}"
        olds, news = (
            provider.Check(pb.CheckRequest(urn=urn, news=to_struct(each.one(kind, name).inputs)), Call()).inputs
            for each in (before, after)
        )
        request = pb.UpdateRequest(urn=urn, id=name, olds=olds, news=news, preview=True)
        updated = settled(from_struct(provider.Update(request, Call()).properties))
        request = pb.CreateRequest(urn=urn, name=name, properties=news, preview=True)
        made = settled(from_struct(provider.Create(request, Call()).properties))
        assert {one: updated.get(one) for one in from_struct(news)} == {one: made.get(one) for one in from_struct(news)}
        assert updated.get("launchStage") == made.get("launchStage")

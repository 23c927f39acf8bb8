"""What a changed key of the fleet replaces, and in which order: the whole program twice, judged by the provider."""

import json
import runpy
from pathlib import Path

import pytest
from pulumi.runtime.proto import provider_pb2 as pb

from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.values import to_struct

ROOT = Path(__file__).parents[3]
HELD = ("gcp:compute/", "gcp:networkservices/")
"""Google refuses to delete these while another resource has them (400 resourceInUseByAnotherResource)."""

EXISTING = {"source": {"image": "docker.io/acme/toolbox:1"}}
MESHED = {**EXISTING, "calls": ["echo"], "topology": "mesh", "vpc": {"network": "default"}}
SECRET = {"secret": "token", "version": "1"}


class Call:
    """As much of a gRPC context as the provider uses."""

    def peer(self):
        return "ipv4:127.0.0.1:1"

    def abort(self, _code, message):
        pytest.fail(message)


@pytest.fixture(scope="module")
def provider():
    endpoints = {
        "cloudRunV2CustomEndpoint": "http://127.0.0.1:9/run/v2/",
        "artifactRegistryCustomEndpoint": "http://127.0.0.1:9/artifactregistry/v1/",
        "iamBetaCustomEndpoint": "http://127.0.0.1:9/iam/v1/",
        "resourceManagerCustomEndpoint": "http://127.0.0.1:9/crm/v1/",
        "serviceUsageCustomEndpoint": "http://127.0.0.1:9/serviceusage/v1beta1/",
    }
    found = GcpProvider()
    settings = {"project": "p", "region": "r1", "accessToken": "token", **endpoints}
    found.Configure(pb.ConfigureRequest(args=to_struct(settings)), Call())
    return found


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
        urn = f"urn:pulumi:test::mcpfleet::{one.type}::{one.name}"
        olds, news = (
            provider.Check(pb.CheckRequest(urn=urn, news=to_struct(each.inputs)), Call()).inputs for each in (old, one)
        )
        answer = provider.Diff(pb.DiffRequest(urn=urn, olds=olds, news=news), Call())
        if answer.replaces:
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


def fleet(client=None, *, regions=("europe-west1",), registry=None, labels=None, **keys):
    """A fleet of the server `echo` with these keys, and perhaps of a client."""
    found = {"servers": {"echo": {**EXISTING, **keys}}}
    found |= {"clients": {"agent": client}} if client else {}
    found |= {"regions": regions} if len(regions) > 1 else {"region": regions[0]}
    found |= {"registry": registry} if registry else {}
    return found | ({"labels": labels} if labels else {})


DOMAIN = {"domain": "old.acme.dev"}
REGIONS = ["europe-west1", "us-central1"]
CHANGES = {
    "domain": (fleet(**DOMAIN), fleet(domain="new.acme.dev"), {"ManagedSslCertificate echo": "create first"}),
    "domain given": (fleet(), fleet(**DOMAIN), {}),
    "domain taken": (fleet(**DOMAIN), fleet(), {}),
    "domain's ingress": (fleet(**DOMAIN), fleet(**DOMAIN, ingress="internal-and-lb"), {}),
    "domain's service": (fleet(**DOMAIN), fleet(**DOMAIN, source={"image": "docker.io/acme/other:1"}), {}),
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
    "vpc": (fleet(vpc={"network": "a"}), fleet(vpc={"network": "b"}), {}),
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

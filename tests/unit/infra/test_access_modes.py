"""Every kind of workload with every kind of access: what nothing would enforce is refused where it is written."""

import json
from pathlib import Path

import jsonschema
import pytest

from pulumi_mcpfleet.fleet import FleetError, parse_fleet

ROOT = Path(__file__).parents[3]
GIT = {"url": "https://github.com/acme/weather.git", "ref": "v1"}
IMAGE = {"image": "docker.io/acme/tool:1"}

# Somebody else's program may check tokens, by what the fleet tells it; verification finds out whether it does.
PROGRAMS = {
    "build": {"build": "./mcp_server"},
    "image": IMAGE,
    "folder": {"folder": "./weather"},
    "git": {"git": GIT},
}
# The bridge checks none, whatever is behind it.
BRIDGED = {
    "folder behind the bridge": {"folder": "./weather", "speaks": "stdio"},
    "git behind the bridge": {"git": GIT, "speaks": "stdio"},
    "npm": {"stdio": {"npm": "server-everything@2026.8.31"}},
    "pypi": {"stdio": {"pypi": "mcp-server-time==2026.10.19"}},
    "image behind the bridge": {"stdio": {**IMAGE, "command": ["tools"]}},
}
ACCESS = {
    "iam": {"iam": {"invokers": ["group:staff@acme.dev"]}},
    "iap": {"iap": {"members": ["group:staff@acme.dev"], "programmatic_clients": ["2-b.apps.googleusercontent.com"]}},
    "login": {
        "login": {
            "oidc": {
                "issuer": "https://login.acme.dev",
                "client": {"client_id": "mcp", "secret": "mcp-oidc-client", "version": "1"},
            },
            "key": {"secret": "tool-login-key", "version": "1"},
            "members": ["group:staff"],
        }
    },
    "oauth": {"oauth": {"issuer": "https://login.acme.dev"}},
    "public": {"public": {"reason": "documentation without private data"}},
}
TOPOLOGIES = {"service": {}, "sidecar": {}, "mesh": {"vpc": {"network": "default"}}}


def fleet(server, client=None):
    clients = {} if client is None else {"clients": {"assistant": {"calls": ["tool"], **client}}}
    return {"region": "europe-west1", "organization": "481516", "servers": {"tool": server}, **clients}


def mistakes(server, client=None):
    try:
        parse_fleet(fleet(server, client))
    except FleetError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("source", PROGRAMS)
def test_a_server_that_is_a_program_may_have_every_access(source, access):
    assert mistakes({"source": PROGRAMS[source], "access": ACCESS[access], "transports": ["streamable-http"]}) == []


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("source", BRIDGED)
def test_a_server_behind_the_bridge_may_not_be_told_to_check_tokens(source, access):
    found = mistakes({"source": BRIDGED[source], "access": ACCESS[access]})
    if access == "oauth":
        (line,) = found
        assert line.startswith("fleet.servers.tool.access: with oauth the server itself must check tokens, and")
        assert "write iam or iap" in line
    else:
        assert found == []


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("source", PROGRAMS)
def test_a_client_may_have_only_what_is_checked_in_front_of_it(source, topology, access):
    client = {"source": PROGRAMS[source], "topology": topology, **TOPOLOGIES[topology], "access": ACCESS[access]}
    found = mistakes({"source": {**IMAGE, "port": 5000}}, client)
    if access in ("login", "oauth"):
        (line,) = found
        assert line.startswith(f"fleet.clients.assistant.access: with {access} ")
        assert "write iam, or iap" in line or "write iap" in line
    else:
        assert found == []


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_client_may_not_call_a_server_that_asks_for_a_token_it_cannot_have(topology, access):
    client = {"source": IMAGE, "topology": topology, **TOPOLOGIES[topology]}
    found = mistakes({"source": {**IMAGE, "port": 5000}, "access": ACCESS[access]}, client)
    refused = access in ("login", "oauth") or (access == "iap" and topology == "mesh")
    assert [line.partition(": ")[0] for line in found] == ["fleet.clients.assistant.calls[0]"] * refused


@pytest.mark.parametrize("access", ACCESS)
def test_an_editor_offers_a_client_no_access_that_the_fleet_refuses(access):
    schema = json.loads((ROOT / "fleet.schema.json").read_text())
    client = {"source": IMAGE, "access": ACCESS[access]}
    stack = {"config": {"mcpfleet:fleet": fleet({"source": IMAGE, "access": ACCESS[access]}, client)}}
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(stack))
    assert bool(errors) == (access in ("login", "oauth"))


def test_a_client_that_says_two_kinds_or_an_unknown_one_is_told_so():
    both = {"source": IMAGE, "access": {**ACCESS["iam"], **ACCESS["public"]}}
    assert mistakes({"source": IMAGE}, both) == [
        "fleet.clients.assistant.access: has iam and public together; keep only one"
    ]
    odd = {"source": IMAGE, "access": {"password": {}}}
    (line,) = mistakes({"source": IMAGE}, odd)
    assert line == "fleet.clients.assistant.access: unknown kind of access: 'password'; available: iam, iap, public"

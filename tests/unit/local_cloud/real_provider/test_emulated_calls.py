"""The emulated gcp provider calls what the real one called for the same fleet, and keeps the same state."""

import json
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:NotImplemented should not be used:DeprecationWarning")

MADE_UP = (
    (r"/operations/[-0-9a-f]+", "/operations/ID"),
    (r"/changes/[0-9a-f]+", "/changes/ID"),
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"mcp-far-[0-9a-f]{8}", "mcp-far-CERTIFICATE"),
    (r"sha256:[0-9a-f]{64}", "DIGEST"),
)
DELIBERATE = {
    r"/compute/.* \.labels\.(team|cost-center)": "the program labels addresses and forwarding rules since",
    r"/run/.*: None, [^N]": "the program says more of a service since: its launch stage, its subnetwork, ...",
    r"serviceId=mcp-beside": "a client may not call a server that wants a login any more, so it has one beside it less",
    r"\.env\.(MCP|MCPFLEET|FASTMCP)_\w+\.": "the fleet's variables have names of their own since",
    r"\.clientSecret": "the recorded secret had another value",
    r"\.labelFingerprint": "the recorded cloud answered none",
    r"\.(networkUrl|defaultService)": "the real provider puts the endpoint of Compute Engine before the name",
}
"""What may differ in a call's body, by the call and the path in it, and why."""


SINCE = "/forwardingRules/.*/setLabels"
"""Calls of a program that labels forwarding rules, as it does since; it looks up more before, too."""


def named(method: str, path: str) -> str:
    path, _, query = path.partition("?")
    kept = sorted(parse_qsl(query))
    call = f"{method} {unquote(path)}" + (f"?{urlencode(kept)}" if kept else "")
    for pattern, name in MADE_UP:
        call = re.sub(pattern, name, call)
    return call


def by_call(calls: list[tuple[str, str, Any]]) -> dict[str, list[Any]]:
    """The bodies of each call, sorted."""
    found: dict[str, list[Any]] = {}
    for method, path, body in calls:
        text = json.dumps(body, sort_keys=True)
        for pattern, name in MADE_UP:
            text = re.sub(pattern, name, text)
        found.setdefault(named(method, path), []).append(json.loads(text))
    return {call: sorted(bodies, key=lambda body: json.dumps(body, sort_keys=True)) for call, bodies in found.items()}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """The values in a body by path; environment variables by name, for they have no order."""
    if isinstance(value, dict) and value:
        return {at: leaf for name, item in value.items() for at, leaf in leaves(item, f"{path}.{name}").items()}
    if isinstance(value, list) and value:
        named = {f".{item['name']}" if path.endswith(".env") else f"[{at}]": item for at, item in enumerate(value)}
        return {at: leaf for name, item in named.items() for at, leaf in leaves(item, path + name).items()}
    return {path: value}


def unlike(real: dict[str, list[Any]], ours: dict[str, list[Any]]) -> list[str]:
    """Return the differences between the bodies of the same calls, except for the allowed ones."""
    found: list[str] = []
    for call, theirs in real.items():
        if call.startswith("GET") or _policy(call):
            continue
        if len(theirs) != len(ours[call]):
            found.append(f"{call}: {len(ours[call])} times, not {len(theirs)}")
        for one, other in zip(theirs, ours[call], strict=False):
            before, now = leaves(one), leaves(other)
            paths = {path for path in before.keys() | now.keys() if before.get(path, ...) != now.get(path, ...)}
            found += [f"{call} {path}: {before.get(path)!r}, {now.get(path)!r}" for path in sorted(paths)]
    return [item for item in found if not any(re.search(pattern, item) for pattern in DELIBERATE)]


def grants(calls: dict[str, list[Any]]) -> dict[str, set[tuple[str, str]]]:
    """Return the granted roles by the call that wrote the policy, without the deployer's own."""
    return {
        call: {
            (binding["role"], member)
            for body in bodies
            for binding in (body or {}).get("policy", body or {}).get("bindings", [])
            for member in binding["members"]
            if not member.startswith("serviceAccount:deployer@")
        }
        for call, bodies in calls.items()
        if _policy(call)
    }


def _policy(call: str) -> bool:
    return call.endswith((":setIamPolicy", ":getIamPolicy")) or (call.startswith("PUT") and call.endswith("/iam"))


@pytest.fixture(name="real")
def _real(calls: Any) -> Any:
    def real(name: str) -> dict[str, list[Any]]:
        return by_call([(*call["call"].split(" ", 1), call.get("body")) for call in calls(name)])

    return real


def test_the_same_fleet_makes_the_same_calls_with_the_same_bodies(engine: Any, real: Any) -> None:
    theirs, ours = real("create"), by_call(engine.up("fleet.yaml"))
    since = {call for call in ours if re.search(SINCE, call) or call in engine.looked_up}
    assert ours.keys() - (since - theirs.keys()) == theirs.keys()
    assert unlike(theirs, ours) == []
    assert grants(ours) == grants(theirs)


def test_a_change_of_the_fleet_makes_the_recorded_calls(engine: Any, real: Any) -> None:
    engine.up("fleet.yaml")
    theirs, ours = real("edit"), by_call(engine.up("fleet-changed.yaml"))
    assert theirs.keys() - ours.keys() == set()
    assert unlike(theirs, ours) == []


def test_the_state_equals_the_real_providers_and_causes_no_change(engine: Any) -> None:
    engine.up("fleet.yaml")
    assert_names_as_the_real_provider(engine.made)
    assert engine.changes(lambda made: made.state) == {}
    assert engine.changes(real_state) == {}
    assert engine.changes(older_state) == {}
    assert [call for call in by_call(engine.up("fleet.yaml")) if not call.startswith("GET")] == []


def real_state(made: Any) -> dict[str, Any]:
    """Defaults that the real provider does not keep, and what its bridge keeps besides."""
    absent = {"deletionPolicy", "addressType", "ipVersion"}
    kept = {name: value for name, value in made.state.items() if name not in absent}
    return {**kept, "__meta": '{"schema_version":"1"}', "timeouts": None}


def older_state(made: Any) -> dict[str, Any]:
    """Return the state as an older local cloud wrote it: references as in the program."""
    return {**made.state, **{name: value for name, value in made.inputs.items() if isinstance(value, str)}}


def assert_names_as_the_real_provider(made: dict[Any, Any]) -> None:
    state = {name: item.state for name, item in made.items()}
    base = "projects/mcpfleet-local"
    found = {
        kind: {value for (of, _), item in state.items() if of.endswith(f":{kind}") if (value := item.get(name))}
        for kind, name in (
            ("BucketIAMMember", "bucket"),
            ("RepositoryIamMember", "repository"),
            ("SecretIamMember", "secretId"),
            ("WebCloudRunServiceIamMember", "cloudRunServiceName"),
            ("IAMMember", "project"),
        )
    }
    assert found == {
        "BucketIAMMember": {"b/acme-data", "b/mcpfleet-local-mcpfleet-source"},
        "RepositoryIamMember": {f"{base}/locations/europe-west1/repositories/mcpfleet"},
        "SecretIamMember": {f"{base}/secrets/toolbox-db", f"{base}/secrets/toolbox-config"},
        "WebCloudRunServiceIamMember": {f"{base}/iap_web/cloud_run-europe-west1/services/mcp-proxied"},
        "IAMMember": {"mcpfleet-local"},
    }
    invokers = {item["name"] for (kind, _), item in state.items() if kind.endswith(":ServiceIamMember")}
    assert all(name.startswith(f"{base}/locations/europe-west1/services/mcp-") for name in invokers)
    rules = [item for (kind, _), item in state.items() if kind.endswith(":GlobalForwardingRule")]
    assert [item["effectiveLabels"] for item in rules] == [{"team": "platform", "cost-center": "4711"}] * 2

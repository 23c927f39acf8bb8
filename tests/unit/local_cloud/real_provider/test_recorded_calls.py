"""The local cloud answers what the real gcp provider sends."""

import json
from typing import Any

import pytest

GONE = {
    # The discovery document has no such field in these kinds.
    "/sslCertificates/": {"fingerprint"},
    "/networkEndpointGroups/": {"fingerprint"},
    "/addresses/": {"fingerprint"},
    # A null that was sent is not answered.
    "/backendServices/": {"backends[].maxUtilization"},
}
"""What the cloud that was recorded answered besides, by a part of the path: mended since."""


class Replay:
    """Sends recorded calls again; what a server makes up (etags, operations) is replaced by what this one made up."""

    def __init__(self, project: Any) -> None:
        self._project = project
        self._made_up = {"127.0.0.1:8485/": f"127.0.0.1:{project.cloud.settings.port}/"}

    def send(self, call: dict[str, Any]) -> Any:
        method, _, path = self._now(call["call"]).partition(" ")
        body = json.loads(self._now(json.dumps(call["body"]))) if "body" in call else None
        if "/operations/" in path:
            self._project.call("POST", f"{path}:wait", {})
        answer = self._project.call(method, path, body)
        if answer.status_code == 200:
            self._remember(call["answer"], answer.json())
        return answer

    def _now(self, text: str) -> str:
        for then, now in self._made_up.items():
            text = text.replace(then, now)
        return text

    def _remember(self, then: dict[str, Any], now: dict[str, Any]) -> None:
        for name in ("etag", "name"):
            if then.get(name, "string") != "string" and name in now:
                self._made_up[then[name]] = now[name]


def missing(then: Any, now: Any, path: str = "") -> list[str]:
    """Return the fields of a recorded response that are missing now, or have another type."""
    if isinstance(then, dict):
        if not isinstance(now, dict):
            return [path]
        inner = [(f"{path}.{name}".lstrip("."), value, now.get(name, ...)) for name, value in then.items()]
        return [item for name, value, has in inner for item in ([name] if has is ... else missing(value, has, name))]
    if isinstance(then, list):
        if not isinstance(now, list) or (then and not now):
            return [path]
        merged = {name: one for item in now if isinstance(item, dict) for name, one in item.items()}
        return [item for value in then for item in missing(value, merged or now[0], f"{path}[]")]
    types = {"number": (int, float), "boolean": (bool,), "null": (type(None),)}
    return [] if isinstance(now, types.get(then, (str,))) else [path]


def differences(replay: Replay, calls: list[dict[str, Any]]) -> list[str]:
    """Return the differences between the responses and the recorded ones."""
    found: list[str] = []
    for number, call in enumerate(calls):
        answer = replay.send(call)
        if answer.status_code != call["status"]:
            found.append(f"{number} {call['call']}: {answer.status_code} {answer.text[:300]}")
            continue
        path = call["call"].partition("?")[0] + "/"
        mended = {field for part, fields in GONE.items() if part in path for field in fields}
        lost = set(missing(call["answer"], answer.json() if answer.content else {})) - mended
        found += [f"{number} {call['call']}: {field}" for field in sorted(lost)]
    return found


def test_recorded_calls_that_create_and_change_a_fleet_get_the_same_responses(project: Any, calls: Any) -> None:
    replay = Replay(project)
    assert differences(replay, calls("create")) == []
    assert differences(replay, calls("edit")) == []


def test_recorded_calls_that_recreate_a_lost_resource_get_the_same_responses(project: Any, calls: Any) -> None:
    assert differences(Replay(project), calls("drift")) == []


@pytest.mark.parametrize("now", [{}, {"a": 1}, {"a": {"b": []}}, {"a": {"b": [1]}}])
def test_the_comparison_detects_missing_fields_and_other_types(now: Any) -> None:
    assert missing({"a": {"b": ["string"]}}, now)

"""Tests with recorded requests of the real gcp provider."""

from typing import Any


def test_labels_of_an_address_are_set_after_its_insert_as_the_gcp_provider_does(running: Any) -> None:
    running.enable("compute")
    base = f"/compute/v1/projects/{running.project}/global/addresses"
    running.call("POST", base, {"name": "a"})
    first = running.call("GET", f"{base}/a").json()["labelFingerprint"]
    sent = {"labelFingerprint": "", "labels": {"goog-pulumi-provisioned": "true"}}

    answer = running.call("POST", f"{base}/a/setLabels?alt=json", sent)

    assert answer.json().get("kind") == "compute#operation", answer.text
    address = running.call("GET", f"{base}/a").json()
    assert (address["labels"], address["address"]) == (sent["labels"], "127.0.0.1")
    assert address["labelFingerprint"] != first
    stale = running.call("POST", f"{base}/a/setLabels", {"labelFingerprint": first, "labels": {}})
    assert stale.status_code == 412
    assert running.call("GET", f"{base}/a").json()["labels"] == sent["labels"]
    current = {"labelFingerprint": address["labelFingerprint"], "labels": {}}
    assert running.call("POST", f"{base}/a/setLabels", current).is_success


def test_a_custom_ip_address_is_refused(running: Any) -> None:
    running.enable("compute")

    answer = running.call(
        "POST", f"/compute/v1/projects/{running.project}/global/addresses", {"name": "a", "address": "192.0.2.1"}
    )

    assert (answer.status_code, "address.address" in answer.text) == (501, True)


def test_a_remote_repository_is_patched_only_by_its_mask(running: Any) -> None:
    running.enable("artifactregistry")
    base = f"/artifactregistry/v1/projects/{running.project}/locations/europe-west1/repositories"
    remote = {"dockerRepository": {"customRepository": {"uri": "https://ghcr.io"}}}
    body = {"format": "DOCKER", "mode": "REMOTE_REPOSITORY", "remoteRepositoryConfig": remote}
    running.call("POST", f"{base}?repository_id=r", body)

    answer = running.call(
        "PATCH",
        f"{base}/r?updateMask=labels",
        {"labels": {"a": "b"}, "remoteRepositoryConfig": {"description": "ghcr.io", **remote, "noCache": None}},
    )

    assert answer.status_code == 200, answer.text
    assert (answer.json()["labels"], answer.json()["mode"]) == ({"a": "b"}, "REMOTE_REPOSITORY")
    assert answer.json()["remoteRepositoryConfig"] == remote


def test_64_bit_numbers_are_strings_as_google_answers_them(running: Any) -> None:
    running.enable("storage", "secretmanager")
    body = {"name": "soft", "location": "EU", "softDeletePolicy": {"retentionDurationSeconds": 0}}
    policy = running.call("POST", f"/storage/v1/b?project={running.project}", body).json()["softDeletePolicy"]
    assert policy["retentionDurationSeconds"] == "0"
    assert policy["effectiveTime"]

    changed = {"softDeletePolicy": {"retentionDurationSeconds": 604800}}
    policy = running.call("PATCH", "/storage/v1/b/soft", changed).json()["softDeletePolicy"]
    assert (policy["retentionDurationSeconds"], "effectiveTime" in policy) == ("604800", True)

    secret = f"/secretmanager/v1/projects/{running.project}/secrets"
    running.call("POST", f"{secret}?secretId=s", {"replication": {"automatic": {}}})
    running.call("POST", f"{secret}/s:addVersion", {"payload": {"data": "YQ=="}})
    updated = running.call("PATCH", f"{secret}/s?updateMask=versionAliases", {"versionAliases": {"now": 1}}).json()
    assert updated["versionAliases"] == {"now": "1"}


def test_an_invalid_soft_delete_duration_is_refused(running: Any) -> None:
    running.enable("storage")
    for wrong in ("ten", 1.5, True, -1):
        body = {"name": "soft", "softDeletePolicy": {"retentionDurationSeconds": wrong}}
        answer = running.call("POST", f"/storage/v1/b?project={running.project}", body)
        assert (answer.status_code, "retentionDurationSeconds" in answer.text) == (400, True)

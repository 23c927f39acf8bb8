"""Tests of lists: each is complete in pages of any size (`pageSize`, `maxResults`, `pageToken`)."""

import base64
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_local_cloud.rest.schemas import APIS, load_api

VALUES = {
    "{project}": "mcpfleet-local",
    "{region}": "europe-west1",
    "{service}": "aa",
    "{secret}": "aa",
    "{zone}": "aa",
    "{bucket}": "bucket-aa",
    "{repository}": "aa",
    "{pool}": "pool-aa",
    "{map}": "aa",
}
GLOBAL_APIS = ("/certificatemanager/", "/networkservices/", "/iam/")


def lists() -> list[tuple[str, str]]:
    """The path of every method that has pages, and what bounds them."""
    return [
        (_filled(key.partition(" ")[2]), next(name for name in ("maxResults", "pageSize") if name in method.query))
        for api in sorted(set(APIS.values()))
        for key, method in load_api(api).methods.items()
        if "pageToken" in method.query
    ]


def _filled(path: str) -> str:
    place = "global" if path.startswith(GLOBAL_APIS) else "europe-west1"
    for name, value in {**VALUES, "{location}": place}.items():
        path = path.replace(name, value)
    return path + ("?project=mcpfleet-local" if path == "/storage/v1/b" else "")


def got(full: Any, path: str, **query: Any) -> tuple[list[Any], str]:
    answer = full.call("GET", path, params={**dict(p.split("=") for p in path.partition("?")[2:] if p), **query})
    assert answer.status_code == 200, f"{path}: {answer.text}"
    document = answer.json()
    return next((value for value in document.values() if isinstance(value, list)), []), document.get(
        "nextPageToken", ""
    )


def test_the_pages_of_every_list_are_complete(full: Any) -> None:
    wrong: list[str] = []
    for path, size in lists():
        items, _ = got(full, path)
        pages, token = [], ""
        for _ in range(len(items) + 1):
            page, token = got(full, path, **{size: 1, "pageToken": token})
            pages += [page]
            if not token:
                break
        few = 1 if path == "/crm/v1/projects" else 2
        if len(items) < few or pages != [[item] for item in items]:
            wrong.append(f"{path}: {len(items)} at once, {[len(page) for page in pages]} in pages")

    assert wrong == []


def test_every_list_returns_only_the_requested_fields(full: Any) -> None:
    query = "fields=nextPageToken"
    answers = {path: full.call("GET", f"{path}{'&' if '?' in path else '?'}{query}").json() for path, _ in lists()}

    assert {path: answer for path, answer in answers.items() if answer} == {}


def test_deleting_the_items_of_a_page_skips_no_later_items(full: Any) -> None:
    path, names, token = "/secretmanager/v1/projects/mcpfleet-local/secrets", [], ""
    for _ in range(3):
        page, token = got(full, path, pageSize=1, pageToken=token)
        for secret in page:
            names.append(secret["name"].rpartition("/")[2])
            full.call("DELETE", f"/secretmanager/v1/{secret['name']}")
        if not token:
            break

    assert names == ["aa", "bb"]


def test_folders_of_a_bucket_count_as_items_of_a_page(full: Any) -> None:
    objects = "/upload/storage/v1/b/bucket-bb/o?uploadType=media&name="
    for name in ("a/1", "a/2", "b", "c/1"):
        full.client.post(f"{objects}{name}", content=b"x", headers=full.headers())
    pages, token = [], ""
    while not pages or token:
        query = {"maxResults": 1, "delimiter": "/", "pageToken": token}
        answer = full.call("GET", "/storage/v1/b/bucket-bb/o", params=query).json()
        pages += [(answer.get("prefixes", []), [entry["name"] for entry in answer.get("items", [])])]
        token = answer.get("nextPageToken", "")

    assert pages == [(["a/"], []), ([], ["b"]), (["c/"], [])]


TOKENS = st.text(max_size=12) | st.binary(max_size=12).map(lambda one: base64.urlsafe_b64encode(one).decode())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token=TOKENS, size=st.integers(-3, 2**40))
def test_no_page_token_or_size_makes_a_list_fail(running: Any, token: str, size: int) -> None:
    running.enable("secretmanager", "compute")
    for path, name in (
        ("/secretmanager/v1/projects/mcpfleet-local/secrets", "pageSize"),
        ("/compute/v1/projects/mcpfleet-local/global/networks", "maxResults"),
    ):
        answer = running.call("GET", path, params={name: size, "pageToken": token})

        assert answer.status_code in (200, 400), answer.text

"""Whether a registry still has an image: asked by the registry's own API, by whom it lets in."""

import httpx2
import pytest

from pulumi_mcpfleet.cloud_build.registry import ImageRegistry

DIGEST = "sha256:" + "0a" * 32


@pytest.fixture(name="registry")
def _registry():
    """A registry that answers with a status, or not at all; gives the client, and what was asked."""
    requests = []

    def made(status, login=lambda host: ("user", host)):
        def answer(request):
            requests.append((request.method, str(request.url), request.headers.get("authorization", "")))
            if status is None:
                raise httpx2.ConnectError("nobody there")
            return httpx2.Response(status)

        return ImageRegistry(login, httpx2.MockTransport(answer)), requests

    return made


@pytest.mark.parametrize(
    ("status", "expected"), [(200, True), (404, False), (401, None), (500, None), (302, None), (None, None)]
)
def test_an_image_is_gone_only_where_the_registry_says_so(registry, status, expected):
    client, _ = registry(status)
    assert client.has_image("europe-docker.pkg.dev/p/r/app", DIGEST) is expected


@pytest.mark.parametrize("status", [202, 403, 404, None])
def test_a_registry_that_deletes_nothing_is_no_mistake(registry, status):
    client, requests = registry(status)
    client.delete("europe-docker.pkg.dev/p/r/app", DIGEST)
    assert requests[0][:2] == ("DELETE", f"https://europe-docker.pkg.dev/v2/p/r/app/manifests/{DIGEST}")


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        *(("127.0.0.1:8470", "http"), ("localhost:5000", "http"), ("localhost", "http"), ("[::1]:5000", "http")),
        *(("localhost.acme.dev", "https"), ("1270.dev", "https"), ("docker.io", "https")),
    ],
)
def test_only_a_registry_on_loopback_is_asked_in_the_clear(registry, host, scheme):
    client, requests = registry(200)
    client.has_image(f"{host}/app", DIGEST)
    assert requests[0][1] == f"{scheme}://{host}/v2/app/manifests/{DIGEST}"
    assert requests[0][2].startswith("Basic ")


def test_a_registry_without_a_login_is_told_none(registry):
    client, requests = registry(200, login=lambda host: None)
    assert client.has_image("127.0.0.1:8470/app", DIGEST)
    assert requests[0][2] == ""

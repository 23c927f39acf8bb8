"""The store in Cloud Storage: what its JSON API is asked, and what each answer means."""

import httpx2
import pytest

from mcpfleet_login.cloud_storage import CloudStorage, MetadataToken
from mcpfleet_login.store import StoredObject, StoreError

pytestmark = pytest.mark.anyio


class Api:
    """Cloud Storage and the metadata server, as far as the store asks them."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.status: int | None = None
        self.token_status = 200
        self.tokens = 0

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "metadata.google.internal":
            assert request.headers["metadata-flavor"] == "Google"
            self.tokens += 1
            return httpx2.Response(self.token_status, json={"access_token": "t", "expires_in": 3600})
        self.requests.append(request)
        assert request.headers["authorization"] == "Bearer t"
        if self.status:
            return httpx2.Response(self.status)
        if request.method == "GET":
            name = request.url.raw_path.decode().partition("/o/")[2].partition("?")[0]
            if name not in self.objects:
                return httpx2.Response(404)
            data, generation = self.objects[name]
            return httpx2.Response(200, content=data, headers={"x-goog-generation": str(generation)})
        name = request.url.params["name"].replace("/", "%2F")
        generation = self.objects.get(name, (b"", 0))[1]
        if int(request.url.params["ifGenerationMatch"]) != generation:
            return httpx2.Response(412)
        self.objects[name] = (request.content, generation + 1)
        return httpx2.Response(200, json={})


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def store(api) -> CloudStorage:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(api.answer))
    return CloudStorage("logins", "", client, MetadataToken(client))


async def test_an_object_is_created_once_and_replaced_by_its_generation(store):
    assert await store.read("families/x") is None
    assert await store.create("families/x", b"1")
    assert not await store.create("families/x", b"2")
    stored = await store.read("families/x")
    assert stored == StoredObject(b"1", 1)
    assert await store.replace("families/x", b"3", stored.generation)
    assert not await store.replace("families/x", b"4", stored.generation)
    assert (await store.read("families/x")).data == b"3"


async def test_a_name_can_not_leave_the_bucket(store, api):
    await store.read("../../b/other/o/x")
    assert api.requests[0].url.raw_path.startswith(b"/storage/v1/b/logins/o/..%2F..%2Fb%2Fother%2Fo%2Fx")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_another_status_is_an_error_and_not_a_missing_object(store, api, status):
    api.status = status
    for request in (store.read("x"), store.create("x", b""), store.replace("x", b"", 1)):
        with pytest.raises(StoreError, match=str(status)):
            await request


async def test_the_accounts_token_is_fetched_once(store, api):
    await store.read("x")
    await store.read("y")
    assert api.tokens == 1


async def test_a_metadata_server_without_a_token_is_an_error(store, api):
    api.token_status = 404
    with pytest.raises(StoreError, match="no access token"):
        await store.read("x")


async def test_a_bucket_that_can_not_be_reached_is_an_error():
    def refuse(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "metadata.google.internal":
            return httpx2.Response(200, json={"access_token": "t", "expires_in": 3600})
        raise httpx2.ConnectError("refused")

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(refuse))
    with pytest.raises(StoreError, match="refused"):
        await CloudStorage("logins", "", client, MetadataToken(client)).read("x")

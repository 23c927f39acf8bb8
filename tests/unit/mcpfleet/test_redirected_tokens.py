"""An ID token goes to the origin that it is for, whatever redirects a server sends and a client follows."""

import httpx2
import pytest

from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.errors import AuthError
from mcpfleet.google_transport import request_for
from mcpfleet.service import CalledServer, HttpClients
from mcpfleet.token_sources import source_from_file

AUDIENCE = "https://echo.run.app"
HEADERS = ("X-Serverless-Authorization", "Authorization")

pytestmark = pytest.mark.anyio


class World(httpx2.MockTransport):
    """Answers every path but `/mcp` as the front end of a private service does; `/mcp` leads elsewhere."""

    def __init__(self, google, status, location):
        self.requests = []

        def answer(request):
            headers = httpx2.Headers(request.headers.raw)  # what goes out
            self.requests.append((str(request.url), headers, request.content))
            sent = [headers.get(name, "") for name in HEADERS]
            if request.url.path == "/mcp":
                return httpx2.Response(status, headers={"location": location})
            if any("Bearer" in token and google.verify(token, AUDIENCE) for token in sent):
                return httpx2.Response(200, text="hello")
            return httpx2.Response(403, headers={"server": "Google Frontend"})

        super().__init__(answer)

    def token_urls(self):
        """The URLs that got a token."""
        return [url for url, headers, _ in self.requests if "Bearer ey" in " ".join(headers.values())]


@pytest.fixture
def tokens(source, clock):
    return IdTokens(source, AUDIENCE, clock=clock, start=lambda work: work())


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "https://evil.dev/take",
        "https://evil.run.app/take",
        "https://echo.run.app:8443/take",
        "http://echo.run.app/take",
        "//evil.dev/take",
        "https://echo.run.app@evil.dev/take",
    ],
)
async def test_no_token_is_sent_after_a_redirect_to_another_origin(google, tokens, header, status, location):
    world = World(google, status, location)
    auth = IdTokenAuth(AUDIENCE, tokens=tokens, header=header)
    async with httpx2.AsyncClient(transport=world, auth=auth, follow_redirects=True) as client:
        answer = await client.post(f"{AUDIENCE}/mcp", content=b"{}", headers={"x-own": "1"})
    with httpx2.Client(transport=world, auth=auth, follow_redirects=True) as blocking:
        blocking.get(f"{AUDIENCE}/mcp")
    assert answer.status_code == 403
    assert [url for url, _, _ in world.requests if url.endswith("/take")]
    assert set(world.token_urls()) == {f"{AUDIENCE}/mcp"}


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_the_service_is_followed_with_the_token(google, tokens, status):
    world = World(google, status, "/mcp/")
    auth = IdTokenAuth(AUDIENCE, tokens=tokens)
    async with httpx2.AsyncClient(transport=world, auth=auth, follow_redirects=True) as client:
        answer = await client.post(f"{AUDIENCE}/mcp", content=b"{}")
    with httpx2.Client(transport=world, auth=auth, follow_redirects=True) as blocking:
        assert blocking.post(f"{AUDIENCE}/mcp", content=b"{}").text == "hello"
    assert (answer.text, len(answer.history)) == ("hello", 1)
    assert [body for _, _, body in world.requests] == [b"{}"] * len(world.requests)


async def test_a_redirect_loop_is_an_error(google, tokens):
    world = World(google, 307, "/mcp")
    auth = IdTokenAuth(AUDIENCE, tokens=tokens)
    async with httpx2.AsyncClient(transport=world, auth=auth, follow_redirects=True) as client:
        with pytest.raises(httpx2.TooManyRedirects):
            await client.post(f"{AUDIENCE}/mcp", content=b"{}")


@pytest.mark.parametrize("location", ["https://evil.dev/take", "/take"])
async def test_clients_for_frameworks_do_not_follow_redirects_with_a_token(google, source, location):
    world = World(google, 307, location)
    clients = HttpClients(CalledServer(url=f"{AUDIENCE}/mcp", audience=AUDIENCE), identity=source, pool=world)
    async with clients() as client:
        await client.post(f"{AUDIENCE}/mcp", content=b"{}")
        client.follow_redirects = True  # as a framework may set it
        await client.post(f"{AUDIENCE}/mcp", content=b"{}")
    assert not [url for url in world.token_urls() if not url.startswith(AUDIENCE)]


async def test_printing_a_request_does_not_show_the_token(google, tokens):
    world = World(google, 307, "/mcp/")
    async with httpx2.AsyncClient(transport=world, auth=IdTokenAuth(AUDIENCE, tokens=tokens)) as client:
        answer = await client.post(f"{AUDIENCE}/mcp", content=b"{}")
    assert "Bearer" not in repr(answer.request.headers)
    assert answer.request.headers["x-serverless-authorization"].startswith("Bearer ")
    assert "X-Serverless-Authorization" in answer.request.headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_credential_is_sent_after_a_redirect_by_a_token_endpoint(login_file, status):
    requests = []

    def answer(request):
        requests.append(request.url.host)
        return httpx2.Response(status, headers={"location": "https://evil.dev/take"})

    request = request_for("", httpx2.MockTransport(answer))
    with pytest.raises(AuthError):
        source_from_file(login_file(), request).fetch(AUDIENCE)
    assert set(requests) == {"oauth2.googleapis.com"}

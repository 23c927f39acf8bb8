import asyncio
import contextlib
import gzip
import inspect
import logging

import httpx2
import pytest

from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.errors import NoCredentialsError, UsageError
from mcpfleet.proxy import Proxy
from mcpfleet.target import Target

SERVICE = "https://mcp-echo-481516.europe-west1.run.app"
BOUND = 10  # seconds; only a broken build waits this long

pytestmark = pytest.mark.anyio


class Chunks(httpx2.AsyncByteStream):
    """A response body; `closed` is set once the reader has closed it."""

    def __init__(self, chunks):
        self._chunks = chunks
        self.closed = asyncio.Event()

    async def __aiter__(self):
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self):
        self.closed.set()


class Service(httpx2.AsyncBaseTransport):
    """The service, in memory. Unlike MockTransport it reads no body before its handler does."""

    def __init__(self, handler):
        self._handler = handler

    async def handle_async_request(self, request):
        response = self._handler(request)
        if inspect.isawaitable(response):
            response = await response
        if response.is_stream_consumed:  # built with its content: send that as a stream, as a network does
            raw = response.headers.raw
            response = httpx2.Response(response.status_code, headers=raw, stream=httpx2.ByteStream(response.content))
        return response


PAGE = "http://localhost:6274"
ALLOWED = "access-control-allow-origin"


class Call:
    """A request to the proxy's ASGI application, with every message that it sends."""

    def __init__(self, app, method="GET", path="/mcp", headers=(), body=(b"",), query=b"", kind="http", send=None):
        names = {name for name, _ in headers}
        defaults = [(b"host", b"127.0.0.1:3000")] if b"host" not in names else []
        if any(body) and not names & {b"content-length", b"transfer-encoding"}:
            defaults.append((b"transfer-encoding", b"chunked"))
        scope = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [*defaults, *headers],
            "server": ("127.0.0.1", 3000),
            "client": ("127.0.0.1", 50000),
            "root_path": "",
        }
        self._to_app, self._from_app = asyncio.Queue(), asyncio.Queue()
        for index, part in enumerate(body):
            self.send_body(part, more=index < len(body) - 1)
        self.task = asyncio.ensure_future(app(scope, self._to_app.get, send or self._from_app.put))

    def send_body(self, part, *, more):
        self._to_app.put_nowait({"type": "http.request", "body": part, "more_body": more})

    def leave(self):
        self._to_app.put_nowait({"type": "http.disconnect"})

    async def next(self):
        """The next part of the answer, or None when the application has returned."""
        getting = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({getting, self.task}, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        if getting.done():
            return getting.result()
        getting.cancel()
        assert self.task.done(), "the proxy said nothing"
        self.task.result()
        return None

    async def answer(self):
        """Return the response: status, headers, body, and whether it is complete."""
        start = await self.next()
        body, exit_info = b"", False
        while (part := await self.next()) is not None:
            body += part["body"]
            exit_info = not part.get("more_body", False)
        return start["status"], start["headers"], body, exit_info


@pytest.fixture
async def proxy(source, clock):
    """Builds a running proxy to an in-memory service: `proxy(handler)`."""
    async with contextlib.AsyncExitStack() as running:

        async def start(handler, url=SERVICE):
            target = Target.parse(url)
            tokens = IdTokens(source, target.origin, clock=clock, start=lambda work: work())
            auth = IdTokenAuth(target.origin, tokens=tokens)
            app = Proxy(target, auth, transport=Service(handler))
            await running.enter_async_context(app.router.lifespan_context(app))
            return app

        yield start


async def bounded(awaitable):
    return await asyncio.wait_for(awaitable, BOUND)


async def test_a_client_without_any_token_reaches_a_private_service(proxy, google):
    requests = []

    def service(request):
        requests.append(request)
        claims = google.verify(request.headers["x-serverless-authorization"], SERVICE)
        return httpx2.Response(200, json={"you": claims["email"]})

    app = await proxy(service)
    status, _, body, exit_info = await Call(app).answer()
    assert (status, body, exit_info) == (200, b'{"you":"ada@acme.dev"}', True)
    assert requests[0].headers["host"] == "mcp-echo-481516.europe-west1.run.app"


async def test_a_caller_cannot_use_another_identity(proxy):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200))
    await Call(
        app, headers=[(b"x-serverless-authorization", b"Bearer stolen"), (b"authorization", b"Basic own")]
    ).answer()
    assert requests[0].headers.get_list("x-serverless-authorization") != []
    assert "stolen" not in str(requests[0].headers.raw)
    assert requests[0].headers["authorization"] == "Basic own"


async def test_an_event_stream_is_passed_on_chunk_by_chunk(proxy):
    go_on = asyncio.Event()

    async def events():
        yield b"data: 1\n\n"
        await bounded(go_on.wait())
        yield b"data: 2\n\n"

    headers = {"content-type": "text/event-stream"}
    app = await proxy(lambda _: httpx2.Response(200, headers=headers, stream=Chunks(events())))
    call = Call(app)
    assert (await call.next())["status"] == 200
    assert (await call.next())["body"] == b"data: 1\n\n", "the first event was held back"
    go_on.set()
    assert (await call.next())["body"] == b"data: 2\n\n"


async def test_a_request_body_is_passed_on_chunk_by_chunk(proxy):
    first_arrived = asyncio.Event()
    received = []

    async def service(request):
        async for chunk in request.stream:
            received.append(chunk)
            first_arrived.set()
        return httpx2.Response(200)

    app = await proxy(service)
    call = Call(app, "POST", headers=[(b"transfer-encoding", b"chunked")], body=())
    call.send_body(b"one", more=True)
    await bounded(first_arrived.wait())
    call.send_body(b"two", more=False)
    status, *_ = await call.answer()
    assert (status, received) == (200, [b"one", b"two"])


async def test_a_disconnected_client_ends_the_services_stream(proxy):
    async def endless():
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    stream = Chunks(endless())
    app = await proxy(lambda _: httpx2.Response(200, stream=stream))
    call = Call(app)
    await call.next()
    await call.next()
    call.leave()
    await bounded(stream.closed.wait())
    await bounded(call.task)


async def test_a_client_that_disconnects_without_reading_ends_the_services_stream(proxy):
    blocked = asyncio.Event()

    async def full_socket(_message):
        blocked.set()
        await asyncio.Event().wait()

    async def one():
        yield b"data: 1\n\n"

    stream = Chunks(one())
    app = await proxy(lambda _: httpx2.Response(200, stream=stream))
    call = Call(app, send=full_socket)
    await bounded(blocked.wait())
    call.leave()
    await bounded(stream.closed.wait())
    await bounded(call.task)


@pytest.mark.parametrize("uploading", [False, True])
async def test_a_client_that_disconnects_early_ends_the_services_request(proxy, uploading):
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def service(request):
        arrived.set()
        try:
            async for _ in request.stream:
                pass
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    app = await proxy(service)
    call = Call(app, "POST", headers=[(b"transfer-encoding", b"chunked")], body=())
    call.send_body(b"part", more=uploading)
    await bounded(arrived.wait())
    call.leave()
    await bounded(cancelled.wait())
    await bounded(call.task)
    assert await call.next() is None, "nobody is there to be answered"


async def test_methods_paths_and_queries_are_passed_on_unchanged(proxy):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200))
    await Call(app, "REPORT", "//a%2Fb/../%7E%C3%A9;v=1", query=b"q=a+b%20c&q=&x").answer()
    assert requests[0].method == "REPORT"
    assert requests[0].extensions["target"] == b"//a%2Fb/../%7E%C3%A9;v=1?q=a+b%20c&q=&x"
    assert requests[0].url.host == "mcp-echo-481516.europe-west1.run.app"


async def test_the_path_of_an_mcp_url_is_not_prefixed_to_the_clients_path(proxy):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200), f"{SERVICE}/mcp")
    await Call(app, path="/mcp").answer()
    assert requests[0].url == f"{SERVICE}/mcp"


async def test_a_request_without_a_body_gets_none(proxy):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200))
    await Call(app, "DELETE").answer()
    assert not {"transfer-encoding", "content-length"} & set(requests[0].headers)


async def test_a_declared_length_is_passed_on_instead_of_chunks(proxy):
    requests = []

    async def service(request):
        requests.append((request.headers, await request.aread()))
        return httpx2.Response(200)

    app = await proxy(service)
    await Call(app, "POST", headers=[(b"content-length", b"5")], body=(b"hello",)).answer()
    headers, body = requests[0]
    assert body == b"hello"
    assert headers["content-length"] == "5"
    assert "transfer-encoding" not in headers


async def test_a_compressed_response_is_passed_on_unchanged(proxy):
    packed = gzip.compress(b"hello" * 100)
    headers = {"content-encoding": "gzip", "content-length": str(len(packed))}

    async def once():
        yield packed

    app = await proxy(lambda _: httpx2.Response(200, headers=headers, stream=Chunks(once())))
    _, got, body, _ = await Call(app).answer()
    assert body == packed
    assert (b"content-length", str(len(packed)).encode()) in got


async def test_repeated_headers_are_passed_on_and_cookies_are_not_stored(proxy):
    requests = []

    def service(request):
        requests.append(request)
        return httpx2.Response(200, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")])

    app = await proxy(service)
    _, headers, _, _ = await Call(app).answer()
    assert [value for name, value in headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    await Call(app).answer()
    assert "cookie" not in requests[1].headers, "one caller's cookie went out with another's request"


async def test_a_redirect_within_the_service_points_to_the_proxy_and_is_not_followed(proxy):
    app = await proxy(lambda _: httpx2.Response(307, headers={"location": f"{SERVICE}/mcp?x=1"}))
    status, headers, _, _ = await Call(app, headers=[(b"host", b"localhost:3000")]).answer()
    assert status == 307
    assert dict(headers)[b"location"] == b"http://localhost:3000/mcp?x=1"


async def test_a_service_that_refuses_connections_is_a_502_with_the_reason(proxy, caplog):
    def service(request):
        each = [ConnectionRefusedError(111, "Connection refused"), OSError(101, "Network is unreachable")]
        raise httpx2.ConnectError("All connection attempts failed") from ExceptionGroup("", each)

    app = await proxy(service)
    status, headers, body, _ = await Call(app).answer()
    assert status == 502
    assert dict(headers)[b"content-type"].startswith(b"text/plain")
    assert f"Cannot reach {SERVICE}: Connection refused.".encode() in body
    assert "Connection refused" in caplog.text


async def test_an_invalid_response_is_a_502_of_one_line(proxy):
    def service(request):
        raise httpx2.RemoteProtocolError("illegal status line: \x1b[2J\n✓ all checks passed.")

    app = await proxy(service)
    status, _, body, _ = await Call(app).answer()
    assert status == 502
    assert f"{SERVICE} gave no usable response: illegal status line: ".encode() in body
    assert body.endswith(b"all checks passed.\n")
    assert body.decode().removesuffix("\n").isprintable()


async def test_a_service_that_does_not_respond_is_a_504(proxy):
    def service(request):
        raise httpx2.ConnectTimeout("")

    app = await proxy(service)
    status, _, body, _ = await Call(app).answer()
    assert (status, b"did not respond within 30 s" in body) == (504, True)


async def test_a_response_that_does_not_begin_in_time_is_a_504_with_the_limit(proxy, monkeypatch):
    monkeypatch.setenv("MCPFLEET_ANSWER_SECONDS", "0.1")
    app = await proxy(lambda _request: asyncio.Event().wait())
    status, _, body, _ = await Call(app).answer()
    assert (status, b"no response within 0.1 s (MCPFLEET_ANSWER_SECONDS)" in body) == (504, True)


async def test_without_a_token_the_client_gets_an_error_with_the_next_step(proxy, source):
    source.error = NoCredentialsError("No Google credentials. Run `gcloud auth application-default login`.")
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200))
    status, _, body, _ = await Call(app).answer()
    assert (status, b"gcloud auth application-default login" in body) == (502, True)
    assert requests == [], "a request without a token must not leave"


async def test_shutdown_ends_open_streams(proxy):
    async def endless():
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    stream = Chunks(endless())
    app = await proxy(lambda _: httpx2.Response(200, stream=stream))
    call = Call(app)
    await call.next()
    await call.next()
    app.cancel_requests()
    await bounded(call.task)
    assert stream.closed.is_set()


async def test_a_truncated_response_is_not_completed(proxy, caplog):
    async def broken():
        yield b"half"
        raise httpx2.ReadError("connection reset")

    stream = Chunks(broken())
    app = await proxy(lambda _: httpx2.Response(200, stream=stream))
    status, _, body, exit_info = await Call(app).answer()
    assert (status, body, exit_info) == (200, b"half", False)
    assert stream.closed.is_set()
    assert "broke off" in caplog.text


async def test_cloud_runs_403_is_passed_on_and_the_next_command_is_logged(proxy, caplog):
    page = "<h1>Error: Forbidden</h1>"
    app = await proxy(lambda _: httpx2.Response(403, html=page))
    with caplog.at_level(logging.WARNING, "mcpfleet.proxy"):
        status, _, body, _ = await Call(app).answer()
    assert (status, body.decode()) == (403, page)
    (line,) = caplog.messages
    assert "user:ada@acme.dev may not call" in line
    assert line.endswith(
        "gcloud run services add-iam-policy-binding mcp-echo --region=europe-west1 "
        "--member=user:ada@acme.dev --role=roles/run.invoker"
    )
    assert "\n" not in line


async def test_cloud_runs_401_is_passed_on_and_the_audience_is_logged(proxy, caplog):
    headers = {"www-authenticate": 'Bearer error="invalid_token"', "content-type": "text/html; charset=UTF-8"}
    app = await proxy(lambda _: httpx2.Response(401, headers=headers))
    status, got, _, _ = await Call(app).answer()
    assert (status, dict(got)[b"www-authenticate"]) == (401, b'Bearer error="invalid_token"')
    (line,) = caplog.messages
    assert f"for {SERVICE}" in line
    assert "--audience" in line


@pytest.mark.parametrize("status", [401, 403])
async def test_the_mcp_servers_own_refusal_is_passed_on_without_advice(proxy, caplog, status):
    app = await proxy(lambda _: httpx2.Response(status, json={"error": "unauthorized"}))
    assert (await Call(app).answer())[0] == status
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"localhost:3000")], 200),
        ([(b"host", b"[::1]:3000")], 200),
        ([(b"origin", b"http://localhost:6274")], 200),
        ([(b"sec-fetch-site", b"cross-site"), (b"origin", b"http://localhost:6274")], 200),
        ([(b"sec-fetch-site", b"none")], 200),
        ([(b"host", b"evil.example")], 421),
        ([(b"host", b"127.0.0.1.evil.example:3000")], 421),
        ([(b"host", b"localhost@evil.example")], 421),
        ([(b"host", b"evil.example@localhost")], 421),
        ([(b"host", b"")], 421),
        ([(b"host", b"localhost"), (b"host", b"localhost")], 421),
        ([(b"host", b"192.168.0.7:3000")], 421),
        ([(b"origin", b"https://evil.example")], 403),
        ([(b"origin", b"https://localhost.evil.example")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"http://evil.example\\@localhost")], 403),
        ([(b"sec-fetch-site", b"cross-site")], 403),
    ],
)
async def test_only_programs_and_local_pages_can_use_the_proxy(proxy, headers, status):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200))
    assert (await Call(app, headers=headers).answer())[0] == status
    assert bool(requests) == (status == 200), "a refused request must not reach the service"


async def test_a_browsers_preflight_is_sent_with_a_token(proxy):
    requests = []
    app = await proxy(lambda request: requests.append(request) or httpx2.Response(200, headers=[(ALLOWED, PAGE)]))
    asks = [(b"origin", PAGE.encode()), (b"access-control-request-method", b"POST")]
    status, headers, *_ = await Call(app, "OPTIONS", headers=asks).answer()
    assert (requests[0].method, requests[0].headers["origin"]) == ("OPTIONS", PAGE)
    assert requests[0].headers["access-control-request-method"] == "POST"
    assert requests[0].headers["x-serverless-authorization"]
    assert (status, dict(headers)[ALLOWED.encode()]) == (200, PAGE.encode())


async def test_a_web_socket_is_refused(proxy):
    app = await proxy(lambda _: httpx2.Response(200))
    assert (await Call(app, kind="websocket").next())["type"] == "websocket.close"


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://echo.run.app", "https://echo.run.app", ""),
        (" https://Echo.run.app/mcp/ ", "https://echo.run.app", "/mcp/"),
        ("https://echo.run.app/", "https://echo.run.app", ""),
        ("http://127.0.0.1:9001/mcp", "http://127.0.0.1:9001", "/mcp"),
        ("http://[::1]:9001", "http://[::1]:9001", ""),
    ],
)
def test_a_services_url_and_its_mcp_url_are_accepted(url, origin, path):
    target = Target.parse(url)
    assert (target.origin, target.path) == (origin, path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("echo.run.app", "not a service's URL"),
        ("ftp://echo.run.app", "not a service's URL"),
        ("https://", "not a service's URL"),
        ("https://me:pw@echo.run.app", "not a service's URL"),  # pragma: allowlist secret
        ("https://echo.run.app:port", "is not a URL"),
        ("http://echo.run.app", "Use https://echo.run.app"),
    ],
)
def test_an_invalid_url_is_refused_before_anything_starts(url, message):
    with pytest.raises(UsageError, match=message):
        Target.parse(url)


def test_without_a_token_a_url_may_be_http_with_a_short_name():
    target = Target.parse("http://mcp-echo/mcp", bearer=False)
    assert (target.origin, target.service_and_region) == ("http://mcp-echo", ("mcp-echo", "REGION"))
    assert Target.parse("http://localhost:9001").service_and_region == ("SERVICE", "REGION")

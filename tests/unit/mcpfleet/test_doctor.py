"""`mcpfleet doctor`: each way in which a URL, a machine or a project can be wrong is named with the next step."""

import email.utils
import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet import prerequisites
from mcpfleet.doctor import examine
from mcpfleet.errors import NoCredentialsError
from mcpfleet.stack import read_servers, server_from_url

URL = "https://mcp-echo-481516.europe-west1.run.app/mcp"
HTML = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
IAP = {"x-goog-iap-generated-response": "true"}
LOGIN = {"location": "https://accounts.google.com/o/oauth2/v2/auth?client_id=x"}
RESOURCE = {"www-authenticate": 'Bearer resource_metadata="https://x/m"'}
RESULT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "echo", "version": "1"}}
ANSWER = {"jsonrpc": "2.0", "id": 1, "result": RESULT}
SERVER = read_servers({"servers": {"echo": {"mcp_url": URL, "audience": URL.removesuffix("/mcp")}}}, "here")["echo"]


@pytest.fixture
def lines(source, clock):
    """`lines(answer)`: the results for a service that refuses calls without a token, and returns *answer* to others."""

    def look(answer, *, anonymous=None, server=SERVER, clock_of_service=None, without=False):
        date = {"date": email.utils.formatdate(clock_of_service if clock_of_service is not None else clock())}
        first = anonymous or httpx2.Response(403, headers=HTML)
        first.headers.update(date)

        def service(request):
            if not any(name in request.headers for name in ("x-serverless-authorization", "authorization")):
                return first
            if isinstance(answer, Exception):
                raise answer
            return answer(request) if callable(answer) else answer

        transport = httpx2.MockTransport(service)
        return examine(server, None if without else source, transport=transport, clock=clock)

    return look


def bad(results):
    return [f"{line.text} {line.step}" for line in results if line.kind == "bad"]


def test_a_healthy_server_has_no_problem(lines):
    results = lines(httpx2.Response(200, json=ANSWER))
    assert bad(results) == []
    assert [line.kind for line in results] == ["ok"] * 5
    assert "user:ada@acme.dev" in results[3].text


@pytest.mark.parametrize(
    ("status", "headers", "output", "step"),
    [
        (401, HTML, "did not accept the token", "--audience"),
        (403, HTML, "may not call", "--member=user:ada@acme.dev --role=roles/run.invoker"),
        (404, HTML, "no such service", "gcloud run services describe mcp-echo --region=europe-west1"),
        (405, {}, "not accept this method", "Use the MCP URL"),
        (307, {"location": "http://x/mcp"}, "redirects to http://x/mcp", "FORWARDED_ALLOW_IPS"),
        (308, {"location": "https://x/mcp"}, "redirects to https://x/mcp", "Call that URL"),
        (421, JSON, "does not accept the host", "allowed hosts"),
        (421, {"content-type": "text/plain"}, "does not accept the host", "allowed hosts"),
        (429, {"content-type": "text/plain"}, "no instance was free", "max_instances"),
        (500, HTML, "an error of its own", "logs read mcp-echo"),
        (502, HTML, "could not start an instance", "logs read mcp-echo --region=europe-west1"),
        (503, {"content-type": "text/plain"}, "could not start an instance", "logs read mcp-echo"),
        (504, {"content-type": "text/plain"}, "within its timeout", "Raise the server's timeout"),
        (400, JSON, "returns 400 with application/json, not MCP", "logs read mcp-echo"),
        (404, JSON, "returns 404 with application/json, not MCP", "Check the path"),
        (200, HTML, "not MCP", "Check the path"),
    ],
)
def test_each_response_is_explained_with_cause_and_next_command(lines, status, headers, output, step):
    (finding,) = bad(lines(httpx2.Response(status, headers=headers)))
    assert output in finding
    assert step in finding


def test_a_private_server_that_anyone_can_call_is_reported(lines):
    open_door = httpx2.Response(200, headers=JSON)
    (finding,) = bad(lines(httpx2.Response(200, json=ANSWER), anonymous=open_door))
    assert "everybody may call it" in finding
    by_url = lines(httpx2.Response(200, json=ANSWER), anonymous=open_door, server=server_from_url(URL, None))
    assert [line.kind for line in by_url][1] == "warn", "of a URL alone nobody knows what is meant"


@pytest.mark.parametrize(
    ("access", "answer", "kind"),
    [
        *(("iam", httpx2.Response(status, headers=HTML), "warn") for status in (401, 404, 429, 500, 503)),
        ("iam", httpx2.Response(200, headers=HTML), "warn"),
        ("iam", httpx2.Response(403, headers=HTML), "ok"),
        ("oauth", httpx2.Response(401, headers=RESOURCE), "ok"),
        ("oauth", httpx2.Response(401), "warn"),
        ("oauth", httpx2.Response(200, headers=JSON), "bad"),
        ("iap", httpx2.Response(401, headers=IAP), "ok"),
        ("iap", httpx2.Response(302, headers=LOGIN), "ok"),
        ("iap", httpx2.Response(302, headers={"location": "/login"}), "warn"),
        ("iap", httpx2.Response(401, headers=RESOURCE), "bad"),
        ("iam", httpx2.Response(302, headers=LOGIN), "warn"),
        ("iam", httpx2.Response(401, headers=RESOURCE), "bad"),
        ("public", httpx2.Response(401, headers=RESOURCE), "ok"),
        ("iap", httpx2.Response(200, headers=JSON), "bad"),
        ("public", httpx2.Response(200, headers=JSON), "ok"),
    ],
)
def test_only_the_refusal_of_its_access_mode_counts_as_private(lines, access, answer, kind):
    output = {"mcp_url": URL, "audience": URL.removesuffix("/mcp"), "access": access}
    server = read_servers({"servers": {"echo": output}}, "here")["echo"]
    results = lines(None, anonymous=answer, server=server, without=True)
    assert results[1].kind == kind, results[1]


def server_of(**output):
    return read_servers(
        {"servers": {"echo": {"mcp_url": URL, "audience": URL.removesuffix("/mcp"), **output}}}, "here"
    )["echo"]


def test_an_oauth_server_is_reported_with_its_metadata_and_without_iam_advice(lines):
    challenge = httpx2.Response(401, headers={**JSON, **RESOURCE})
    results = lines(None, anonymous=challenge, server=server_from_url(URL, None))
    assert [line.kind for line in results] == ["ok"] * 3, "no token of Google's is tried where it is of no use"
    assert "the server itself requires a login: 401 (https://x/m)" in results[1].text
    assert "they log in by themselves" in results[1].step
    (stated,) = bad(lines(challenge, anonymous=challenge, server=server_of(access="iam"), without=True))
    assert "Google lets everybody reach it, but in the stack its access is iam" in stated
    assert "access: {public: …}" in stated


def test_an_oauth_server_behind_iam_is_distinguished_from_iams_refusal(lines):
    (finding,) = bad(lines(httpx2.Response(401, headers={**JSON, **RESOURCE})))
    assert "with the token the server itself requires a login: 401 (https://x/m)" in finding
    assert "mcpfleet proxy" in finding


def test_with_iap_the_token_is_for_the_oauth_client_and_in_iaps_header(lines, google):
    requests = []

    def answer(request):
        requests.append(google.verify(request.headers["authorization"], "cli.apps.example")["aud"])
        return httpx2.Response(200, json=ANSWER)

    login = httpx2.Response(302, headers=LOGIN)
    server = server_of(access="iap", program_audience="cli.apps.example")
    assert bad(lines(answer, anonymous=login, server=server)) == []
    assert requests == ["cli.apps.example"]


def test_iap_without_programmatic_access_is_reported_without_a_request(lines):
    results = lines(None, anonymous=httpx2.Response(302, headers=LOGIN), server=server_of(access="iap"))
    assert (results[-1].kind, "programmatic_clients" in results[-1].step) == ("skip", True)


def test_a_redirect_by_iap_is_not_attributed_to_the_server(lines):
    login = httpx2.Response(302, headers={**HTML, **LOGIN})
    results = lines(login, anonymous=login, server=server_from_url(URL, None))
    assert (results[1].kind, results[1].text) == ("ok", "without a token Identity-Aware Proxy refuses: 302")
    (finding,) = bad(results)
    assert "redirects to Google's login" in finding
    assert "programmatic_clients" in finding


def test_a_public_server_is_checked_without_a_token(lines):
    public = server_of(access="public")
    results = lines(AssertionError(), anonymous=httpx2.Response(200, json=ANSWER), server=public)
    assert [line.kind for line in results] == ["ok"] * 4
    (finding,) = bad(lines(None, anonymous=httpx2.Response(200, text="hello"), server=public))
    assert "without a token it returns 200 with text/plain" in finding
    (finding,) = bad(lines(None, anonymous=httpx2.Response(403, headers=HTML), server=public))
    assert "--member=allUsers" in finding


OTHERS = [
    {},
    {"status": "ok"},
    {"error": {"code": 403, "message": "no"}},
    {"detail": "Not Found"},
    {"result": {}},
    {"jsonrpc": "2.0", "id": 1, "result": {}},
    {"jsonrpc": "2.0", "id": 1, "result": []},
    {"jsonrpc": "2.0", "method": "ping"},
]


@pytest.mark.parametrize("body", [*map(json.dumps, OTHERS), "", "null", "[]", "<html>", "{"])
@pytest.mark.parametrize("kind", [JSON, SSE])
def test_a_response_that_is_no_mcp_is_reported_for_any_content_type(lines, body, kind):
    content = f"data: {body}\n\n" if kind is SSE else body
    (finding,) = bad(lines(httpx2.Response(200, headers=kind, content=content)))
    assert "Check the path" in finding


@pytest.mark.parametrize(
    "answer",
    [
        {**ANSWER, "id": 2},
        {**ANSWER, "id": True},
        {**ANSWER, "error": None},
        {**ANSWER, "detail": 1},
        {"id": 1, "result": RESULT},
    ],
)
def test_a_response_that_clients_may_drop_is_a_warning(lines, answer):
    results = lines(httpx2.Response(200, json=answer))
    assert (results[-1].kind, "not valid JSON-RPC" in results[-1].text) == ("warn", True)


def test_an_event_stream_is_read_up_to_the_answer(lines):
    class Endless(httpx2.AsyncByteStream):
        async def __aiter__(self):
            yield b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n'
            yield f"data: {json.dumps(ANSWER)}\n\n".encode()
            raise AssertionError("what comes behind the answer is not waited for")

    assert bad(lines(lambda _request: httpx2.Response(200, headers=SSE, stream=Endless()))) == []


@pytest.mark.parametrize("status", [200, 400])
def test_a_server_with_only_the_newest_protocol_version_passes(lines, status):
    def answer(request):
        if request.headers.get("mcp-method") == "server/discover":
            assert request.headers["mcp-protocol-version"] == "2026-07-28"
            return httpx2.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": []}})
        return httpx2.Response(status, json={"jsonrpc": "2.0", "id": 1, "error": {"code": -32022, "message": "old"}})

    results = lines(answer)
    assert bad(results) == []
    assert "2026-07-28" in results[-1].text


def test_a_servers_own_error_is_quoted(lines):
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no database\x1b[2J"}}
    (finding,) = bad(lines(httpx2.Response(500, json=error)))
    assert "the MCP server itself returns 500: no database\\u001b[2J" in finding


@given(
    st.integers(200, 599),
    st.sampled_from([*JSON.values(), *SSE.values(), *HTML.values(), "text/plain", "x"]),
    st.binary(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_response_is_explained_in_one_line(lines, status, kind, body):
    results = lines(lambda _request: httpx2.Response(status, headers={"content-type": kind}, content=body))
    assert len(results) == 5
    assert all("\x1b" not in line.text + line.step for line in results)
    assert results[-1].kind == "bad"


@pytest.mark.parametrize(("hours", "transport"), [(2, "behind"), (-2, "ahead of")])
def test_a_wrong_clock_is_reported_before_its_consequences(lines, clock, hours, transport):
    results = lines(httpx2.Response(200, json=ANSWER), clock_of_service=clock() + hours * 3600)
    (finding,) = bad(results)
    assert finding.startswith(f"this machine's clock is 7200 s {transport} the server's Set the clock")


def test_an_unreachable_server_is_the_only_problem_reported(source):
    def refuse(_request):
        raise httpx2.ConnectError("Name or service not known")

    (finding,) = bad(examine(SERVER, source, transport=httpx2.MockTransport(refuse)))
    assert "cannot be reached: Name or service not known" in finding


def test_a_missing_token_is_a_problem_with_a_next_step(lines, source):
    source.error = NoCredentialsError("Run `gcloud auth application-default login`.")
    (finding,) = bad(lines(httpx2.Response(200, headers=JSON)))
    assert "no token to call with" in finding
    assert "gcloud auth" in finding
    assert len(lines(None, without=True)) == 3


def test_a_token_for_another_audience_is_reported(lines, source, google):
    mint = google.mint
    google.mint = lambda _audience, lifetime: mint("https://other", "bot@acme.iam.gserviceaccount.com", lifetime)
    findings = bad(lines(httpx2.Response(401, headers=HTML)))
    assert "It should be for https://mcp-echo-481516.europe-west1.run.app" in findings[0]


# --- prerequisites --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "kinds"),
    [
        ({"pulumi": "v3.272.0", "docker": "27.1.1", "gcloud": "Google Cloud SDK 528.0.0"}, ["ok", "ok", "ok"]),
        ({"pulumi": "v3.200.0", "docker": "19.3.1"}, ["bad", "bad", "skip"]),
        ({}, ["bad", "bad", "skip"]),
        ({"pulumi": "no version", "docker": ""}, ["bad", "bad", "skip"]),
    ],
)
def test_missing_and_old_programs_are_reported_with_where_to_get_them(output, kinds):
    results = prerequisites.check_programs(lambda command: output.get(command[0]))
    assert [line.kind for line in results] == kinds
    assert all(("https://" in line.step) == (line.kind == "bad") for line in results)


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (
            "28.0.1|Docker Desktop|x86_64|true|true|[name=seccomp,profile=builtin name=cgroupns]\n",
            [("ok", "docker 28.0.1: Docker Desktop, x86_64")],
        ),
        (
            "20.10.24+dfsg1|Debian GNU/Linux 12|x86_64|false|false|[name=seccomp name=rootless]",
            [("ok", "docker 20.10.24: Debian GNU/Linux 12, x86_64, rootless, without limits of memory and processes")],
        ),
        (
            "28.0.1|OrbStack|aarch64|true|true|[]",
            [
                ("ok", "docker 28.0.1: OrbStack, aarch64"),
                ("warn", "Cloud Run runs linux/amd64; this engine (aarch64) builds for it by emulation"),
            ],
        ),
    ],
)
def test_the_docker_engine_is_reported_with_its_missing_features(output, lines):
    results = prerequisites.check_programs(lambda command: output if command[0] == "docker" else None)
    assert [(line.kind, line.text) for line in results if "ocker" in line.text or "engine" in line.text] == lines


@given(st.text())
def test_any_output_of_docker_is_explained_in_one_line(output):
    assert prerequisites.check_programs(lambda command: output if command[0] == "docker" else None)[1].kind in {
        "ok",
        "bad",
    }


class Project:
    """Google's APIs, for a project without problems except for those that a test sets."""

    def __init__(self, **wrong):
        self.wrong = wrong
        self.asked = []

    def __call__(self, method, url, body=None):
        self.asked.append(url)
        kind = next(
            word
            for word in ("billingInfo", "testIam", "getEffectivePolicy", "services/", "projects/acme")
            if word in url
        )
        if kind in self.wrong:
            return self.wrong[kind]
        return 200, {
            "billingInfo": {"billingEnabled": True},
            "testIam": {"permissions": (body or {}).get("permissions")},
            "getEffectivePolicy": {"spec": {"rules": [{"allowAll": True}]}},
            "services/": {"state": "ENABLED"},
            "projects/acme": {"lifecycleState": "ACTIVE"},
        }[kind]


def test_a_ready_project_has_no_problem():
    results = prerequisites.check_project("acme", Project(), {})
    assert {line.kind for line in results} == {"ok"}
    assert len([line for line in results if "roles/" in line.text]) == 5


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        ({"projects/acme": (403, {"error": {"message": "denied"}})}, "cannot be read: 403 denied"),
        ({"billingInfo": (200, {})}, "gcloud billing projects link acme"),
        ({"testIam": (200, {})}, "add-iam-policy-binding acme --member=user:YOU --role=roles/run.admin"),
        ({"services/": (200, {"state": "DISABLED"})}, "gcloud services enable serviceusage.googleapis.com"),
    ],
)
def test_missing_prerequisites_of_a_project_are_reported_with_the_command_to_run(wrong, output):
    assert any(output in line for line in bad(prerequisites.check_project("acme", Project(**wrong), {})))


def test_an_organization_policy_is_reported_with_what_it_prevents():
    rules = {"spec": {"rules": [{"values": {"allowedValues": ["C012"]}}]}}
    results = prerequisites.check_project("acme", Project(getEffectivePolicy=(200, rules)), {})
    warned = [line.text for line in results if line.kind == "warn"]
    assert len(warned) == len(prerequisites.POLICIES)
    assert any("allUsers, are refused" in text for text in warned)


def test_prerequisites_that_cannot_be_read_are_reported_and_do_not_fail():
    denied = (403, {"error": {"message": "denied"}})
    results = prerequisites.check_project("acme", Project(billingInfo=denied, getEffectivePolicy=denied), {})
    assert bad(results) == []
    assert len([line for line in results if line.kind == "skip"]) == 1 + len(prerequisites.POLICIES)


def test_the_deployments_endpoints_are_used():
    api = Project()
    environ = {
        "GOOGLE_RESOURCE_MANAGER_CUSTOM_ENDPOINT": "http://127.0.0.1:8500/crm/v1/",
        "GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT": "http://127.0.0.1:8500/serviceusage/v1beta1/",
        "GOOGLE_CLOUD_BILLING_CUSTOM_ENDPOINT": "http://127.0.0.1:8500/billing/v1/",
    }
    results = prerequisites.check_project("acme", api, environ)
    assert all(url.startswith("http://127.0.0.1:8500/") for url in api.asked)
    assert "http://127.0.0.1:8500/crm/v1/projects/acme" in api.asked
    assert [line.kind for line in results if "organization" in line.text] == ["skip"]


def test_a_missing_network_is_one_problem():
    def away(method, url, body=None):
        raise ConnectionError("Network is unreachable")

    (finding,) = bad(prerequisites.check_project("acme", away, {}))
    assert "Network is unreachable" in finding


def test_the_json_report_has_the_overall_result():
    from mcpfleet.reports import reports_json
    from mcpfleet.verify import Report

    is_valid, wrong = Report("a", ["x"], first_ms=1.5, median_ms=1.0), Report("b", ["x"], ["y: was z"])
    results = json.loads(reports_json([is_valid, wrong], {"a": "user:ada", "b": "user:ada"}))
    assert results["ok"] is False
    assert results["servers"]["b"]["failed"] == ["y: was z"]
    keys = {"identity", "passed", "failed", "warned", "unasked", "calls", "first_ms", "median_ms"}
    assert set(results["servers"]["a"]) == keys
    results = json.loads(reports_json([is_valid, wrong], {"a": "user:ada", "b": "user:ada"}, {"b": None}))
    assert (set(results["servers"]), set(results["clients"])) == ({"a"}, {"b"})
    assert json.loads(reports_json([is_valid], {"a": "user:ada"}))["ok"] is True

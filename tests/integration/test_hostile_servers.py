"""Commands on a person's machine against a hostile server: they end, say why, and stay small."""

import http.client
import json
import socket
import sys
import time

import httpx2
import pytest

from tests.integration.hostile import (
    ATTACKS,
    BOUND,
    LIMIT,
    MCPFLEET,
    MEMORY,
    SECONDS,
    Hostile,
    credentials,
    issuing,
    login,
    meet_all,
    run,
    running,
)

pytestmark = pytest.mark.integration

LINE = 1000  # characters of a message, more than any has


@pytest.fixture(scope="module", params=["verify", "doctor"])
def checked(request):
    """The results of checking each hostile server."""

    def check(server, folder):
        where = [f"--url={server.url}"] if request.param == "verify" else [server.url]
        return run(request.param, *where, credentials(folder))

    return meet_all(check)


@pytest.fixture(scope="module")
def relayed():
    """The answers that a client got through the relay from each hostile server."""
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "a", "arguments": {}}},
    ]
    call = "".join(json.dumps(line) + "\n" for line in lines)
    return meet_all(lambda server, folder: run("connect", f"--url={server.url}", credentials(folder), stdin=call))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_check_of_a_hostile_server_fails_with_bounded_memory(checked, attack):
    text, code, peak = checked[attack].result()
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert not any(line.startswith("✓ all checks") for line in text.splitlines())
    assert code == 1
    assert "✗" in text
    assert peak < MEMORY


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_relay_answers_its_client_with_bounded_memory(relayed, attack):
    text, code, peak = relayed[attack].result()
    assert (code, "Traceback" in text, "\x1b" in text) == (0, False, False)
    for line in text.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert peak < MEMORY


def carried(port):
    """Read from the proxy for some seconds, as fast as it sends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    taken, began = b"", time.monotonic()
    try:
        connection.request("POST", "/mcp", b"{}", {"content-type": "application/json"})
        answer = connection.getresponse()
        while len(taken) < 8 * LIMIT and time.monotonic() - began < SECONDS:
            if not (piece := answer.read1(65536)):
                break
            taken += piece
    except (OSError, http.client.HTTPException):
        return b""  # it gave up, or the caller
    finally:
        connection.close()
    return taken


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_proxy_survives_a_hostile_server_with_bounded_memory_and_closes_with_its_caller(attack, tmp_path):
    hostile = Hostile(ATTACKS[attack])
    command = [MCPFLEET, "proxy", f"--url={hostile.url}", "--port=0", credentials(tmp_path)]
    with running(tmp_path / "log", *command) as proxy:
        port = int(proxy.said(r"http://127\.0\.0\.1:(\d+)/mcp")[1])
        for _ in range(2):
            carried(port)
        assert hostile.asked == 2
        assert hostile.is_left()
        assert proxy.peak < MEMORY
    hostile.close()
    assert not hostile.leaked
    assert "Traceback" not in proxy.text
    assert "\x1b" not in proxy.text
    assert len(proxy.text.splitlines()) <= 3 + 2  # where it listens, as whom, that it stopped; a line for each request
    assert max(map(len, proxy.text.splitlines())) < LINE


@pytest.mark.parametrize("attack", ["headers that drip", "interim answers without end"])
def test_the_proxy_gives_up_on_a_response_that_does_not_begin_in_time(tmp_path, attack):
    server = Hostile(ATTACKS[attack])
    command = [MCPFLEET, "proxy", f"--url={server.url}", "--port=0", credentials(tmp_path)]
    with running(tmp_path / "log", *command, MCPFLEET_ANSWER_SECONDS=str(SECONDS)) as proxy:
        port = int(proxy.said(r"http://127\.0\.0\.1:(\d+)/mcp")[1])
        answer = httpx2.post(f"http://127.0.0.1:{port}/mcp", json={}, timeout=BOUND, trust_env=False)
        assert (answer.status_code, "MCPFLEET_ANSWER_SECONDS" in answer.text) == (504, True)
        assert server.is_left()
    server.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client service of all the hostile servers, by name, with an HTTP client of its own."""
    folder, issuer, port = tmp_path_factory.mktemp("client"), Hostile(issuing), free_port()
    servers = {attack.replace(" ", "-").lower(): Hostile(ATTACKS[attack]) for attack in ATTACKS}
    told = {
        "PORT": str(port),
        "MCP_SERVERS": json.dumps(
            {name: {"url": server.url, "audience": "http://127.0.0.1"} for name, server in servers.items()}
        ),
        "MCP_TIMEOUT": str(SECONDS),
        "GOOGLE_APPLICATION_CREDENTIALS": str(login(folder, issuer.url)),
    }
    with (
        running(folder / "log", sys.executable, "-m", "mcp_client", **told) as program,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=BOUND, trust_env=False) as http,
    ):
        wait_for(http, program)
        yield program, http, servers
    for server in (issuer, *servers.values()):
        server.close()


@pytest.mark.parametrize("name", [attack.replace(" ", "-").lower() for attack in ATTACKS])
def test_the_client_service_answers_in_time_with_bounded_memory(client, name):
    program, http, servers = client
    for question in ({}, {"tool": "a"}):
        answer = http.post("/ask", json={"servers": [name], **question})
        said = answer.json()["servers"][name]["error"]["message"]
        assert answer.status_code == 502
        assert len(said) < LINE
        assert len(said.splitlines()) == 1
    assert http.get("/health").status_code == 200
    assert program.peak < MEMORY
    assert servers[name].is_left()
    assert not servers[name].leaked
    assert "Traceback" not in program.text
    assert "\x1b" not in program.text


def wait_for(http, program):
    began = time.monotonic()
    while True:
        try:
            http.get("/health")
        except httpx2.TransportError:
            assert time.monotonic() - began < BOUND, program.text
            time.sleep(0.05)
        else:
            return


def test_writing_a_configuration_contacts_no_server(tmp_path):
    server = Hostile(issuing)
    text, code, _ = run("config", "json", f"--url={server.url}")
    assert (code, server.asked) == (0, 0)
    assert server.url in text
    server.close()

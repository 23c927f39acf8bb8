"""A server that does its worst against the programs of a desk: they end, say why in a line, and stay small."""

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
    run,
    running,
)

pytestmark = pytest.mark.integration

LINE = 1000  # characters of a message, more than any has


@pytest.fixture(params=ATTACKS, ids=lambda name: name.replace(" ", "-"))
def hostile(request):
    server = Hostile(ATTACKS[request.param])
    yield server
    server.close()
    assert not server.leaked


@pytest.mark.parametrize("command", ["verify", "doctor"])
def test_a_check_ends_with_a_finding_and_stays_small(hostile, tmp_path, command):
    where = [f"--url={hostile.url}"] if command == "verify" else [hostile.url]
    text, code, peak = run(command, *where, credentials(tmp_path))
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert not any(line.startswith("✓ all checks") for line in text.splitlines())
    assert code == 1
    assert "✗" in text
    assert peak < MEMORY


def test_the_relay_answers_its_client_and_stays_small(hostile, tmp_path):
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "a", "arguments": {}}},
    ]
    call = "".join(json.dumps(line) + "\n" for line in lines)
    text, code, peak = run("connect", f"--url={hostile.url}", credentials(tmp_path), stdin=call)
    assert (code, "Traceback" in text, "\x1b" in text) == (0, False, False)
    for line in text.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert peak < MEMORY


def carried(port):
    """What the proxy lets through of an answer in some seconds, as much as a caller takes."""
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


def test_the_proxy_carries_on_stays_small_and_lets_go_when_its_caller_does(hostile, tmp_path):
    command = [MCPFLEET, "proxy", f"--url={hostile.url}", "--port=0", credentials(tmp_path)]
    with running(tmp_path / "log", *command) as proxy:
        port = int(proxy.said(r"http://127\.0\.0\.1:(\d+)/mcp")[1])
        for _ in range(2):
            carried(port)
        assert hostile.asked == 2
        assert hostile.is_left()
        assert proxy.peak < MEMORY
    assert "Traceback" not in proxy.text
    assert "\x1b" not in proxy.text
    assert len(proxy.text.splitlines()) <= 3 + 2  # where it listens, as whom, that it stopped; a line for each request
    assert max(map(len, proxy.text.splitlines())) < LINE


@pytest.mark.parametrize("attack", ["headers that drip", "interim answers without end"])
def test_the_proxy_gives_up_an_answer_that_does_not_begin_in_time(tmp_path, attack):
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


def test_the_client_service_answers_in_its_time_and_stays_small(hostile, tmp_path):
    issuer = Hostile(issuing)
    port = free_port()
    told = {
        "PORT": str(port),
        "MCP_SERVERS": json.dumps({"bad": {"url": hostile.url, "audience": "http://127.0.0.1"}}),
        "MCP_TIMEOUT": str(SECONDS),
        "GOOGLE_APPLICATION_CREDENTIALS": str(login(tmp_path, issuer.url)),
    }
    with running(tmp_path / "log", sys.executable, "-m", "mcp_client", **told) as client:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=BOUND, trust_env=False) as http:
            wait_for(http, client)
            for question in ({}, {"tool": "a"}):
                answer = http.post("/ask", json=question)
                said = answer.json()["servers"]["bad"]["error"]["message"]
                assert answer.status_code == 502
                assert len(said) < LINE
                assert len(said.splitlines()) == 1
            assert http.get("/health").status_code == 200
        assert client.peak < MEMORY
        assert hostile.is_left()
    assert "Traceback" not in client.text
    assert "\x1b" not in client.text
    issuer.close()


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


def test_writing_a_configuration_asks_no_server(tmp_path):
    server = Hostile(issuing)
    text, code, _ = run("config", "json", f"--url={server.url}")
    assert (code, server.asked) == (0, 0)
    assert server.url in text
    server.close()

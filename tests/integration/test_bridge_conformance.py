"""The official conformance suite against the bridge, with a server that needs a handshake."""

import os
import sys
from pathlib import Path

import httpx2
import pytest

from devtools.peers import find_node_packages
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.conformance_suite import run_suite
from tests.integration.test_bridge_processes import ROOT, Running

pytestmark = pytest.mark.integration

SERVER = [sys.executable, str(Path(__file__).with_name("bridge_conformance_server.py"))]

# The pool's processes are everybody's: what they say without being asked belongs to no client that could be told.
STATELESS_2025 = {
    "logging-set-level": "a level would be set for all clients of the process",
    "tools-call-with-logging": "a log message goes to the log: no client of the process can be told",
    "tools-call-sampling": "asks the client's model by a request of the server's own",
    "tools-call-elicitation": "asks the user by a request of the server's own",
    "elicitation-sep1034-defaults": "asks the user by a request of the server's own",
    "elicitation-sep1330-enums": "asks the user by a request of the server's own",
    "resources-subscribe": "news would have no session to go to",
    "resources-unsubscribe": "news would have no session to go to",
    "server-sse-multiple-streams": "looks for a session id; a warning, which counts once failures are expected",
}
# A question of protocol versions with a handshake has no key, so the bridge gives it one.
MODERN = {
    "input-required-result-basic-elicitation": "wants the question under the key `user_name`",
    "input-required-result-ignore-extra-params": "answers under the key `user_name`; a warning, as above",
}


@pytest.mark.parametrize(
    ("revision", "expected", "least"), [("2025-11-25", STATELESS_2025, 59), ("2026-07-28", MODERN, 160)]
)
def test_every_scored_scenario_passes_or_fails_for_a_reason(tmp_path, revision, expected, least):
    packages = find_node_packages(ThisHost(), Paths.from_environ(os.environ))
    environment = {"MCP_ALLOWED_ORIGINS": "http://localhost:*", "PYTHONPATH": str(ROOT)}
    one = Running(tmp_path, SERVER, EXCLUSIVE=8, environment=environment)
    try:
        one.until(one.healthy)
        if revision == "2026-07-28":
            # One scenario waits 600 ms, in which no process of its own would have started: let there be one.
            ask(one, "elicitation")
        assert run_suite(packages, one.url.rpartition(":")[2], revision, expected, tmp_path) >= least
    finally:
        one.process.terminate()
        assert one.process.wait(15) == 0


def ask(one, capability):
    prefix = "io.modelcontextprotocol/"
    meta = {f"{prefix}protocolVersion": "2026-07-28", f"{prefix}clientCapabilities": {capability: {}}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/list",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    httpx2.post(f"{one.url}/mcp", json=body, headers=headers, timeout=30, trust_env=False).raise_for_status()

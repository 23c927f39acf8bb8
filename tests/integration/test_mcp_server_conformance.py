"""The official conformance suite, in both protocol versions, against `conformance_server`."""

import os

import pytest

from devtools.peers import find_node_packages
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration.conformance_suite import run_suite
from tests.integration.mcp_server_process import serving

pytestmark = pytest.mark.integration

# Without a session the server has no way to ask the client something in the middle of a call: the reply could reach
# another instance. Since 2026-07-28 such questions are answered by a second call, which needs no session.
STATELESS_2025 = {
    "tools-call-sampling": "asks the client's model by a request of the server's own",
    "tools-call-elicitation": "asks the user by a request of the server's own",
    "elicitation-sep1034-defaults": "asks the user by a request of the server's own",
    "elicitation-sep1330-enums": "asks the user by a request of the server's own",
    # Scored as a warning, which counts once a list of expected failures is given.
    "server-sse-multiple-streams": "looks for a session id",
}


@pytest.fixture(scope="module")
def packages():
    return find_node_packages(ThisHost(), Paths.from_environ(os.environ))


@pytest.mark.parametrize(
    ("revision", "stateless", "expected"),
    [
        ("2025-11-25", "false", {}),
        ("2025-11-25", "true", STATELESS_2025),
        ("2026-07-28", "false", {}),
        ("2026-07-28", "true", {}),
    ],
)
def test_every_scored_scenario_passes(tmp_path, packages, revision, stateless, expected):
    # The suite's page is allowed, as it has to be for a browser client that runs on the same machine.
    environment = {"MCP_STATELESS": stateless, "MCP_ALLOWED_ORIGINS": "http://localhost:*"}
    with serving(tmp_path, "tests.integration.conformance_server", **environment) as served:
        passed = run_suite(packages, served.port, revision, expected, tmp_path)
    assert passed >= (60 if revision == "2025-11-25" else 160)

"""The official conformance suite, in both revisions, against `mcp_server.conformance` on our hosting layer."""

import os
import re
import subprocess

import pytest

from tests.integration.mcp_server_process import serving
from workbench.paths import Paths
from workbench.setup.host import ThisHost
from workbench.setup.node_packages import find_node_packages

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
    return find_node_packages(ThisHost(), Paths.of(os.environ))


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
    with serving(tmp_path, "mcp_server.conformance", **environment) as served:
        suite = packages.script("@modelcontextprotocol/conformance/dist/index.js")
        command = [*suite, "server", "--url", f"http://localhost:{served.port}/mcp", "--requirements", revision]
        if expected:
            listed = tmp_path / "expected.yml"
            listed.write_text("server:\n" + "".join(f"  - {name}\n" for name in expected), encoding="utf-8")
            command += ["--expected-failures", str(listed)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    output = done.stdout + done.stderr
    # Exit code 0 says: what is scored has passed, and what was expected to fail has failed.
    assert done.returncode == 0, output[-4000:]
    passed = re.search(r"Total: (\d+) passed, (\d+) failed", output)
    assert passed, output[-2000:]
    assert int(passed[1]) >= (60 if revision == "2025-11-25" else 160), output[-2000:]

"""Runs the official conformance suite against a URL."""

import re
import subprocess


def run_suite(packages, port, revision, expected, folder) -> int:
    """Run every scenario of a revision; how many checks passed.

    Args:
        packages: The Node.js packages that the suite is among.
        port: The server's, on this machine.
        revision: Of the protocol.
        expected: Scored scenarios that fail, each with its reason. One that passes all the same is an error, too.
        folder: For the list of them.
    """
    suite = packages.script("@modelcontextprotocol/conformance/dist/index.js")
    command = [*suite, "server", "--url", f"http://localhost:{port}/mcp", "--requirements", revision]
    if expected:
        listed = folder / "expected.yml"
        listed.write_text("server:\n" + "".join(f"  - {name}\n" for name in expected), encoding="utf-8")
        command += ["--expected-failures", str(listed)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    output = done.stdout + done.stderr
    # Exit code 0 says: what is scored has passed, and what was expected to fail has failed.
    assert done.returncode == 0, output[-4000:]
    passed = re.search(r"Total: (\d+) passed, (\d+) failed", output)
    assert passed, output[-2000:]
    return int(passed[1])

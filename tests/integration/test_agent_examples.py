"""The agents of examples/agent, each framework in the environment of its own lock.

Its tests, which need no network and no cloud, and its types. How they run in containers is in test_fleet_clients.py.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcpfleet_local_cloud.commands.paths import Paths
from tests.integration.checkout import ROOT

pytestmark = pytest.mark.integration

AGENTS = ROOT / "examples" / "agent"


def run(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("framework", ["adk", "pydantic-ai"])
def test_an_agents_tests_and_types_pass_with_its_locked_packages(framework):
    folder, cache = AGENTS / framework, Paths.from_environ(os.environ).cache
    lock = hashlib.sha256((folder / "uv.lock").read_bytes()).hexdigest()[:16]
    # Beside the other caches of this machine: a second run installs nothing.
    venv = cache / "agents" / f"{framework}-{sys.version_info.major}.{sys.version_info.minor}-{lock}"
    uv = shutil.which("uv") or cache / "uv" / "uv"
    sync = ("sync", "--frozen", "--quiet", "--project", folder, "--python", sys.executable)
    run(uv, *sync, UV_PROJECT_ENVIRONMENT=str(venv))
    python = venv / "bin" / "python"
    with ThreadPoolExecutor() as pool:
        types = pool.submit(run, Path(sys.executable).with_name("pyright"), "-p", folder, "--pythonpath", python)
        config = ("-c", AGENTS / "pytest.ini", AGENTS / "tests")
        assert " passed" in run(python, "-m", "pytest", "-q", *config, PYTHONPATH=str(folder))
        assert "0 errors" in types.result()

"""A copy of the checkout, deployed by `./dev`, with its own state, port and cloud."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest

from mcpfleet.auth import IdTokenAuth
from mcpfleet.token_sources import source_from_file
from mcpfleet_local_cloud.commands.background import CloudFolder, find_running
from mcpfleet_local_cloud.commands.stack_state import StackState, find_deployed_stack, read_stack_state

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240


@dataclass
class Checkout:
    """A copy of this project with its own state."""

    place: CloudFolder
    started: list[subprocess.Popen] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Additional environment variables of its commands."""

    def begin(self, *command, **environment):
        """Start `./dev COMMAND`, without `./dev`'s own share: the Python environment is this one."""
        given = {"MCPFLEET_PORT": str(self.place.port), "COLUMNS": "200", **self.variables, **environment}
        process = subprocess.Popen(
            [sys.executable, "-m", "devtools", *command],
            cwd=self.place.root,
            env={**os.environ, **given},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell's background job ignores Ctrl-C, and so would all that it starts: the tests may be run in one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it takes no lock
        )
        self.started.append(process)
        return process

    def dev(self, *command, **environment):
        """Run `./dev COMMAND` to its end; returns its exit code and what it printed."""
        process = self.begin(*command, **environment)
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output

    def ok(self, *command, **environment):
        """Run `./dev COMMAND`, which must succeed; returns what it printed."""
        code, output = self.dev(*command, **environment)
        assert code == 0, output
        return output

    def stand(self, *options):
        """Deploy again what another test has taken down: so each test passes alone, and in any order."""
        if find_running(self.place, "cloud") is None:
            self.ok("up", *options)

    def kill(self, process):
        """`kill -9` the command with all that it started in its session, the Pulumi CLI among it."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)

    def kill_cloud(self):
        """`kill -9` the local cloud."""
        pid = find_running(self.place, "cloud")["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: find_running(self.place, "cloud") is None, "the local cloud is gone")

    @property
    def state(self) -> StackState:
        """The stack's state."""
        return read_stack_state(replace(self.place, stack=find_deployed_stack(self.place.state) or self.place.stack))

    @property
    def servers(self):
        """The stack's output `servers`."""
        return self.state.outputs["servers"]

    def who(self, name, audience="https://unused.example"):
        """An httpx2 auth that carries ID tokens of `ada`, `bob` or `deployer`."""
        return IdTokenAuth(audience, source_from_file(self.place.credentials / f"{name}.json"))

    def get(self, url, auth=None):
        """GET as a client."""
        return httpx2.get(url, auth=auth, timeout=30, trust_env=False)

    def edit(self, path, old, new):
        """Edit a file of the program."""
        file = self.place.root / path
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{path} does not hold {old!r} any more"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def containers(self, engine):
        """The containers of this cloud's services."""
        cloud = find_running(self.place, "cloud")
        labels = [f"dev.mcpfleet.cloud={cloud['id']}", "dev.mcpfleet.service"]
        return engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)


def eventually(seen, what, seconds=PATIENCE):
    """Wait until `seen()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := seen():
            return found
        time.sleep(0.05)
    pytest.fail(f"it did not happen within {seconds} s: {what}")


def free_port():
    """Return a free port outside the range that the kernel assigns.

    Below the ports from which systems take those of outgoing connections (Linux: from 32768): a port of theirs may be
    taken by any client between two starts of the same local cloud. That failed CI once.
    """
    for port in random.sample(range(20_000, 32_768), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    pytest.fail("no free port in a hundred tries")


def digest_of(text):
    """The first sha256 digest in a text."""
    return re.search(r"sha256:[0-9a-f]{64}", text).group(0)

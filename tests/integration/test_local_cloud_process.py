"""`python -m mcpfleet_local_cloud serve` as a process: start, refused callers, shutdown."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from mcpfleet_local_cloud.data_plane import remove_docker_objects
from tests.integration.checkout import free_port

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


class Process:
    """A server process, with waits for its ready line and its exit."""

    def __init__(self, state: Path, port: int, environ: dict[str, str]) -> None:
        self.state = state
        command = [sys.executable, "-m", "mcpfleet_local_cloud", "serve", "--state", str(state), "--port", str(port)]
        environ = {**os.environ, **environ}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        )

    def ready(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def announcement(self):
        return json.loads((self.state / "cloud.json").read_text())

    def refused(self) -> str:
        out, err = self.process.communicate(timeout=60)
        assert out == ""
        assert self.process.returncode == 1
        return err.strip()

    def end(self, number: int = signal.SIGTERM) -> float:
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return time.monotonic() - began


@pytest.fixture
def serve(tmp_path):
    started: list[Process] = []

    def start(state: str = "cloud", port: int | None = None, **environ: str) -> Process:
        started.append(Process(tmp_path / state, port or free_port(), environ))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)
    for state in {item.state for item in started}:
        if (state / "id").exists():
            remove_docker_objects((state / "id").read_text().strip())


def test_the_process_announces_its_url_when_it_is_ready(serve):
    port = free_port()
    server = serve(port=port)
    line = server.ready()
    found = server.announcement()
    assert line == f"local cloud {found['id']} is ready at http://127.0.0.1:{port} (project mcpfleet-local)"
    assert found["pid"] == server.process.pid
    assert (found["port"], found["url"]) == (port, f"http://127.0.0.1:{port}")
    assert stat.S_IMODE(server.state.stat().st_mode) == 0o700
    health = httpx2.get(f"{found['url']}/_local/health").json()
    assert (health["status"], health["cloud"]) == ("ok", found["id"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_stops_within_five_seconds_and_removes_its_announcement(serve, number):
    server = serve()
    server.ready()
    assert server.end(number) < 5
    assert server.process.returncode == 0
    assert not (server.state / "cloud.json").exists()


def test_the_process_stops_while_a_client_keeps_a_connection_open(serve):
    server = serve()
    server.ready()
    with socket.create_connection(("127.0.0.1", server.announcement()["port"])) as held:
        held.sendall(b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert server.end() < 5
    assert server.process.returncode == 0


def test_a_port_in_use_is_one_message_with_the_next_step(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = serve(port=port).refused()
    assert said == (
        f"error: Cannot listen on port {port} of 127.0.0.1: Address already in use.\n"
        f"next: find the program that uses it with `ss -ltnp 'sport = :{port}'`, or choose another --port."
    )


def test_a_registry_port_in_use_is_one_message_with_the_next_step(serve):
    first = serve()
    assert "is ready" in first.ready()
    port = json.loads((first.state / "gateway" / "ports.json").read_text())["registry"]
    first.end()
    remove_docker_objects((first.state / "id").read_text().strip())
    with socket.create_server(("127.0.0.1", port)):
        said = serve().refused()
    assert (
        f"error: Port {port} of 127.0.0.1, which is in the names of this cloud's images, is used by another program.\n"
        "next: end that program"
    ) in said
    assert "Traceback" not in said


def test_a_missing_docker_is_one_message_with_the_next_step(serve, tmp_path):
    said = serve(DOCKER_HOST=f"unix://{tmp_path}/nobody.sock").refused()
    assert "\nerror: No Docker Engine answers at" in f"\n{said}"
    assert "\nnext: " in said
    assert "Traceback" not in said


def test_a_second_process_with_the_same_state_folder_is_refused(serve):
    first = serve()
    first.ready()
    said = serve().refused()
    found = first.announcement()
    assert said == (
        f"error: The local cloud in {first.state} is already served by process {found['pid']} at "
        f"{found['url']}.\nnext: use that cloud, stop it, or choose another --state."
    )
    assert httpx2.get(f"{found['url']}/_local/health").json()["status"] == "ok"


def test_a_killed_process_loses_no_state_and_leaves_no_lock(serve):
    first = serve()
    first.ready()
    found = first.announcement()
    credentials = json.loads((first.state.parent / "credentials" / "ada.json").read_text())
    first.end(signal.SIGKILL)
    second = serve(port=found["port"])
    second.ready()
    assert second.announcement()["id"] == found["id"]
    form = {
        "grant_type": "refresh_token",
        **{name: credentials[name] for name in ("client_id", "client_secret", "refresh_token")},
    }
    assert httpx2.post(credentials["token_uri"], data=form).json()["token_type"] == "Bearer"

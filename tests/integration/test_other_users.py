"""The providers' ports are open to every user of the machine, but serve only the user who deploys."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2
from pulumi.runtime.proto.provider_pb2_grpc import ResourceProviderStub

from mcpfleet_local_cloud.commands.processes import Processes
from pulumi_mcpfleet import provider as provider_folder
from pulumi_mcpfleet.cloud_build import peers
from tests.integration.checkout import ROOT, eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be another user as well"),
]

BUILDER = str(Path(peers.__file__).with_name("pulumi-resource-mcpfleet-build"))
COMPONENTS = str(Path(provider_folder.__file__).with_name("pulumi-resource-mcpfleet"))
ASK = """
import os, sys
import grpc
from google.protobuf import empty_pb2
os.setgid(65534); os.setuid(65534)
call = grpc.insecure_channel(sys.argv[1]).unary_unary(
    "/pulumirpc.ResourceProvider/GetPluginInfo", lambda _: b"", lambda answer: answer)
try:
    print("answered", call(empty_pb2.Empty(), timeout=30))
except grpc.RpcError as refused:
    print(refused.code().name, refused.details())
"""


def as_nobody(address):
    """Return the response to another user."""
    done = subprocess.run([sys.executable, "-c", ASK, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answer(address):
    """Return the response to this user."""
    with grpc.insecure_channel(address) as channel:
        return ResourceProviderStub(channel).GetPluginInfo(empty_pb2.Empty(), timeout=30)


def stand_ins(folder):
    """Started by a command that then waits, as `./dev up` does while the engine works."""
    ready = folder / "ready.json"
    program = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-m', 'mcpfleet_local_cloud.plugins', '--ready-file', {str(ready)!r},"
        " '--until', str(os.getpid())])"
    )
    command = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    facts = eventually(lambda: ready.exists() and json.loads(ready.read_text()), "the emulated providers are ready", 60)
    ports = [pair.partition(":")[2] for pair in facts["PULUMI_DEBUG_PROVIDERS"].split(",")]
    return command, facts["pid"], [f"127.0.0.1:{port}" for port in ports]


def start_executable(executable, folder):
    """Started by an engine, which reads the port."""
    port_file = folder / "port"
    program = (
        "import subprocess, sys\n"
        f"with open({str(port_file)!r}, 'w') as out:\n"
        f"    made = subprocess.Popen([{executable!r}, '127.0.0.1:9'], stdout=out)\n"
        f"    open({str(folder / 'pid')!r}, 'w').write(str(made.pid))\n"
        "made.wait()"
    )
    environment = {**os.environ, "MCPFLEET_PYTHON": sys.executable}
    command = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment)
    port = eventually(
        lambda: port_file.exists() and port_file.read_text().strip(), "the provider has printed its port", 60
    )
    return command, int((folder / "pid").read_text()), [f"127.0.0.1:{port}"]


def image_builder(folder):
    """The provider that builds images with Cloud Build."""
    return start_executable(BUILDER, folder)


def component_provider(folder):
    """The provider of the components for programs in every language."""
    return start_executable(COMPONENTS, folder)


@pytest.fixture(params=[stand_ins, image_builder, component_provider])
def provider(request, tmp_path):
    command, pid, addresses = request.param(tmp_path)
    yield command, pid, addresses
    command.kill()
    command.wait(30)
    eventually(lambda: not Processes().is_alive(pid), "the provider has ended", 30)


def test_another_user_is_refused_and_the_owner_is_answered(provider):
    _, _, addresses = provider
    for address in addresses:
        assert isinstance(answer(address), plugin_pb2.PluginInfo)
        assert as_nobody(address) == f"PERMISSION_DENIED {peers.REFUSAL}"
        assert isinstance(answer(address), plugin_pb2.PluginInfo)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_provider_exits_with_its_parent_process_however_that_ends(provider, number):
    command, pid, _ = provider
    command.send_signal(number)
    command.wait(30)
    eventually(lambda: not Processes().is_alive(pid), "the provider has ended", 30)


def test_another_user_cannot_make_the_automation_api_run_the_program():
    """The engine calls back into `./dev` for the program; so could anybody."""
    with peers.restrict_servers():
        server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: empty_pb2.Empty())
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("pulumirpc.ResourceProvider", {"GetPluginInfo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert as_nobody(f"127.0.0.1:{port}") == f"PERMISSION_DENIED {peers.REFUSAL}"
    finally:
        server.stop(0).wait()

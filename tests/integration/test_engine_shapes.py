"""Tests on other kinds of Docker engines: their names, what works, and what is refused.

A part of it runs whenever root runs the tests; `./dev test --engines` runs all of it.
"""

import contextlib
import os
import shutil
import subprocess
import sys

import docker
import pytest

from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE
from mcpfleet_local_cloud.commands.setup.docker_install import install
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from tests.integration import engines
from tests.integration.checkout import free_port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.root,
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can make users and engines"),
]

PACKAGES = {
    "user": {},
    "namespace": {"ip": "iproute2", "slirp4netns": "slirp4netns"},
    "rootless": {"rootlesskit": "rootlesskit", "slirp4netns": "slirp4netns", "newuidmap": "uidmap"},
    "podman": {"podman": "podman"},
}
"""The programs that each shape needs besides Docker, and Debian's packages of them."""
NAMED = """
from mcpfleet_local_cloud import docker_engine
facts = docker_engine.read_facts(docker_engine.create_client())
print(facts, facts.limits_warning)
"""
# A container of a revision, started as the data plane starts each: with limits of memory, CPU and processes.
CONTAINER = """
import asyncio, sys
from mcpfleet_local_cloud.data_plane import remove_docker_objects
from mcpfleet_local_cloud.data_plane.engine import CloudContainers
async def main():
    engine = CloudContainers("test-shape")
    limits = {"mem_limit": 2**27, "memswap_limit": 2**27, "nano_cpus": 10**9, "pids_limit": 99}
    what = {"image": sys.argv[1], "command": ["true"], "labels": {"dev.mcpfleet.cloud": "test-shape"}}
    found = await engine.run({**what, **limits})
    await engine.close()
    print("ran", bool(found.id), remove_docker_objects("test-shape") != [])
asyncio.run(main())
"""


@pytest.fixture
def shape():
    """`shape(name)`: the user who has it. What it needs is installed, as setup installs Docker."""

    def make(name):
        path = f"{os.environ['PATH']}:/usr/sbin"
        missing = [package for program, package in PACKAGES[name].items() if shutil.which(program, path=path) is None]
        if missing:
            with Phases().phase("Other engines") as step:
                install(ThisHost(), step, missing, "install them by hand.")
        return made.enter_context(engines.shape(name))

    with contextlib.ExitStack() as made:
        yield make


def as_user(user, *argv, **environ):
    """Return the exit code and output of a command run as the user."""
    done = subprocess.run(
        user.command(argv, engines.ROOT),
        env={**user.environment(), "COLUMNS": "200", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout + done.stderr


def setup(user, **environ):
    """`./dev setup`, without `./dev`'s own share."""
    return as_user(user, sys.executable, "-m", "devtools", "setup", **environ)


def test_podman_is_refused_with_the_next_step(shape):
    code, said = setup(shape("podman"))
    assert code == 1
    assert said.count("error: ") == 1
    assert "the local cloud needs Docker" in said
    assert "next:  install Docker Engine beside it" in said


def test_a_user_without_access_to_docker_is_refused_before_anything_is_created(shape):
    user = shape("podman")
    code, said = setup(user, DOCKER_HOST="unix:///var/run/docker.sock")
    assert code == 1
    assert "this user has no access to it" in said
    assert "✓" not in said


def test_rootless_docker_is_found_and_used_without_its_unsupported_limits(shape, engine):
    user = shape("rootless")
    code, said = as_user(user, sys.executable, "-c", NAMED)
    assert code == 0, said
    assert said.startswith("Docker Engine ")
    assert "(rootless)" in said
    if "it cannot limit" in said:  # a machine with cgroup v2 has the limits
        assert said.endswith("Servers run without these limits.\n")
    own = docker.DockerClient(base_url=f"unix://{user.runtime}/docker.sock", timeout=120)
    own.images.load(engine.images.get(BASE_IMAGE).save(named=True))
    own.close()
    code, said = as_user(user, sys.executable, "-c", CONTAINER, BASE_IMAGE)
    assert (code, said.split()) == (0, ["ran", "True", "True"])


@pytest.mark.engines
@pytest.mark.parametrize("name", ["user", "namespace", "rootless"])
def test_a_fleet_is_deployed_verified_and_destroyed_on_every_engine(shape, name):
    user = shape(name)
    dev = [sys.executable, "-m", "devtools"]
    checkout = engines.checkout_of(user)
    environ = {"MCPFLEET_PORT": str(free_port())}

    def run(*command):
        done = subprocess.run(
            user.command([*dev, *command], checkout),
            env={**user.environment(), "COLUMNS": "200", **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )
        return done.returncode, done.stdout

    try:
        code, said = run("up")
        assert code == 0, said
        assert "checks of" in said
        code, said = run("down")
        assert code == 0, said
        assert "Nothing is left of the stack." in said
    finally:
        run("down", "--force")

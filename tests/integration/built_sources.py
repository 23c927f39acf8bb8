"""Builds sources as `up` does and runs them as Cloud Run does, without Pulumi and without a cloud."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from mcpfleet_local_cloud.plugins.docker_build.builder import docker_environment, find_builder
from pulumi_mcpfleet.environment import ACCESS, container_environment, fastmcp_environment
from pulumi_mcpfleet.sources import BuildPlan
from pulumi_mcpfleet.sources.environment_use import FASTMCP_SETTINGS
from tests.integration.checkout import eventually, free_port

BASE_IMAGE = "mcpfleet/base:python3.13"
_SAID = {
    "path": "/mcp",
    "transports": ["streamable-http"],
    "stateless": True,
    "allowed_hosts": ["127.0.0.1:*"],
    "allowed_origins": [],
}
_ENVIRONMENT = {**container_environment(**_SAID, health_path=None), "PORT": "8080", ACCESS: "public"}
_AS_CLOUD_RUN = ["--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL", "--memory=1g"]


def docker(*arguments: str) -> str:
    """Return the output of this machine's preferred docker command."""
    environment = {**docker_environment(), "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
    command = [find_builder(os.environ["PATH"]).command, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout.strip()


@contextmanager
def image_of(
    dockerfile: str, context: Path, build_args: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> Iterator[str]:
    """The name of an image that is built for this test."""
    made = context.parent / f"{context.name}.Dockerfile"
    made.write_text(dockerfile)
    given = [f"--build-arg={key}={value}" for key, value in {"BASE_IMAGE": BASE_IMAGE, **(build_args or {})}.items()]
    name = f"mcpfleet-test/corpus:{context.parent.name}"[:120]
    docker("build", "--file", str(made), "--tag", name, *given, *options, "--", str(context))
    try:
        yield name
    finally:
        docker("rmi", "--force", name)


@contextmanager
def served(image: str, options: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server that runs from an image; where the test fails, with its log."""
    name, port = f"mcpfleet-test-{free_port()}", free_port()
    variables = [f"--env={key}={value}" for key, value in _ENVIRONMENT.items()]
    publish = f"--publish=127.0.0.1:{port}:8080"
    docker("run", "--detach", "--name", name, publish, *_AS_CLOUD_RUN, *variables, *options, image)
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    except (AssertionError, pytest.fail.Exception) as failed:
        pytest.fail(f"{failed}\n{docker('logs', name)}", pytrace=False)
    finally:
        docker("rm", "--force", name)


def told(recipe: BuildPlan) -> list[str]:
    """Options that give a container the variables which its source is known to read."""
    found = fastmcp_environment(**_SAID, port=8080) if FASTMCP_SETTINGS in recipe.variables else {}
    return [f"--env={key}={value}" for key, value in found.items()]


def called(url: str, tool: str, arguments: Mapping[str, object]) -> str:
    """Return a tool's answer to a client of 2025-11-25 without a session; empty while the server doesn't respond."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    try:
        return httpx2.post(url, json=message, headers=headers, timeout=120, trust_env=False).text
    except httpx2.TransportError:
        return ""


def answers(url: str, tool: str, arguments: Mapping[str, object], said: str, seconds: int = 60) -> None:
    """Wait until a tool answers so; fail after the time limit.

    Raises:
        AssertionError: It answers otherwise, or nothing, as long as it is waited for.
    """
    try:
        eventually(lambda: said in called(url, tool, arguments), "it answers", seconds)
    except pytest.fail.Exception as failed:
        raise AssertionError(f"{failed}: {called(url, tool, arguments)}") from None

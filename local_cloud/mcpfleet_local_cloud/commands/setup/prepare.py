"""Runs the steps of setup, concurrently if they are independent."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import docker

from mcpfleet_local_cloud.commands.paths import EXTRA_SETUP, Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE, BaseImageSpec, ensure_base_image
from mcpfleet_local_cloud.commands.setup.certificates import read_extra_certificates
from mcpfleet_local_cloud.commands.setup.disk import check_disk_space
from mcpfleet_local_cloud.commands.setup.docker_api import DockerEngine, ReachableEngine
from mcpfleet_local_cloud.commands.setup.docker_install import (
    Connect,
    find_docker,
    find_install_obstacle,
    reach_docker,
    report_engine,
)
from mcpfleet_local_cloud.commands.setup.host import Host, ThisHost
from mcpfleet_local_cloud.commands.setup.pulumi_cli import PulumiCli, find_pulumi
from mcpfleet_local_cloud.commands.setup.versions import Version
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts
from pulumi_mcpfleet.sources.build_plan import BASE_IMAGE as PINNED_IMAGE


@dataclass(frozen=True, kw_only=True)
class PreparedMachine:
    """A machine on which the local stack can be deployed.

    Attributes:
        paths: This checkout's folders and the user's cache.
        pulumi: The Pulumi CLI.
        pulumi_version: The CLI's version.
        docker: The client of the Docker engine.
        address: The engine's address.
        engine: The engine's own description of itself.
        base_image: The local name of the image that Dockerfiles build on.
    """

    paths: Paths
    pulumi: Path
    pulumi_version: Version
    docker: docker.DockerClient
    address: EngineAddress
    engine: EngineFacts
    base_image: str = BASE_IMAGE

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment in which programs find this Pulumi CLI and this Docker engine."""
        environ = os.environ if environ is None else environ
        path = os.pathsep.join([str(self.pulumi.parent), environ.get("PATH", os.defpath)])
        return {**environ, "PATH": path, **self.address.environment, "PULUMI_SKIP_UPDATE_CHECK": "true"}


def prepare(
    phases: Phases,
    host: Host | None = None,
    paths: Paths | None = None,
    connect: Connect = DockerEngine.connect,
) -> PreparedMachine:
    """Set up this machine; every phase first looks for an existing result.

    Raises:
        SetupError: A prerequisite is missing and can't be installed here.
        SeveralErrors: More than one is.
    """
    host = host or ThisHost()
    paths = paths or Paths.from_environ(host.environ)
    check_disk_space(
        host, paths.cache, f"make room, or set XDG_CACHE_HOME to a folder on a larger disk (now: {paths.cache})."
    )

    # An unusable engine is reported at once, not after the CLI was compiled for minutes.
    running_engine = reach_docker(host, connect)
    if running_engine is None and (obstacle := find_install_obstacle(host)) is not None:
        raise obstacle

    def pulumi_cli() -> PulumiCli:
        with phases.phase("Pulumi CLI") as step:
            cli = find_pulumi(host, paths, step)
            step.note(f"{cli.version}, {cli.source}")
            return cli

    def containers() -> tuple[ReachableEngine, EngineFacts]:
        with phases.phase("Docker") as step:
            engine = running_engine or find_docker(host, paths, step, connect)
            facts = engine.facts()
            report_engine(facts, engine.address, step)
            check_disk_space(
                host, facts.root_folder, "type: docker system prune --all   (removes images that no container uses)"
            )
        spec = _base_image_spec(host)
        with phases.phase("Base image") as step:
            ensure_base_image(host, paths, engine, spec, step)
        for title, function in EXTRA_SETUP.items():
            module, _, name = function.partition(":")
            with phases.phase(title) as step:
                getattr(import_module(module), name)(paths, engine, spec.hash, step)
        return engine, facts

    cli, (engine, facts) = phases.run_concurrently(pulumi_cli, containers)
    return PreparedMachine(
        paths=paths,
        pulumi=cli.path,
        pulumi_version=cli.version,
        docker=engine.client,
        address=engine.address,
        engine=facts,
    )


def _base_image_spec(host: Host) -> BaseImageSpec:
    chosen = host.environ.get("MCPFLEET_BASE_IMAGE")
    return BaseImageSpec(chosen or PINNED_IMAGE, read_extra_certificates(host.environ), is_chosen=bool(chosen))

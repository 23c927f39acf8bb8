"""The order of setup: what can run side by side does."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import docker

from mcpfleet_local_cloud.commands.paths import ALSO_MADE, Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE, BaseImageSpec, find_base_image
from mcpfleet_local_cloud.commands.setup.certificates import host_extras
from mcpfleet_local_cloud.commands.setup.disk import check_room
from mcpfleet_local_cloud.commands.setup.docker_engine import (
    Connect,
    cannot_bring_up,
    find_docker,
    reach_docker,
    tell,
)
from mcpfleet_local_cloud.commands.setup.engine import DockerEngine, ReachableEngine
from mcpfleet_local_cloud.commands.setup.host import Host, ThisHost
from mcpfleet_local_cloud.commands.setup.pulumi_cli import PulumiCli, find_pulumi
from mcpfleet_local_cloud.commands.setup.versions import Version
from mcpfleet_local_cloud.docker_engine import Address, Facts
from pulumi_mcpfleet.sources.build_plan import BASE_IMAGE as PINNED_IMAGE


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A machine on which the local stack can be deployed.

    Attributes:
        paths: This checkout's folders and the user's cache.
        pulumi: The Pulumi CLI.
        pulumi_version: Its version.
        docker: A client of Docker Engine.
        address: Where it answers.
        engine: What it says of itself.
        base_image: The local name of the image that Dockerfiles build on.
    """

    paths: Paths
    pulumi: Path
    pulumi_version: Version
    docker: docker.DockerClient
    address: Address
    engine: Facts
    base_image: str = BASE_IMAGE

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment in which programs find this Pulumi CLI and this Docker Engine."""
        environ = os.environ if environ is None else environ
        path = os.pathsep.join([str(self.pulumi.parent), environ.get("PATH", os.defpath)])
        return {**environ, "PATH": path, **self.address.environment, "PULUMI_SKIP_UPDATE_CHECK": "true"}


def prepare(
    phases: Phases,
    host: Host | None = None,
    paths: Paths | None = None,
    connect: Connect = DockerEngine.connect,
) -> Prepared:
    """Make this machine ready; every phase first looks for what is there.

    Raises:
        SetupError: Something is missing that can't be had here; it says what to do.
        SeveralErrors: More than one such thing.
    """
    host = host or ThisHost()
    paths = paths or Paths.of(host.environ)
    check_room(
        host, paths.cache, f"make room, or set XDG_CACHE_HOME to a folder on a larger disk (now: {paths.cache})."
    )

    # An engine that cannot be used is told at once, and not beside a CLI that is compiled for minutes.
    there = reach_docker(host, connect)
    if there is None and (why := cannot_bring_up(host)) is not None:
        raise why

    def pulumi_cli() -> PulumiCli:
        with phases.phase("Pulumi CLI") as step:
            found = find_pulumi(host, paths, step)
            step.note(f"{found.version}, {found.source}")
            return found

    def containers() -> tuple[ReachableEngine, Facts]:
        with phases.phase("Docker") as step:
            engine = there or find_docker(host, paths, step, connect)
            facts = engine.facts()
            tell(facts, engine.address, step)
            check_room(
                host, facts.root_folder, "type: docker system prune --all   (removes images that no container uses)"
            )
        recipe = _recipe(host)
        with phases.phase("Base image") as step:
            find_base_image(host, paths, engine, recipe, step)
        for title, function in ALSO_MADE.items():
            module, _, name = function.partition(":")
            with phases.phase(title) as step:
                getattr(import_module(module), name)(paths, engine, recipe.hash, step)
        return engine, facts

    cli, (engine, facts) = phases.concurrently(pulumi_cli, containers)
    return Prepared(
        paths=paths,
        pulumi=cli.path,
        pulumi_version=cli.version,
        docker=engine.client,
        address=engine.address,
        engine=facts,
    )


def _recipe(host: Host) -> BaseImageSpec:
    chosen = host.environ.get("MCPFLEET_BASE_IMAGE")
    return BaseImageSpec(chosen or PINNED_IMAGE, host_extras(host.environ), chosen=bool(chosen))

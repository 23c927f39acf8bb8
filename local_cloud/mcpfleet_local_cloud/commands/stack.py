"""The commands of `./dev` that work on a stack: the order of their steps. The other modules here do the work.

Pulumi's SDK and the MCP client take a second to import, so only the commands that need them do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.inert import inert
from mcpfleet.reports import parse_call
from mcpfleet.stack import read_services
from mcpfleet.terminal import markup_safe
from mcpfleet_local_cloud.commands import background, config_files, engine_pin, leftovers
from mcpfleet_local_cloud.commands.admin import AdminClient, find_new_lines, read_admin_token
from mcpfleet_local_cloud.commands.background import DEFAULT_PORT, DEFAULT_STACK, CloudFolder, read_port
from mcpfleet_local_cloud.commands.environment import (
    PROVIDER_VARIABLES,
    UNIVERSE,
    exports,
    format_exports,
    format_unset,
)
from mcpfleet_local_cloud.commands.layers import Repository
from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, SeveralErrors
from mcpfleet_local_cloud.commands.setup import PreparedMachine, prepare
from mcpfleet_local_cloud.commands.setup.docker_install import find_docker
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from mcpfleet_local_cloud.commands.setup.locks import lock_or_refuse
from mcpfleet_local_cloud.commands.stack_state import find_deployed_stack, read_stack_state, state_file

if TYPE_CHECKING:
    from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack, UpdateResult

_LOG_INTERVAL: Final = 0.5
"""Seconds between two reads of a followed log."""

_PUBLIC_REPOSITORY: Final = "us/mcpfleet-public/images"


def find_cloud_folder(environ: Mapping[str, str], root: Path | None = None) -> CloudFolder:
    """Find this checkout's folder (or that of *root*), with the deployed stack; MCPFLEET_PORT sets the port.

    A local cloud that runs, or that was killed, keeps its port: it is part of its images' names.

    Raises:
        SetupError: MCPFLEET_PORT is not a port, or differs from the existing local cloud's.
    """
    paths = Paths.from_environ(environ, root)
    current_port = read_port(paths.state)
    chosen = environ.get("MCPFLEET_PORT") or str(current_port or DEFAULT_PORT)
    if not (chosen.isascii() and chosen.isdecimal() and 1024 <= int(chosen) <= 65535):
        raise SetupError(f"MCPFLEET_PORT is {chosen!r}, not a port.", "set it to a number from 1024 to 65535.")
    if current_port is not None and int(chosen) != current_port:
        raise SetupError(
            f"MCPFLEET_PORT is {chosen}, but this checkout's local cloud has port {current_port}.",
            f"take it down first (MCPFLEET_PORT={current_port} {PROGRAM} down), or unset MCPFLEET_PORT.",
        )
    stack = find_deployed_stack(paths.state) or DEFAULT_STACK
    return CloudFolder(root=paths.root, state=paths.state, port=int(chosen), stack=stack)


def select_stack(folder: CloudFolder, name: str | None) -> CloudFolder:
    """Return *folder* with the stack *name*; the default is the stack that it has.

    Raises:
        SetupError: No stack of this machine has that name, or another one is deployed.
    """
    if name is None or name == folder.stack:
        return folder
    files = {
        file.name.removeprefix("Pulumi.").removesuffix(".yaml"): file for file in folder.root.glob("Pulumi.*.yaml")
    }
    local_stacks = sorted(stack for stack, file in files.items() if UNIVERSE in file.read_text(encoding="utf-8"))
    if name not in local_stacks:
        reason = "is a stack of Google Cloud: deploy it with pulumi up" if name in files else "does not exist"
        raise SetupError(
            f"Pulumi.{name}.yaml {reason}. Nothing was changed.",
            f"name a stack of this machine ({', '.join(local_stacks)}), or write that file with gcp:universeDomain: "
            f"{UNIVERSE}.",
        )
    if find_deployed_stack(folder.state) is not None:
        raise SetupError(
            f"The stack {folder.stack} is deployed here, and a local cloud can hold only one. Nothing was changed.",
            f"take it down first: {PROGRAM} down.",
        )
    return replace(folder, stack=name)


def up(phases: Phases, stack: str | None = None) -> None:
    """Set up the machine, deploy the stack, verify it, and print its services."""
    folder = select_stack(
        find_cloud_folder(os.environ), stack
    )  # checked first: setting up a bare machine takes minutes
    if not (folder.root / "Pulumi.yaml").is_file():
        raise SetupError(
            f"There is no Pulumi.yaml in {folder.root} or a folder above it. Nothing was changed.",
            f"go to the folder of your Pulumi program, then run {PROGRAM} up again.",
        )
    config_files.check(folder)
    prepared = prepare(phases)
    with _lock_deployment(folder):
        with start_cloud(phases, folder, prepared) as engine:
            publish_base_image(phases, folder, prepared)
            outcome = deploy(phases, engine)
        servers: dict[str, Any] = outcome.outputs["servers"]
        clients: dict[str, Any] = outcome.outputs.get("clients", {})
        _verify_servers(phases, folder, servers, clients)
    if not outcome.changed_urns:
        phases.out.print("\nNo changes: the deployed stack is up to date.")
    print_services(phases, servers, clients)


def _lock_deployment(folder: CloudFolder) -> AbstractContextManager[None]:
    """Lock this checkout's deployments; Pulumi's own lock covers only a part of one."""
    refusal = SetupError(
        f"The stack {folder.stack} is locked: another {PROGRAM} up or {PROGRAM} down is running here. "
        "Nothing was changed.",
        "wait until it has finished, or end it; then run the command again.",
    )
    return lock_or_refuse(folder.state / "locks" / "stack.lock", refusal)


@contextmanager
def start_cloud(
    phases: Phases, folder: CloudFolder, prepared: PreparedMachine, *, force: bool = False
) -> Generator[PulumiStack]:
    """Start the local cloud and the emulated providers; the providers are stopped on exit, the local cloud is not.

    With *force*, the stack may have been deployed on another Docker engine, which is gone.
    """
    folder.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.state.chmod(0o700)  # it has keys, tokens and logs
    engine_pin.pin(folder, prepared.address, prepared.engine, force=force)
    try:
        with phases.phase("Local cloud") as step:
            environ = {**prepared.environment(), **exports(folder, None)}
            cloud, plugins = phases.run_concurrently(
                lambda: background.ensure_cloud(folder, environ), lambda: background.ensure_plugins(folder, environ)
            )
            step.note(f"{folder.url}, {'started' if cloud.started else 'running'}")
        providers = str(plugins.facts["PULUMI_DEBUG_PROVIDERS"])
        from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack

        yield PulumiStack(folder, prepared.pulumi, {**prepared.environment(), **exports(folder, providers)})
    finally:
        background.stop_plugins(folder)


def publish_base_image(phases: Phases, folder: CloudFolder, prepared: PreparedMachine) -> None:
    """Push the base image to the local cloud's public repository, so that later pushes find its layers there.

    This is one push for each new cloud, instead of one at each deployment. Docker would spend 5 s of it on compression:
    the cache keeps the compressed layers (`layers`).
    """
    images: Any = prepared.docker.images  # the stubs leave `push` untyped
    image = images.get(prepared.base_image)
    if folder.published_image_file.exists() and folder.published_image_file.read_text(encoding="utf-8") == image.id:
        return
    with phases.phase("Base image to registry"):
        reference = f"{AdminClient(folder).inventory()['registry']}/{_PUBLIC_REPOSITORY}/base"
        credentials = registry_credentials(folder)
        repository = Repository(
            folder.url, f"{_PUBLIC_REPOSITORY}/base", (credentials["username"], credentials["password"])
        )
        layers = prepared.paths.cache / "layers" / str(image.id).removeprefix("sha256:")[:16]
        repository.upload_layers(layers)
        image.tag(reference, "latest")
        try:
            output: str = images.push(reference, "latest", auth_config=credentials)
        finally:
            images.remove(f"{reference}:latest")
        if '"error"' in output:
            last = output.strip().splitlines()[-1]
            raise SetupError(
                f"The local registry rejected the base image: {last}",
                f"read its log: {folder.log('cloud')}, then run {PROGRAM} up again.",
            )
        repository.save_layers("latest", layers)
        folder.published_image_file.write_text(str(image.id), encoding="utf-8")


def registry_credentials(folder: CloudFolder) -> dict[str, str]:
    """The credentials with which Docker pushes a public image to the local registry."""
    return {"username": "oauth2accesstoken", "password": read_admin_token(folder)}


def deploy(phases: Phases, engine: PulumiStack) -> UpdateResult:
    """Run `pulumi up`."""
    with phases.phase("pulumi up") as step:
        result = engine.up(step)
        step.note(str(result))
    for line in result.messages:
        phases.console.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)
    return result


def down(phases: Phases, *, force: bool = False) -> None:
    """Destroy the stack, check that nothing is left, and stop the local cloud."""
    folder = find_cloud_folder(os.environ)
    if not (force or folder.cloud_state.exists() or state_file(folder).exists()):
        # The machine is not set up for this: on a bare one that would take minutes.
        phases.out.print("Nothing is left of the stack: no local cloud was ever started in this checkout.")
        return
    prepared = prepare(phases)
    with _lock_deployment(folder):
        destroy(phases, folder, prepared, force=force)
    phases.out.print("\nNothing is left of the stack.")


def destroy(
    phases: Phases,
    folder: CloudFolder,
    prepared: PreparedMachine,
    *,
    force: bool = False,
    next_step: str | None = None,
) -> None:
    """Destroy the stack in *folder*; with *force* also resources that are not in its state.

    Args:
        phases: Where to show the progress.
        folder: The checkout folder of the local cloud.
        prepared: This machine.
        force: Also remove resources that are not in the stack's state.
        next_step: What the user can do if something is left. None: the command of the project's own local cloud.

    Raises:
        SetupError: Something is left.
    """
    with start_cloud(phases, folder, prepared, force=force) as engine:
        if not force:
            with phases.phase("pulumi destroy") as step:
                step.note(str(engine.destroy(step)) if engine.exists() else "there is no stack")
    with phases.phase("Proof") as step:
        cloud = background.find_running(folder, "cloud") or {}
        if force:
            leftovers.reset(folder, AdminClient(folder), prepared.docker)
        AdminClient(folder).forget()
        remaining = leftovers.find(folder, prepared.docker, cloud, AdminClient(folder).inventory())
        if remaining:
            raise SetupError(
                "The stack is destroyed, but these are left:\n  " + "\n  ".join(remaining),
                next_step or f"remove all of them with {PROGRAM} down --force.",
            )
        background.stop_all(folder)
        leftovers.remove_cloud(folder, prepared.docker, cloud, next_step)
        engine_pin.unpin(folder)
        step.note("no container, network, image, registry content, record or state is left")


def verify(phases: Phases, call: str | None = None, arguments: str | None = None, timeout: int | None = None) -> None:
    """Call every deployed server and client, as callers with and without access.

    Args:
        phases: Where to show the progress.
        call: A tool to call, `SERVER/TOOL`; it need not declare itself read-only.
        arguments: The tool's arguments, as a JSON object.
        timeout: The time limit of one check in seconds. None: 60.
    """
    folder = find_cloud_folder(os.environ)
    stack = read_stack_state(folder)
    # Services that were created by hand are not part of the stack.
    resource_ids = {resource.get("id") for resource in stack.resources}
    unlisted = _find_unlisted(folder).items() if resource_ids else ()
    failed = [_unlisted_error(name, resource) for name, resource in unlisted if resource["name"] in resource_ids]
    if not stack.servers:
        if failed:
            raise SeveralErrors(failed)
        raise SetupError("Nothing is deployed here.", f"deploy the stack with {PROGRAM} up.")
    if background.find_running(folder, "cloud") is None:
        raise SetupError("The local cloud is not running, so no server answers.", f"start it with {PROGRAM} up.")
    try:
        named = parse_call(call, arguments, list(stack.servers))
    except UsageError as error:
        raise SetupError(str(error), "nothing was called.") from None
    try:
        _verify_servers(phases, folder, stack.servers, stack.clients, named, timeout)
    except SetupError as error:
        failed.insert(0, error)
    if failed:
        raise SeveralErrors(failed)


def _verify_servers(
    phases: Phases,
    folder: CloudFolder,
    servers: Mapping[str, Mapping[str, Any]],
    clients: Mapping[str, Mapping[str, Any]],
    call: tuple[str, tuple[str, Mapping[str, Any]]] | None = None,
    seconds: float | None = None,
) -> None:
    from mcpfleet_local_cloud.commands.verify import verify

    verify(phases, folder, servers, clients, call, seconds)


def status(phases: Phases) -> None:
    """Print the state of the local cloud, and the deployed services with their URLs."""
    folder = find_cloud_folder(os.environ)
    cloud, plugins = background.find_running(folder, "cloud"), background.find_running(folder, "plugins")
    phases.out.print("Local cloud       " + (f"running, process {cloud['pid']}" if cloud else "not running"))
    if plugins:
        phases.out.print(f"Providers         running for a command or a shell, process {plugins['pid']}")
    stack = read_stack_state(folder)
    if not stack.resources:
        phases.out.print(f"Stack {folder.stack:<11} not deployed; deploy it with {PROGRAM} up.")
        return
    hint = "" if cloud else f"; no server answers until {PROGRAM} up starts the local cloud again"
    phases.out.print(f"Stack {folder.stack:<11} {len(stack.resources)} resources{hint}", soft_wrap=True)
    print_services(phases, stack.servers, stack.clients)
    for name, service in _find_unlisted(folder).items():
        error = _unlisted_error(name, service)
        phases.out.out(inert(f"{error.message} Next: {error.next_step}"), highlight=False)


def env(phases: Phases, *, real_plugins: bool = False) -> None:
    """Print the exports for the user's own shell, and start the emulated providers that they name.

    Args:
        phases: Where to show the progress.
        real_plugins: Whether the `pulumi` command uses the official plugins; then no provider is started.
    """
    folder = find_cloud_folder(os.environ)
    if background.find_running(folder, "cloud") is None:
        raise SetupError("The local cloud is not running.", f"start it with {PROGRAM} up.")
    if real_plugins:
        sys.stdout.write(format_exports(exports(folder, None)) + "\n" + format_unset(PROVIDER_VARIABLES) + "\n")
        return
    host = ThisHost()
    with phases.phase("Emulated providers") as step:
        engine = find_docker(host, Paths.from_environ(os.environ), step)
        engine_pin.pin(folder, engine.address, engine.facts())
        environ = {**os.environ, **exports(folder, None), **engine.address.environment}
        plugins = background.ensure_plugins(folder, environ, owner=background.find_shell(os.getpid()))
        step.note(f"until this shell ends, or {PROGRAM} down")
    sys.stdout.write(format_exports(exports(folder, str(plugins.facts["PULUMI_DEBUG_PROVIDERS"]))) + "\n")


def logs(phases: Phases, name: str, *, follow: bool = False) -> None:
    """Print the log lines of a server or client."""
    folder = find_cloud_folder(os.environ)
    try:
        target = find_service(folder, name)
        service = f"projects/{target['project']}/locations/{target['region']}/services/{target['service']}"
    except SetupError:
        # A service whose deployment failed is in the cloud, but in no output.
        if (unlisted := _find_unlisted(folder).get(name)) is None:
            raise
        service = str(unlisted["name"])
    for line in _log_lines(AdminClient(folder), service, follow=follow):
        phases.out.out(inert(line), highlight=False)


def _find_unlisted(folder: CloudFolder) -> Mapping[str, Mapping[str, Any]]:
    """Find the services of a running cloud that are not in the stack's outputs, by their names in the fleet."""
    if background.find_running(folder, "cloud") is None:
        return {}
    stack = read_stack_state(folder)
    listed = {service.get("service") for service in (*stack.servers.values(), *stack.clients.values())}
    services = {
        str(service["name"]).rpartition("/")[2]: service for service in AdminClient(folder).inventory()["services"]
    }
    return {name.removeprefix("mcp-"): service for name, service in services.items() if name not in listed}


def _unlisted_error(name: str, service: Mapping[str, Any]) -> SetupError:
    """The error for a service that is not in the stack's outputs."""
    if service["state"] == "CONDITION_SUCCEEDED":
        return SetupError(
            f"{name}: it runs at {service['uri']}, and is not in the stack's outputs: Pulumi writes them after a"
            " whole deployment has succeeded.",
            f"correct the service that failed ({PROGRAM} status names it), then run {PROGRAM} up.",
        )
    return SetupError(
        f"{name}: {service['state']}, and not in the stack's outputs: its deployment did not succeed.",
        f"read its log with {PROGRAM} logs {name}, correct the cause, then run {PROGRAM} up.",
    )


def _log_lines(cloud: AdminClient, service: str, *, follow: bool) -> Iterator[str]:
    previous: list[str] = []
    while True:
        lines = cloud.logs(service)
        yield from find_new_lines(previous, lines)
        if not follow:
            return
        previous = lines
        time.sleep(_LOG_INTERVAL)


def proxy(phases: Phases, name: str, port: int | None) -> None:
    """Run a proxy to a server or client until Ctrl-C. It calls with the ID token of the user ada."""
    del phases
    folder = find_cloud_folder(os.environ)
    try:
        target = find_service(folder, name)
    except SetupError:
        if (unlisted := _find_unlisted(folder).get(name)) is None:
            raise
        raise _unlisted_error(name, unlisted) from None
    url, audience = target.get("mcp_url") or target["url"], target.get("audience") or target["url"]
    command = [sys.executable, "-m", "mcpfleet.cli", "proxy", "--url", str(url)]
    command += [f"--audience={audience}", "--port", str(_proxy_port(target) if port is None else port)]
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(folder.credentials / "ada.json")}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def print_services(
    phases: Phases, servers: Mapping[str, Mapping[str, Any]], clients: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print the URL, access and client configuration of each server and client of the fleet."""
    _check_outputs(servers, clients)
    for name, server in servers.items():
        phases.out.print(f"\n[bold]{markup_safe(name)}[/]")
        _print_row(phases, "MCP URL", server["mcp_url"])
        _print_row(phases, "audience", server["audience"])
        _print_row(phases, "access", _describe_access(server))
        if server["reached"] == "proxy":
            _print_row(phases, "proxy", f"{PROGRAM} proxy {name} --port {_proxy_port(server)}")
        if server["client_config"] is not None:
            _print_row(phases, "client", json.dumps(server["client_config"]))
    proxy_ports = [_proxy_port(server) for server in servers.values()]
    for port, (name, client) in enumerate(clients.items(), max([*proxy_ports, 2999]) + 1):  # the first server has 3000
        phases.out.print(f"\n[bold]{markup_safe(name)}[/], a client")
        _print_row(phases, "URL", client["url"])
        _print_row(phases, "calls", f"{', '.join(client['calls'])} (topology {client['topology']})")
        _print_row(phases, "access", _describe_access(client))
        if client["access"] == "iam":
            _print_row(phases, "proxy", f"{PROGRAM} proxy {name} --port {port}")


def _print_row(phases: Phases, title: str, text: str) -> None:
    phases.out.print(f"  {title:<9} {inert(text)}", markup=False, soft_wrap=True)


def _check_outputs(servers: Mapping[str, Any], clients: Mapping[str, Any]) -> None:
    """Check the stack's outputs of the services, before their values are used in commands.

    Raises:
        SetupError: A value is invalid.
    """
    try:
        for kind, services, required in (("servers", servers, ("mcp_url", "audience")), ("clients", clients, ("url",))):
            if services:
                read_services({kind: services}, kind, "The stack", required)
    except McpfleetError as error:
        raise SetupError(str(error), f"remove the whole deployment with {PROGRAM} down --force.") from None


def find_service(folder: CloudFolder, name: str) -> Mapping[str, Any]:
    """Find the output of the server or client *name*.

    Raises:
        SetupError: There is none; the next step lists the names.
    """
    stack = read_stack_state(folder)
    _check_outputs(stack.servers, stack.clients)
    services = {**stack.servers, **stack.clients}
    if not services:
        raise SetupError("Nothing is deployed here.", f"deploy the stack with {PROGRAM} up.")
    if name not in services:
        raise SetupError(
            f"There is no server or client {name!r} in the stack {folder.stack}.",
            f"choose one of these: {', '.join(services)}.",
        )
    return services[name]


def _describe_access(server: Mapping[str, Any]) -> str:
    """Describe who may call the server, in a few words."""
    match server["access"]:
        case "public":
            return "public: anybody"
        case "login":
            return "login: its members, who log in from any MCP client"
        case "oauth":
            return "oauth: callers with a token of its authorization server; the server checks it"
        case access:
            suffix = ", from the project's networks only" if server.get("reached") == "network" else ""
            return f"{access}: {', '.join(server['invokers']) or 'nobody'}{suffix}"


def _proxy_port(server: Mapping[str, Any]) -> int:
    """The port of a server's proxy; 0, which means any free port, for a client of the fleet."""
    return server.get("proxy_port") or 0

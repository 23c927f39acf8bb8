"""The commands of `./dev` that deploy: what each does, in order. The work is in the modules beside this one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final

from mcpfleet.checks import named_call
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.inert import inert
from mcpfleet.stack import services_of
from mcpfleet.terminal import marked_up
from mcpfleet_local_cloud.commands import background, config_files, leftovers, same_engine
from mcpfleet_local_cloud.commands.admin import Admin, admin_token, fresh_lines
from mcpfleet_local_cloud.commands.background import DEFAULT_PORT, DEFAULT_STACK, CloudFolder, port_of
from mcpfleet_local_cloud.commands.engine import Outcome, PulumiStack
from mcpfleet_local_cloud.commands.environment import ATTACHMENT, UNIVERSE, exports, shell, unset
from mcpfleet_local_cloud.commands.layers import Repository
from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, SeveralErrors
from mcpfleet_local_cloud.commands.setup import Prepared, prepare
from mcpfleet_local_cloud.commands.setup.docker_engine import find_docker
from mcpfleet_local_cloud.commands.setup.host import ThisHost
from mcpfleet_local_cloud.commands.setup.locks import lock_or_refuse
from mcpfleet_local_cloud.commands.state import deployed_stack, recorded, state_file
from mcpfleet_local_cloud.commands.verify import verify as verify_servers

_LOG_INTERVAL: Final = 0.5
"""Seconds between two looks at a log that is followed."""

_PUBLIC: Final = "us/mcpfleet-public/images"


def place_of(environ: Mapping[str, str]) -> CloudFolder:
    """The checkout's own place, with the stack that is deployed there; MCPFLEET_PORT moves its control plane.

    A local cloud that runs, or that was killed, keeps its port: the images of its stack are named by it.

    Raises:
        SetupError: MCPFLEET_PORT is not a port, or not that of the local cloud that is there.
    """
    paths = Paths.of(environ)
    present = port_of(paths.state)
    chosen = environ.get("MCPFLEET_PORT") or str(present or DEFAULT_PORT)
    if not (chosen.isascii() and chosen.isdecimal() and 1024 <= int(chosen) <= 65535):
        raise SetupError(f"MCPFLEET_PORT is {chosen!r}, not a port.", "set it to a number from 1024 to 65535.")
    if present is not None and int(chosen) != present:
        raise SetupError(
            f"MCPFLEET_PORT is {chosen}, but this checkout's local cloud has port {present}.",
            f"take it down first (MCPFLEET_PORT={present} {PROGRAM} down), or unset MCPFLEET_PORT.",
        )
    stack = deployed_stack(paths.state) or DEFAULT_STACK
    return CloudFolder(root=paths.root, state=paths.state, port=int(chosen), stack=stack)


def chosen_stack(place: CloudFolder, name: str | None) -> CloudFolder:
    """The *place* with the stack *name*, by default the one that it has.

    Raises:
        SetupError: There is no such stack for this machine, or another one is deployed.
    """
    if name is None or name == place.stack:
        return place
    files = {file.name.removeprefix("Pulumi.").removesuffix(".yaml"): file for file in place.root.glob("Pulumi.*.yaml")}
    here = sorted(stack for stack, file in files.items() if UNIVERSE in file.read_text(encoding="utf-8"))
    if name not in here:
        why = "is of Google Cloud: pulumi up deploys it" if name in files else "is not there"
        raise SetupError(
            f"Pulumi.{name}.yaml {why}. Nothing was changed.",
            f"name one of this machine ({', '.join(here)}), or write that file with gcp:universeDomain: {UNIVERSE}.",
        )
    if deployed_stack(place.state) is not None:
        raise SetupError(
            f"The stack {place.stack} is deployed here, and a local cloud holds one. Nothing was changed.",
            f"take it down first: {PROGRAM} down.",
        )
    return replace(place, stack=name)


def up(phases: Phases, stack: str | None = None) -> None:
    """Set up, deploy, verify, print."""
    place = chosen_stack(place_of(os.environ), stack)  # first: setting up a bare machine takes minutes
    if not (place.root / "Pulumi.yaml").is_file():
        raise SetupError(
            f"There is no Pulumi.yaml in {place.root}, nor above it. Nothing was changed.",
            f"go to the folder of your Pulumi program, then run {PROGRAM} up again.",
        )
    config_files.check(place)
    prepared = prepare(phases)
    with _alone(place):
        with start(phases, place, prepared) as engine:
            publish(phases, place, prepared)
            outcome = deploy(phases, engine)
        servers: dict[str, Any] = outcome.outputs["servers"]
        clients: dict[str, Any] = outcome.outputs.get("clients", {})
        verify_servers(phases, place, servers, clients)
    if not outcome.touched:
        phases.out.print("\nNo changes: what runs is what the program says.")
    print_services(phases, servers, clients)


def _alone(place: CloudFolder) -> AbstractContextManager[None]:
    """One deployment at a time in a checkout; Pulumi's own lock covers only a part of it."""
    refusal = SetupError(
        f"The stack {place.stack} is locked: another {PROGRAM} up or {PROGRAM} down is running here. "
        "Nothing was changed.",
        "wait until it is done, or end it; then run the command again.",
    )
    return lock_or_refuse(place.state / "locks" / "stack.lock", refusal)


@contextmanager
def start(phases: Phases, place: CloudFolder, prepared: Prepared, *, force: bool = False) -> Generator[PulumiStack]:
    """Start what a deployment needs; the engine that drives it, and the plugins that it calls, last until the end.

    With *force*, what is deployed may have been on another Docker Engine, which is gone.
    """
    place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.state.chmod(0o700)  # keys, tokens and logs are for this user alone
    same_engine.hold(place, prepared.address, prepared.engine, force=force)
    try:
        with phases.phase("Local cloud") as step:
            environ = {**prepared.environment(), **exports(place, None)}
            cloud, plugins = phases.concurrently(
                lambda: background.ensure_cloud(place, environ), lambda: background.ensure_plugins(place, environ)
            )
            step.note(f"{place.url}, {'started' if cloud.started else 'running'}")
        providers = str(plugins.facts["PULUMI_DEBUG_PROVIDERS"])
        yield PulumiStack(place, prepared.pulumi, {**prepared.environment(), **exports(place, providers)})
    finally:
        background.stop_plugins(place)


def publish(phases: Phases, place: CloudFolder, prepared: Prepared) -> None:
    """Put the base image into the cloud's public repository, whose layers every push then finds there.

    It costs one push for each new cloud, and saves that at each deployment. Docker would spend 5 s of it on
    compressing what it has compressed for another cloud before: the cache keeps that.
    """
    images: Any = prepared.docker.images  # the stubs leave `push` untyped
    image = images.get(prepared.base_image)
    if place.published.exists() and place.published.read_text(encoding="utf-8") == image.id:
        return
    with phases.phase("Base image to registry"):
        reference = f"{Admin(place).inventory()['registry']}/{_PUBLIC}/base"
        credentials = publisher(place)
        repository = Repository(place.url, f"{_PUBLIC}/base", (credentials["username"], credentials["password"]))
        layers = prepared.paths.cache / "layers" / str(image.id).removeprefix("sha256:")[:16]
        repository.seed(layers)
        image.tag(reference, "latest")
        try:
            answer: str = images.push(reference, "latest", auth_config=credentials)
        finally:
            images.remove(f"{reference}:latest")
        if '"error"' in answer:
            last = answer.strip().splitlines()[-1]
            raise SetupError(
                f"The local registry did not take the base image: {last}",
                f"read its log: {place.log('cloud')}, then run {PROGRAM} up again.",
            )
        repository.keep("latest", layers)
        place.published.write_text(str(image.id), encoding="utf-8")


def publisher(place: CloudFolder) -> dict[str, str]:
    """What Docker shows the registry to push a public image."""
    return {"username": "oauth2accesstoken", "password": admin_token(place)}


def deploy(phases: Phases, engine: PulumiStack) -> Outcome:
    """Run `pulumi up`."""
    with phases.phase("pulumi up") as step:
        outcome = engine.up(step)
        step.note(str(outcome))
    for line in outcome.told:
        phases.console.print(f"  {inert(line)}", markup=False, highlight=False, soft_wrap=True)
    return outcome


def down(phases: Phases, *, force: bool = False) -> None:
    """Destroy, prove that nothing is left, stop the local cloud."""
    place = place_of(os.environ)
    if not (force or place.cloud_state.exists() or state_file(place).exists()):
        # Nothing is set up for it: on a bare machine that would take minutes.
        phases.out.print("Nothing is left of the stack: no local cloud was ever started in this checkout.")
        return
    prepared = prepare(phases)
    with _alone(place):
        take_down(phases, place, prepared, force=force)
    phases.out.print("\nNothing is left of the stack.")


def take_down(phases: Phases, place: CloudFolder, prepared: Prepared, *, force: bool = False) -> None:
    """Destroy the stack in *place*; with *force* also what its state does not know."""
    with start(phases, place, prepared, force=force) as engine:
        if not force:
            with phases.phase("pulumi destroy") as step:
                step.note(str(engine.destroy(step)) if engine.exists() else "there is no stack")
    with phases.phase("Proof") as step:
        cloud = background.running(place, "cloud") or {}
        if force:
            leftovers.reset(place, Admin(place), prepared.docker)
        Admin(place).forget()
        left = leftovers.find(place, prepared.docker, cloud, Admin(place).inventory())
        if left:
            raise SetupError(
                "The stack is destroyed, but this is left:\n  " + "\n  ".join(left),
                f"remove it all, whatever it is, with {PROGRAM} down --force.",
            )
        background.stop(place)
        leftovers.forget(place, prepared.docker, cloud)
        same_engine.let_go(place)
        step.note("no container, network, image, registry content, record or state is left")


def verify(phases: Phases, call: str | None = None, arguments: str | None = None, timeout: int | None = None) -> None:
    """Call every deployed server, and ask every client, as those would who may and who may not.

    Args:
        phases: Where to show it.
        call: A tool to call, `SERVER/TOOL`, that need not say that it only reads.
        arguments: Its arguments, as a JSON object.
        timeout: Seconds that one check may take; None for 60.
    """
    place = place_of(os.environ)
    stack = recorded(place)
    # What somebody made by hand is no matter of the stack's.
    ours = {one.get("id") for one in stack.resources}
    unnamed = _unnamed(place).items() if ours else ()
    failed = [_unnamed_error(name, one) for name, one in unnamed if one["name"] in ours]
    if not stack.servers:
        if failed:
            raise SeveralErrors(failed)
        raise SetupError("Nothing is deployed here that could be verified.", f"deploy it with {PROGRAM} up.")
    if background.running(place, "cloud") is None:
        raise SetupError("The local cloud is not running, so no server answers.", f"start it with {PROGRAM} up.")
    try:
        named = named_call(call, arguments, list(stack.servers))
    except UsageError as error:
        raise SetupError(str(error), "nothing was called.") from None
    try:
        verify_servers(phases, place, stack.servers, stack.clients, named, timeout)
    except SetupError as error:
        failed.insert(0, error)
    if failed:
        raise SeveralErrors(failed)


def status(phases: Phases) -> None:
    """Print what is deployed and where it answers."""
    place = place_of(os.environ)
    cloud, plugins = background.running(place, "cloud"), background.running(place, "plugins")
    phases.out.print("Local cloud       " + (f"running, process {cloud['pid']}" if cloud else "not running"))
    if plugins:
        phases.out.print(f"Providers         running for a command or a shell, process {plugins['pid']}")
    stack = recorded(place)
    if not stack.resources:
        phases.out.print(f"Stack {place.stack:<11} not deployed; deploy it with {PROGRAM} up.")
        return
    answers = "" if cloud else f"; no server answers until {PROGRAM} up starts the local cloud again"
    phases.out.print(f"Stack {place.stack:<11} {len(stack.resources)} resources{answers}", soft_wrap=True)
    print_services(phases, stack.servers, stack.clients)
    for name, one in _unnamed(place).items():
        error = _unnamed_error(name, one)
        phases.out.out(inert(f"{error.message} Next: {error.next_step}"), highlight=False)


def env(phases: Phases, *, real_plugins: bool = False) -> None:
    """Print the exports for the user's own shell, and start the plugins that they name.

    Args:
        phases: what is shown of it.
        real_plugins: the official CLI is to use its own plugins, so that none is started here.
    """
    place = place_of(os.environ)
    if background.running(place, "cloud") is None:
        raise SetupError("The local cloud is not running.", f"start it with {PROGRAM} up.")
    if real_plugins:
        sys.stdout.write(shell(exports(place, None)) + "\n" + unset(ATTACHMENT) + "\n")
        return
    host = ThisHost()
    with phases.phase("Emulated providers") as step:
        found = find_docker(host, Paths.of(os.environ), step)
        same_engine.hold(place, found.address, found.facts())
        environ = {**os.environ, **exports(place, None), **found.address.environment}
        plugins = background.ensure_plugins(place, environ, until=background.shell_of(os.getpid()))
        step.note(f"until this shell ends, or {PROGRAM} down")
    sys.stdout.write(shell(exports(place, str(plugins.facts["PULUMI_DEBUG_PROVIDERS"]))) + "\n")


def logs(phases: Phases, name: str, *, follow: bool = False) -> None:
    """Print the log lines of a server or client."""
    place = place_of(os.environ)
    try:
        target = service_of(place, name)
        service = f"projects/{target['project']}/locations/{target['region']}/services/{target['service']}"
    except SetupError:
        # Whose deployment failed is in the cloud, and in no output.
        if (found := _unnamed(place).get(name)) is None:
            raise
        service = str(found["name"])
    for line in _log_lines(Admin(place), service, follow=follow):
        phases.out.out(inert(line), highlight=False)


def _unnamed(place: CloudFolder) -> Mapping[str, Mapping[str, Any]]:
    """The services of a running cloud that the stack's outputs do not name, by their names in the fleet."""
    if background.running(place, "cloud") is None:
        return {}
    stack = recorded(place)
    named = {one.get("service") for one in (*stack.servers.values(), *stack.clients.values())}
    services = {str(one["name"]).rpartition("/")[2]: one for one in Admin(place).inventory()["services"]}
    return {name.removeprefix("mcp-"): one for name, one in services.items() if name not in named}


def _unnamed_error(name: str, service: Mapping[str, Any]) -> SetupError:
    """What is to be said of a service that the stack's outputs do not name."""
    if service["state"] == "CONDITION_SUCCEEDED":
        return SetupError(
            f"{name}: it runs at {service['uri']}, and is not in the stack's outputs: they are written once a"
            " whole deployment has succeeded.",
            f"mend what failed ({PROGRAM} status names it), then run {PROGRAM} up.",
        )
    return SetupError(
        f"{name}: {service['state']}, and not in the stack's outputs: its deployment did not succeed.",
        f"read its log with {PROGRAM} logs {name}, mend it, then run {PROGRAM} up.",
    )


def _log_lines(cloud: Admin, service: str, *, follow: bool) -> Iterator[str]:
    seen: list[str] = []
    while True:
        lines = cloud.logs(service)
        yield from fresh_lines(seen, lines)
        if not follow:
            return
        seen = lines
        time.sleep(_LOG_INTERVAL)


def proxy(phases: Phases, name: str, port: int | None) -> None:
    """Open an authenticated proxy to a server or client as the local stack's invoker, until Ctrl-C."""
    del phases
    place = place_of(os.environ)
    try:
        target = service_of(place, name)
    except SetupError:
        if (found := _unnamed(place).get(name)) is None:
            raise
        raise _unnamed_error(name, found) from None
    url, audience = target.get("mcp_url") or target["url"], target.get("audience") or target["url"]
    command = [sys.executable, "-m", "mcpfleet.cli", "proxy", "--url", str(url)]
    command += [f"--audience={audience}", "--port", str(_proxy_port(target) if port is None else port)]
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(place.credentials / "ada.json")}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def print_services(
    phases: Phases, servers: Mapping[str, Mapping[str, Any]], clients: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print, for each server and each client of the fleet, all that its users need."""
    _trusted(servers, clients)
    for name, server in servers.items():
        phases.out.print(f"\n[bold]{marked_up(name)}[/]")
        _row(phases, "MCP URL", server["mcp_url"])
        _row(phases, "audience", server["audience"])
        _row(phases, "access", _who(server))
        if server["reached"] == "proxy":
            _row(phases, "proxy", f"{PROGRAM} proxy {name} --port {_proxy_port(server)}")
        if server["client_config"] is not None:
            _row(phases, "client", json.dumps(server["client_config"]))
    taken = [_proxy_port(server) for server in servers.values()]
    for port, (name, client) in enumerate(clients.items(), max([*taken, 2999]) + 1):  # the first server has 3000
        phases.out.print(f"\n[bold]{marked_up(name)}[/], a client")
        _row(phases, "URL", client["url"])
        _row(phases, "calls", f"{', '.join(client['calls'])} (topology {client['topology']})")
        _row(phases, "access", _who(client))
        if client["access"] == "iam":
            _row(phases, "proxy", f"{PROGRAM} proxy {name} --port {port}")


def _row(phases: Phases, title: str, text: str) -> None:
    phases.out.print(f"  {title:<9} {inert(text)}", markup=False, soft_wrap=True)


def _trusted(servers: Mapping[str, Any], clients: Mapping[str, Any]) -> None:
    """Check what a state or a program says of services, before it stands in a command.

    Raises:
        SetupError: A word is not of its grammar.
    """
    try:
        for kind, services, required in (("servers", servers, ("mcp_url", "audience")), ("clients", clients, ("url",))):
            if services:
                services_of({kind: services}, kind, "The stack", required)
    except McpfleetError as error:
        raise SetupError(str(error), f"remove the deployment, whatever it is, with {PROGRAM} down --force.") from None


def service_of(place: CloudFolder, name: str) -> Mapping[str, Any]:
    """The output of the server or client of this name.

    Raises:
        SetupError: There is none; it says which there are.
    """
    stack = recorded(place)
    _trusted(stack.servers, stack.clients)
    services = {**stack.servers, **stack.clients}
    if not services:
        raise SetupError("Nothing is deployed here.", f"deploy the stack with {PROGRAM} up.")
    if name not in services:
        raise SetupError(
            f"There is no server or client {name!r} in the stack {place.stack}.",
            f"choose one of these: {', '.join(services)}.",
        )
    return services[name]


def _who(server: Mapping[str, Any]) -> str:
    """Who may call, in a few words."""
    match server["access"]:
        case "public":
            return "public: anybody"
        case "oauth":
            return "oauth: whoever has a token of its authorization server; the server itself checks"
        case kind:
            where = ", from the project's networks only" if server.get("reached") == "network" else ""
            return f"{kind}: {', '.join(server['invokers']) or 'nobody'}{where}"


def _proxy_port(server: Mapping[str, Any]) -> int:
    """The port of a server's proxy; 0, a free one, where it has none, as a client of the fleet."""
    return server.get("proxy_port") or 0

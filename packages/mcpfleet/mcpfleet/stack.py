"""The servers of a stack, read from its outputs: the contract that the program exports as `servers`.

Outputs come from a file (`--outputs`: what `pulumi stack output --json` prints, or a state of Pulumi's file backend),
from the local cloud of a checkout, whose state lies in it, or from the Pulumi CLI.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet.bounds import json_object
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.grammar import is_name, mistakes
from mcpfleet.inert import inert
from mcpfleet.system import run_program, text_of
from mcpfleet.target import Target

PULUMI_SECONDS: Final = 60.0
LARGEST_FILE: Final = 64 << 20
"""Bytes of an outputs file or a state that are read: a large fleet's state has some hundred thousand."""
_MISTAKES_SHOWN: Final = 20
_PROJECT: Final = "mcpfleet"
_STACK_TYPE: Final = "pulumi:pulumi:Stack"
_COMPONENTS: Final = ("mcpfleet:index:McpServer", "mcpfleet:index:McpClient")
_SERVICE_TYPE: Final = "gcp:cloudrunv2/service:Service"
_REASON: Final = 600
"""Characters of the reason why a deployment failed that are shown."""

_AGAIN: Final = "Mend what failed, then deploy again."

Run = Callable[[list[str], Path], "tuple[int, str, str]"]


@dataclass(frozen=True)
class DeployedServer:
    """One server of a stack.

    Attributes:
        name: In the fleet.
        target: Its MCP endpoint.
        audience: What a token for it is for.
        invokers: Who may call, as IAM writes them.
        output: All that the stack says of it.
    """

    name: str
    target: Target
    audience: str
    invokers: tuple[str, ...]
    output: Mapping[str, Any]

    @property
    def access(self) -> str:
        """Who checks the caller: iam (the default), iap, oauth or public."""
        return str(self.output.get("access", "iam"))

    @property
    def program_audience(self) -> str:
        """The OAuth client that a program's token is for, where IAP checks the caller; '' where it takes none."""
        return str(self.output.get("program_audience") or "")

    @property
    def sse_alone(self) -> bool:
        """Whether it speaks MCP's deprecated transport and no other."""
        return tuple(self.output.get("transports") or ()) == ("sse",)

    @property
    def inside(self) -> bool:
        """Whether requests reach it from the project's networks only."""
        alone = self.output.get("ingress", "all") != "all" and not self.output.get("domain")
        return alone or self.output.get("reached") == "network"

    @property
    def urls(self) -> tuple[str, ...]:
        """The service's own URL in each region; none where the stack says none."""
        own = self.output.get("urls")
        listed = cast("dict[str, Any]", own).values() if isinstance(own, dict) else ()
        return tuple(url for url in listed if isinstance(url, str))


@dataclass(frozen=True)
class DeployedClient:
    """One client of a stack: a service that calls its servers.

    Attributes:
        name: In the fleet.
        target: Where it answers.
        invokers: Who may call it, as IAM writes them.
        output: All that the stack says of it.
    """

    name: str
    target: Target
    invokers: tuple[str, ...]
    output: Mapping[str, Any]

    @property
    def access(self) -> str:
        """Who checks the caller: iam (the default), iap or public."""
        return str(self.output.get("access", "iam"))

    @property
    def program_audience(self) -> str:
        """The OAuth client that a program's token is for, where IAP checks the caller; '' where it takes none."""
        return str(self.output.get("program_audience") or "")

    @property
    def audience(self) -> str:
        """What a token for it is for."""
        return self.target.origin

    @property
    def calls(self) -> tuple[str, ...]:
        """The servers that it calls."""
        return tuple(str(one) for one in self.output.get("calls") or ())


@dataclass(frozen=True)
class Stack:
    """What was found.

    Attributes:
        origin: Where it was read, for a person.
        servers: By name.
        credentials: A credentials file for people of this stack: the local cloud's invoker; None on Google.
        clients: By name.
        unnamed: Servers and clients that are in the state and not in the outputs, each with the reason.
    """

    origin: str
    servers: Mapping[str, DeployedServer]
    credentials: Path | None = None
    clients: Mapping[str, DeployedClient] = field(default_factory=dict[str, DeployedClient])
    unnamed: Mapping[str, str] = field(default_factory=dict[str, str])

    def services(self, names: list[str]) -> list[DeployedServer | DeployedClient]:
        """The servers and clients of these names, all of both where there is none.

        Raises:
            UsageError: There is no such server or client.
        """
        known = {**self.servers, **self.clients}
        for name in names:
            if name not in known:
                self._refuse_unnamed(name)
                raise UsageError(
                    f"There is no server or client {name!r} in {self.origin}; there are: {', '.join(known)}."
                )
        return [known[name] for name in names or known]

    def chosen(self, names: list[str]) -> list[DeployedServer]:
        """The servers of these names, all of them where there is none.

        Raises:
            UsageError: There is no such server.
        """
        for name in names:
            if name not in self.servers:
                self._refuse_unnamed(name)
                known = ", ".join(self.servers) or "none"
                raise UsageError(f"There is no server {name!r} in {self.origin}; there are: {known}.")
        return [self.servers[name] for name in names or self.servers]

    def _refuse_unnamed(self, name: str) -> None:
        if why := self.unnamed.get(name):
            raise UsageError(f"{name} is not in the outputs of {self.origin}: {why}. {_AGAIN}")


def from_url(url: str, audience: str | None, name: str | None = None) -> DeployedServer:
    """A server that is given by its URL alone.

    Raises:
        UsageError: It is not a service's URL.
    """
    target = Target.parse(url)
    return DeployedServer(name or target.service_and_region[0].lower(), target, audience or target.origin, (), {})


def read(
    outputs: Path | None = None, stack: str | None = None, folder: Path | None = None, run: Run | None = None
) -> Stack:
    """The servers of a stack.

    Args:
        outputs: A file with the outputs, or with the state of a stack.
        stack: The stack's name; by default the one that is selected, or a checkout's own local one.
        folder: The folder with Pulumi.yaml; the current one by default.
        run: Runs a program in a folder; gives its exit code, output and error output.

    Raises:
        McpfleetError: There are none; it says how to get them.
    """
    folder = folder or Path.cwd()
    if outputs is not None:
        return _stack(str(outputs), *_read_file(outputs), str(outputs))
    local = _local_state(folder)
    if local is not None and stack in {None, local.stem}:
        here = f"the stack {local.stem} of {local.parents[5]}"
        return _stack(here, *_read_file(local), here, local.parents[4] / "credentials" / "ada.json")
    return _from_pulumi(stack, folder, run or _run)


def _local_state(folder: Path) -> Path | None:
    """The state of the stack that the local cloud of the checkout around a folder has; `local` before any other."""
    for place in (folder, *folder.parents):
        states = (place / ".mcpfleet" / "pulumi" / ".pulumi" / "stacks" / _PROJECT).glob("*.json")
        files = sorted(states, key=lambda file: (file.stem != "local", file.stem))
        if files:
            return files[0]
        if (place / "Pulumi.yaml").is_file():
            return None
    return None


def _from_pulumi(stack: str | None, folder: Path, run: Run) -> Stack:
    command = ["pulumi", "stack", "output", "--json", "--non-interactive", *(["--stack", stack] if stack else [])]
    shown = " ".join(command)
    hint = "Give the outputs with --outputs FILE, or the service with --url URL."
    try:
        code, out, err = run(command, folder)
    except FileNotFoundError:
        raise McpfleetError(f"The Pulumi CLI is not installed here, so no stack can be read. {hint}") from None
    except subprocess.TimeoutExpired:
        raise McpfleetError(f"`{shown}` did not end within {PULUMI_SECONDS:.0f} s. {hint}") from None
    if code != 0:
        why = (err.strip().splitlines() or ["no message"])[0].removeprefix("error: ")
        raise McpfleetError(f"`{shown}` failed in {folder}: {why}. Choose a stack with --stack. {hint}")
    return _stack(f"the stack {stack or 'that is selected'} in {folder}", *_parse(out, shown), shown)


def _stack(
    name: str, outputs: Mapping[str, Any], unnamed: Mapping[str, str], origin: str, credentials: Path | None = None
) -> Stack:
    if unnamed and not outputs.get("servers"):
        told = "; ".join(f"{one}: {why}" for one, why in unnamed.items())
        raise McpfleetError(f"{origin} names no servers, because its last deployment failed. {told}. {_AGAIN}")
    return Stack(name, servers_of(outputs, origin), credentials, clients_of(outputs, origin), unnamed)


def _run(command: list[str], folder: Path) -> tuple[int, str, str]:
    done = run_program(command, PULUMI_SECONDS, folder)
    return done.returncode, done.stdout, done.stderr


def _read_file(file: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise McpfleetError(f"{file} is larger than {LARGEST_FILE >> 20} MiB, so it holds no stack's outputs.")
        text = text_of(content)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise McpfleetError(
            f"Cannot read {file}: {reason}. Write it with `pulumi stack output --json > {file.name}`."
        ) from error
    return _parse(text, str(file))


def _parse(text: str, origin: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The outputs, and what a state has besides (`Stack.unnamed`)."""
    try:
        found = json_object(text)
    except ValueError as error:
        raise McpfleetError(f"{origin} gave no JSON object: {inert(str(error))}.") from error
    outputs = found if _at(found, "checkpoint") is None else _of_checkpoint(found)
    if not isinstance(outputs, dict):
        raise McpfleetError(f"{origin} holds no stack's outputs.")
    known = cast("Mapping[str, Any]", outputs)
    return known, _unnamed(found, known)


def _resources(state: object) -> list[object]:
    return _listed(_at(_at(_at(state, "checkpoint"), "latest"), "resources"), list)


def _listed(value: object, kind: type) -> list[object]:
    return [*cast("list[object]", value)] if isinstance(value, kind) else []


def _unnamed(state: object, outputs: Mapping[str, Any]) -> dict[str, str]:
    """What a deployment began and its outputs do not name, each with the reason: Pulumi writes them at the end."""
    resources = _resources(state)
    named = [name for kind in ("servers", "clients") for name in _listed(outputs.get(kind), dict)]
    found: dict[str, str] = {}
    for component in resources:
        urn = _at(component, "urn")
        name = urn.rpartition("::")[2] if isinstance(urn, str) and _at(component, "type") in _COMPONENTS else ""
        if not is_name(name) or name in named:
            continue
        services = [one for one in resources if _at(one, "type") == _SERVICE_TYPE and _at(one, "parent") == urn]
        wrong = [why for one in services for why in _listed(_at(one, "initErrors"), list)]
        if wrong:
            found[name] = f"its deployment failed: {inert(str(wrong[0]).strip(), _REASON).rstrip('.')}"
        elif services:
            found[name] = "it is deployed, but another part of the deployment failed"
        else:
            found[name] = "its deployment ended before its service was made"
    return found


def _of_checkpoint(state: object) -> object:
    """The outputs in a state of the file backend; empty where nothing is deployed."""
    for one in _resources(state):
        if _at(one, "type") == _STACK_TYPE:
            return _at(one, "outputs") or {}
    return {}


def _at(value: object, key: str) -> Any:
    return cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None


def servers_of(outputs: Mapping[str, Any], origin: str) -> dict[str, DeployedServer]:
    """Read the output `servers`.

    Raises:
        McpfleetError: It is missing, or a word in it is not of its grammar; every mistake is named.
    """
    found: dict[str, DeployedServer] = {}
    for name, one in services_of(outputs, "servers", origin, ("mcp_url", "audience")).items():
        url, audience = str(one["mcp_url"]), str(one["audience"])
        invokers = _at(one, "invokers") or ()
        service, region = _at(one, "service"), _at(one, "region")
        place = (service, region) if isinstance(service, str) and isinstance(region, str) else None
        target = Target.parse(url)
        # A stack says the whole path, be it `/` alone.
        target = replace(target, place=place, path=target.path or ("/" if url.endswith("/") else ""))
        found[name] = DeployedServer(name, target, audience, tuple(str(who) for who in invokers), one)
    return found


def services_of(
    outputs: Mapping[str, Any], kind: str, origin: str, required: tuple[str, ...]
) -> Mapping[str, Mapping[str, Any]]:
    """The services of an output, each word of the grammar that commands and configurations rely on.

    Args:
        outputs: A stack's outputs.
        kind: The output: `servers` or `clients`.
        origin: Where they were read, for a person.
        required: The keys that each must have.

    Raises:
        McpfleetError: There are none, or a word is not of its grammar; every mistake is named.
    """
    listed = outputs.get(kind)
    if not isinstance(listed, dict) or not listed:
        raise McpfleetError(f"{origin} has no {kind}: nothing is deployed there. Deploy with `pulumi up`.")
    services = cast("Mapping[str, Mapping[str, Any]]", listed)
    if wrong := list(mistakes(kind, services, required)):
        more = [f"and {len(wrong) - _MISTAKES_SHOWN} more"] if len(wrong) > _MISTAKES_SHOWN else []
        raise McpfleetError(
            f"{origin} cannot be used: "
            + "; ".join(wrong[:_MISTAKES_SHOWN] + more)
            + ". Run `pulumi up` once more to have it written anew; if it comes from somebody else, do not trust it."
        )
    return services


def clients_of(outputs: Mapping[str, Any], origin: str) -> dict[str, DeployedClient]:
    """Read the output `clients`; nothing where there are none.

    Raises:
        McpfleetError: A client in it has no URL, or a word is not of its grammar.
    """
    found: dict[str, DeployedClient] = {}
    if not outputs.get("clients"):
        return found
    for name, one in services_of(outputs, "clients", origin, ("url",)).items():
        invokers: list[str] = one.get("invokers") or []
        found[name] = DeployedClient(name, Target.parse(one["url"]), tuple(invokers), one)
    return found

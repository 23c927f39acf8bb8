"""The servers and clients of a stack, read from the outputs `servers` and `clients` of the Pulumi program.

The outputs of programs in YAML, TypeScript and Go have names in camel case, and are read like those of programs in
Python. The outputs come from a file (`--outputs`: the output of `pulumi stack output --json`, or a state of Pulumi's
file backend), from the state of a checkout's local cloud, or from the Pulumi CLI.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet.bounds import parse_json_object
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.grammar import find_mistakes, is_name
from mcpfleet.inert import inert
from mcpfleet.system import decode_text, run_program
from mcpfleet.target import Target

PULUMI_SECONDS: Final = 60.0
MAX_FILE_BYTES: Final = 64 << 20
"""The largest outputs file or state that is read. A large fleet's state has some hundred thousand bytes."""
_MAX_SHOWN_MISTAKES: Final = 20
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])[A-Z]")
"""A capital letter at which a word of a camel case name begins."""
_STACK_TYPE: Final = "pulumi:pulumi:Stack"
_COMPONENTS: Final = ("mcpfleet:index:McpServer", "mcpfleet:index:McpClient")
_SERVICE_TYPE: Final = "gcp:cloudrunv2/service:Service"
_REASON_CHARACTERS: Final = 600
"""The most characters of the reason of a failed deployment that are shown."""

_REDEPLOY: Final = "Fix what failed, then deploy again."

Run = Callable[[list[str], Path], "tuple[int, str, str]"]


@dataclass(frozen=True)
class DeployedServer:
    """A server of a stack.

    Attributes:
        name: Its name in the fleet.
        target: Its MCP endpoint.
        audience: The audience of its ID tokens.
        invokers: The IAM members that may call it.
        output: Its whole entry in the stack's outputs.
    """

    name: str
    target: Target
    audience: str
    invokers: tuple[str, ...]
    output: Mapping[str, Any]

    @property
    def access(self) -> str:
        """The kind of access: iam (the default), iap, login, oauth or public."""
        return str(self.output.get("access", "iam"))

    @property
    def needs_id_token(self) -> bool:
        """Whether its callers need an ID token: with other kinds of access, Google checks none."""
        return self.access not in {"public", "login", "oauth"}

    @property
    def program_audience(self) -> str:
        """The OAuth client that a program's token is for, where IAP checks the caller; '' where it takes none."""
        return str(self.output.get("program_audience") or "")

    @property
    def is_sse_only(self) -> bool:
        """Whether it speaks only SSE, MCP's deprecated transport."""
        return tuple(self.output.get("transports") or ()) == ("sse",)

    @property
    def is_internal(self) -> bool:
        """Whether only requests from the project's networks reach it."""
        is_unreachable = self.output.get("ingress", "all") != "all" and not self.output.get("domain")
        return is_unreachable or self.output.get("reached") == "network"

    @property
    def urls(self) -> tuple[str, ...]:
        """The service's own URL in each region; empty if the output has none, or the service has no default URL."""
        output = self.output.get("urls")
        urls = cast("dict[str, Any]", output).values() if isinstance(output, dict) else ()
        return tuple(url for url in urls if isinstance(url, str) and url)


@dataclass(frozen=True)
class DeployedClient:
    """A client of a stack: a service that calls its servers.

    Attributes:
        name: Its name in the fleet.
        target: Its URL.
        invokers: The IAM members that may call it.
        output: Its whole entry in the stack's outputs.
    """

    name: str
    target: Target
    invokers: tuple[str, ...]
    output: Mapping[str, Any]

    @property
    def access(self) -> str:
        """The kind of access: iam (the default), iap or public."""
        return str(self.output.get("access", "iam"))

    @property
    def program_audience(self) -> str:
        """The OAuth client that a program's token is for, where IAP checks the caller; '' where it takes none."""
        return str(self.output.get("program_audience") or "")

    @property
    def audience(self) -> str:
        """The audience of its ID tokens."""
        return self.target.origin

    @property
    def calls(self) -> tuple[str, ...]:
        """The servers that it calls."""
        return tuple(str(server) for server in self.output.get("calls") or ())


@dataclass(frozen=True)
class Stack:
    """A deployed stack.

    Attributes:
        origin: Where it was read, for messages.
        servers: The servers by name.
        credentials: The credentials file of the local cloud's invoker; None on Google.
        clients: The clients by name.
        missing_outputs: Servers and clients that are in the state but not in the outputs, each with the reason.
    """

    origin: str
    servers: Mapping[str, DeployedServer]
    credentials: Path | None = None
    clients: Mapping[str, DeployedClient] = field(default_factory=dict[str, DeployedClient])
    missing_outputs: Mapping[str, str] = field(default_factory=dict[str, str])

    def select_services(self, names: list[str]) -> list[DeployedServer | DeployedClient]:
        """Select servers and clients by name; all of them if *names* is empty.

        Raises:
            UsageError: There is no such server or client.
        """
        services = {**self.servers, **self.clients}
        for name in names:
            if name not in services:
                self._raise_if_missing(name)
                raise UsageError(
                    f"There is no server or client {name!r} in {self.origin}; there are: {', '.join(services)}."
                )
        return [services[name] for name in names or services]

    def select_servers(self, names: list[str]) -> list[DeployedServer]:
        """Select servers by name; all of them if *names* is empty.

        Raises:
            UsageError: There is no such server.
        """
        for name in names:
            if name not in self.servers:
                self._raise_if_missing(name)
                names_text = ", ".join(self.servers) or "none"
                raise UsageError(f"There is no server {name!r} in {self.origin}; there are: {names_text}.")
        return [self.servers[name] for name in names or self.servers]

    def _raise_if_missing(self, name: str) -> None:
        if reason := self.missing_outputs.get(name):
            raise UsageError(f"{name} is not in the outputs of {self.origin}: {reason}. {_REDEPLOY}")


def server_from_url(url: str, audience: str | None, name: str | None = None) -> DeployedServer:
    """Create a server from its URL, without a stack.

    Raises:
        UsageError: It is not a service's URL.
    """
    target = Target.parse(url)
    return DeployedServer(name or target.service_and_region[0].lower(), target, audience or target.origin, (), {})


def read_stack(
    outputs: Path | None = None, stack: str | None = None, folder: Path | None = None, run: Run | None = None
) -> Stack:
    """Read the servers and clients of a stack.

    Args:
        outputs: A file with the outputs, or with the state of a stack.
        stack: The stack's name; by default the selected one, or the one on the checkout's local cloud.
        folder: The folder with Pulumi.yaml; the current one by default.
        run: Runs a program in a folder; returns its exit code, output and error output.

    Raises:
        McpfleetError: The stack cannot be read, or has no servers; the message has the next step.
    """
    folder = folder or Path.cwd()
    if outputs is not None:
        return _create_stack(str(outputs), *_read_file(outputs), str(outputs))
    local_state = _find_local_state(folder)
    if local_state is not None and stack in {None, local_state.stem}:
        origin = f"the stack {local_state.stem} of {local_state.parents[5]}"
        return _create_stack(
            origin, *_read_file(local_state), origin, local_state.parents[4] / "credentials" / "ada.json"
        )
    return _read_from_pulumi(stack, folder, run or _run)


def _find_local_state(folder: Path) -> Path | None:
    """Find the state of a stack on the local cloud of the folder's checkout; `local` comes before other stacks."""
    for directory in (folder, *folder.parents):
        states = (directory / ".mcpfleet" / "pulumi" / ".pulumi" / "stacks").glob("*/*.json")
        files = sorted(states, key=lambda file: (file.stem != "local", file.stem))
        if files:
            return files[0]
        if (directory / "Pulumi.yaml").is_file():
            return None
    return None


def _read_from_pulumi(stack: str | None, folder: Path, run: Run) -> Stack:
    command = ["pulumi", "stack", "output", "--json", "--non-interactive", *(["--stack", stack] if stack else [])]
    command_text = " ".join(command)
    hint = "Or use --outputs FILE or --url URL."
    try:
        code, out, err = run(command, folder)
    except FileNotFoundError:
        raise McpfleetError(
            f"The Pulumi CLI is not installed, so the stack cannot be read. Install it. {hint}"
        ) from None
    except subprocess.TimeoutExpired:
        raise McpfleetError(
            f"`{command_text}` did not end within {PULUMI_SECONDS:.0f} s. Try it in a terminal. {hint}"
        ) from None
    if code != 0:
        reason = (err.strip().splitlines() or ["no message"])[0].removeprefix("error: ")
        raise McpfleetError(f"`{command_text}` failed in {folder}: {reason}. Choose a stack with --stack. {hint}")
    return _create_stack(
        f"the {f'stack {stack}' if stack else 'selected stack'} in {folder}", *_parse(out, command_text), command_text
    )


def _create_stack(
    name: str,
    outputs: Mapping[str, Any],
    missing_outputs: Mapping[str, str],
    origin: str,
    credentials: Path | None = None,
) -> Stack:
    if missing_outputs and not outputs.get("servers"):
        reasons = "; ".join(f"{service}: {reason}" for service, reason in missing_outputs.items())
        raise McpfleetError(f"{origin} has no servers, because its last deployment failed. {reasons}. {_REDEPLOY}")
    return Stack(name, read_servers(outputs, origin), credentials, read_clients(outputs, origin), missing_outputs)


def _run(command: list[str], folder: Path) -> tuple[int, str, str]:
    process = run_program(command, PULUMI_SECONDS, folder)
    return process.returncode, process.stdout, process.stderr


def _read_file(file: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise McpfleetError(
                f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB, so it is not a file with a stack's outputs."
            )
        text = decode_text(content)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise McpfleetError(
            f"Cannot read {file}: {reason}. Write it with `pulumi stack output --json > {file.name}`."
        ) from error
    return _parse(text, str(file))


def _parse(text: str, origin: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Parse outputs or a state; returns the outputs, and what is missing in them (`Stack.missing_outputs`)."""
    try:
        document = parse_json_object(text)
    except ValueError as error:
        raise McpfleetError(f"{origin} is not a JSON object: {inert(str(error))}.") from error
    outputs = document if _get(document, "checkpoint") is None else _checkpoint_outputs(document)
    if not isinstance(outputs, dict):
        raise McpfleetError(f"{origin} has no outputs of a stack.")
    values = cast("Mapping[str, Any]", outputs)
    return values, _find_missing_outputs(document, values)


def _resources(state: object) -> list[object]:
    return _as_list(_get(_get(_get(state, "checkpoint"), "latest"), "resources"), list)


def _as_list(value: object, kind: type) -> list[object]:
    return [*cast("list[object]", value)] if isinstance(value, kind) else []


def _find_missing_outputs(state: object, outputs: Mapping[str, Any]) -> dict[str, str]:
    """Find what a failed deployment created but its outputs lack, each with the reason: Pulumi writes them last."""
    resources = _resources(state)
    named = [name for kind in ("servers", "clients") for name in _as_list(outputs.get(kind), dict)]
    reasons: dict[str, str] = {}
    for component in resources:
        urn = _get(component, "urn")
        name = urn.rpartition("::")[2] if isinstance(urn, str) and _get(component, "type") in _COMPONENTS else ""
        if not is_name(name) or name in named:
            continue
        services = [
            resource
            for resource in resources
            if _get(resource, "type") == _SERVICE_TYPE and _get(resource, "parent") == urn
        ]
        errors = [error for resource in services for error in _as_list(_get(resource, "initErrors"), list)]
        if errors:
            reasons[name] = f"its deployment failed: {inert(str(errors[0]).strip(), _REASON_CHARACTERS).rstrip('.')}"
        elif services:
            reasons[name] = "it is deployed, but another part of the deployment failed"
        else:
            reasons[name] = "its deployment ended before its service was created"
    return reasons


def _checkpoint_outputs(state: object) -> object:
    """The outputs in a state of the file backend; empty if nothing is deployed."""
    for resource in _resources(state):
        if _get(resource, "type") == _STACK_TYPE:
            return _get(resource, "outputs") or {}
    return {}


def _get(value: object, key: str) -> Any:
    return cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None


def read_servers(outputs: Mapping[str, Any], origin: str) -> dict[str, DeployedServer]:
    """Read the output `servers`.

    Raises:
        McpfleetError: It is missing, or has invalid values (`mcpfleet.grammar`); the message has every mistake.
    """
    servers: dict[str, DeployedServer] = {}
    for name, output in read_services(outputs, "servers", origin, ("mcp_url", "audience")).items():
        url, audience = str(output["mcp_url"]), str(output["audience"])
        invokers = _get(output, "invokers") or ()
        service, region = _get(output, "service"), _get(output, "region")
        known_service = (service, region) if isinstance(service, str) and isinstance(region, str) else None
        target = Target.parse(url)
        # An output has the whole path, even if it is only `/`.
        target = replace(target, known_service=known_service, path=target.path or ("/" if url.endswith("/") else ""))
        servers[name] = DeployedServer(name, target, audience, tuple(str(invoker) for invoker in invokers), output)
    return servers


def read_services(
    outputs: Mapping[str, Any], kind: str, origin: str, required: tuple[str, ...]
) -> Mapping[str, Mapping[str, Any]]:
    """Read and validate the services of an output.

    Args:
        outputs: A stack's outputs.
        kind: The output: `servers` or `clients`.
        origin: Where they were read, for messages.
        required: The keys that each must have.

    Raises:
        McpfleetError: There are none, or they have invalid values; the message has every mistake.
    """
    entries = outputs.get(kind)
    if not isinstance(entries, dict) or not entries:
        raise McpfleetError(f"{origin} has no {kind}: nothing is deployed there. Deploy with `pulumi up`.")
    services = {name: _rename_keys(entry) for name, entry in cast("Mapping[str, Mapping[str, Any]]", entries).items()}
    if problems := list(find_mistakes(kind, services, required)):
        rest = [f"and {len(problems) - _MAX_SHOWN_MISTAKES} more"] if len(problems) > _MAX_SHOWN_MISTAKES else []
        raise McpfleetError(
            f"{origin} cannot be used: "
            + "; ".join(problems[:_MAX_SHOWN_MISTAKES] + rest)
            + ". Run `pulumi up` again to rewrite it. Do not use outputs that you don't trust."
        )
    return services


def _rename_keys(entry: Any) -> Any:
    """Rename the keys of a service's output from camel case. A key whose other form is there too stays as it is."""
    if not isinstance(entry, dict):
        return entry
    output = cast("dict[str, Any]", entry)
    names = {key: _CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", key) for key in output}
    return {key if names[key] in output else names[key]: value for key, value in output.items()}


def read_clients(outputs: Mapping[str, Any], origin: str) -> dict[str, DeployedClient]:
    """Read the output `clients`; empty if there is none.

    Raises:
        McpfleetError: A client has no URL, or invalid values.
    """
    clients: dict[str, DeployedClient] = {}
    if not outputs.get("clients"):
        return clients
    for name, output in read_services(outputs, "clients", origin, ("url",)).items():
        invokers: list[str] = output.get("invokers") or []
        clients[name] = DeployedClient(name, Target.parse(output["url"]), tuple(invokers), output)
    return clients

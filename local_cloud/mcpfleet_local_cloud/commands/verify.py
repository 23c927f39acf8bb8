"""Verifies the stack of this checkout: runs the checks of `mcpfleet.verify` as the users of the local cloud.

Every deployed server is called, by its domain if it has one. So is every client, and through it each server that it
calls: over HTTPS, as its sidecar, or by its name in the mesh.
"""

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcpfleet.errors import McpfleetError
from mcpfleet.inert import inert
from mcpfleet.stack import DeployedClient, DeployedServer, read_clients, read_servers
from mcpfleet.token_sources import TokenSource, source_from_file
from mcpfleet.verify import ANY_TOOL, Callers, CheckOptions, Report, check
from mcpfleet_local_cloud.commands.admin import AdminClient
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.domains import DomainTransport, parse_balancer_addresses
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, Step

_NAMES: Final = ("ada", "bob", "deployer")
_DOMAIN: Final = "mcpfleet.test"


def read_callers(folder: CloudFolder) -> Callers:
    """Read the credential files that the local cloud wrote: the callers that checks use by default."""
    ada, bob, deployer = (source_from_file(folder.credentials / f"{name}.json") for name in _NAMES)
    return Callers(invoker=ada, not_invoker=bob, any_audience=deployer)


def select_callers(callers: Callers, invokers: Container[str]) -> Callers:
    """Return *callers* with the roles that *invokers*, a server's list, gives them; a role without a caller is None."""
    is_whole_domain = f"domain:{_DOMAIN}" in invokers
    allowed: list[TokenSource] = []
    denied: list[TokenSource] = []
    for name, source in zip(_NAMES, (callers.invoker, callers.not_invoker), strict=False):
        if source is not None:
            (allowed if is_whole_domain or f"user:{name}@{_DOMAIN}" in invokers else denied).append(source)
    return replace(callers, invoker=next(iter(allowed), None), not_invoker=next(iter(denied), None))


def verify(
    phases: Phases,
    folder: CloudFolder,
    servers: Mapping[str, Mapping[str, Any]],
    clients: Mapping[str, Mapping[str, Any]] | None = None,
    call: tuple[str, tuple[str, Mapping[str, Any]]] | None = None,
    seconds: float | None = None,
    next_step: str = f"read the log of a service with {PROGRAM} logs NAME.",
) -> None:
    """Check every server and client concurrently, and print each failure at once.

    Args:
        phases: Where to show the progress.
        folder: The checkout folder of the local cloud.
        servers: The stack's output `servers`.
        clients: The stack's output `clients`.
        call: The server, tool and arguments of a tool to call. Default: only tools that declare themselves read-only.
        seconds: The time limit of one check. None: the default of `mcpfleet verify`.
        next_step: The next step after failed checks.

    Raises:
        SetupError: Checks failed; the message lists each of them.
    """
    with phases.phase("Verify") as step:
        try:
            callers = read_callers(folder)
            outputs = {"servers": servers, "clients": clients or {}}
            deployed_servers = read_servers(outputs, "the stack")
            deployed_clients = read_clients(outputs, "the stack")
        except McpfleetError as error:
            raise SetupError(
                str(error), f"run {PROGRAM} up: the local cloud writes its credential files again."
            ) from None
        targets = [
            (service, select_callers(callers, service.invokers))
            for service in (*deployed_servers.values(), *deployed_clients.values())
        ]
        reports = asyncio.run(
            _check_all(folder, targets, parse_balancer_addresses(AdminClient(folder).inventory()), call, seconds, step)
        )
        failed = [f"{report.server}: {line}" for report in reports for line in report.failed]
        if failed:
            raise SetupError(
                "These checks of the deployed services failed:\n  " + "\n  ".join(failed),
                next_step,
            )
        scope = f"{len(deployed_servers)} server{'s'[: len(deployed_servers) - 1]}" + (
            f" and {len(deployed_clients)} client{'s'[: len(deployed_clients) - 1]}" if deployed_clients else ""
        )
        step.note(f"{sum(len(report.passed) for report in reports)} checks of {scope} passed")
    for report in reports:
        for line in (*report.warned, *report.unasked):
            step.print_lines(inert(f"{report.server}: {line}"))


async def _check_all(
    folder: CloudFolder,
    targets: Sequence[tuple[DeployedServer | DeployedClient, Callers]],
    balancers: Mapping[str, tuple[str, int]],
    call: tuple[str, tuple[str, Mapping[str, Any]]] | None,
    seconds: float | None,
    step: Step,
) -> list[Report]:
    """Check every service concurrently; a service behind a domain is called through its load balancer."""

    async def check_one(service: DeployedServer | DeployedClient, callers: Callers) -> Report:
        options = CheckOptions(
            call=call[1] if call is not None and call[0] == service.name else ANY_TOOL, seconds=seconds
        )
        report = await check(
            service,
            callers,
            options,
            transport=DomainTransport(folder, balancers) if _has_balancer(service, balancers) else None,
        )
        for line in report.failed:
            step.print_lines(inert(f"{report.server}: {line}"))
        return report

    return await asyncio.gather(*(check_one(target, target_callers) for target, target_callers in targets))


def _has_balancer(service: DeployedServer | DeployedClient, balancers: Container[str]) -> bool:
    return service.target.bare_host in balancers

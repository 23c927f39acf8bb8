"""Verifies the stack of this checkout: `mcpfleet.verify`'s checks, by the people of the local cloud.

All that was deployed is asked: servers, by their domains where they have one, and clients, through which each server
that they are given has to answer, over HTTPS, beside them, or by its name in the mesh.
"""

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcpfleet.errors import McpfleetError
from mcpfleet.inert import inert
from mcpfleet.stack import DeployedClient, DeployedServer, clients_of, servers_of
from mcpfleet.token_sources import TokenSource, source_from_file
from mcpfleet.verify import ANY_TOOL, Callers, CheckOptions, Report, check
from mcpfleet_local_cloud.commands.admin import Admin
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.domains import DomainTransport, addresses
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, Step

_NAMES: Final = ("ada", "bob", "deployer")
_DOMAIN: Final = "mcpfleet.test"


def people_of(place: CloudFolder) -> Callers:
    """Those whose credential files the local cloud wrote."""
    ada, bob, deployer = (source_from_file(place.credentials / f"{name}.json") for name in _NAMES)
    return Callers(invoker=ada, stranger=bob, elsewhere=deployer)


def callers_of(people: Callers, invokers: Container[str]) -> Callers:
    """The same people as a fleet's *invokers* make them: it may name another, both, or nobody."""
    everybody = f"domain:{_DOMAIN}" in invokers
    may: list[TokenSource] = []
    may_not: list[TokenSource] = []
    for name, source in zip(_NAMES, (people.invoker, people.stranger), strict=False):
        if source is not None:
            (may if everybody or f"user:{name}@{_DOMAIN}" in invokers else may_not).append(source)
    return replace(people, invoker=next(iter(may), None), stranger=next(iter(may_not), None))


def verify(
    phases: Phases,
    place: CloudFolder,
    servers: Mapping[str, Mapping[str, Any]],
    clients: Mapping[str, Mapping[str, Any]] | None = None,
    call: tuple[str, tuple[str, Mapping[str, Any]]] | None = None,
    seconds: float | None = None,
) -> None:
    """Check every server of *servers* and client of *clients* (the stack's outputs of these names), side by side.

    What fails is said as soon as it is known.

    Args:
        phases: Where to show it.
        place: Where the local cloud lives.
        servers: The servers.
        clients: The clients.
        call: A server's tool to call, and its arguments; without it those that say that they only read.
        seconds: How long one check may take; None for what `mcpfleet verify` takes by itself.

    Raises:
        SetupError: with each check that failed.
    """
    with phases.phase("Verify") as step:
        try:
            people = people_of(place)
            outputs = {"servers": servers, "clients": clients or {}}
            found = servers_of(outputs, "the stack")
            callers = clients_of(outputs, "the stack")
        except McpfleetError as error:
            raise SetupError(
                str(error), f"run {PROGRAM} up: the local cloud writes its credential files anew."
            ) from None
        asked = [(one, callers_of(people, one.invokers)) for one in (*found.values(), *callers.values())]
        reports = asyncio.run(_checked(place, asked, addresses(Admin(place).inventory()), call, seconds, step))
        failed = [f"{report.server}: {line}" for report in reports for line in report.failed]
        if failed:
            raise SetupError(
                "What is deployed does not behave as it must:\n  " + "\n  ".join(failed),
                f"read its log with {PROGRAM} logs NAME.",
            )
        of = f"{len(found)} servers" + (f" and {len(callers)} client{'s'[: len(callers) - 1]}" if callers else "")
        step.note(f"{sum(len(report.passed) for report in reports)} checks of {of} passed")
    for report in reports:
        for line in (*report.warned, *report.unasked):
            step.say(inert(f"{report.server}: {line}"))


async def _checked(
    place: CloudFolder,
    asked: Sequence[tuple[DeployedServer | DeployedClient, Callers]],
    balanced: Mapping[str, tuple[str, int]],
    call: tuple[str, tuple[str, Mapping[str, Any]]] | None,
    seconds: float | None,
    step: Step,
) -> list[Report]:
    """Check every service side by side; one that is behind a domain by way of its load balancer."""

    async def checked(one: DeployedServer | DeployedClient, who: Callers) -> Report:
        wishes = CheckOptions(call=call[1] if call is not None and call[0] == one.name else ANY_TOOL, seconds=seconds)
        report = await check(
            one, who, wishes, transport=DomainTransport(place, balanced) if _behind(one, balanced) else None
        )
        for line in report.failed:
            step.say(inert(f"{report.server}: {line}"))
        return report

    return await asyncio.gather(*(checked(one, who) for one, who in asked))


def _behind(service: DeployedServer | DeployedClient, balanced: Container[str]) -> bool:
    return service.target.bare_host in balanced

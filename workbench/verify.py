"""Verifies the stack of this checkout: `mcpfleet.verify`'s checks, by the people of the local cloud."""

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcpfleet.errors import McpfleetError
from mcpfleet.sources import TokenSource, source_from_file
from mcpfleet.stack import Server, servers_of
from mcpfleet.verify import ANY_TOOL, Callers, Report, Wishes, check
from workbench.admin import Admin
from workbench.background import Place
from workbench.domains import DomainTransport, addresses
from workbench.phases import Phases, SetupError

_NAMES: Final = ("ada", "bob", "deployer")
_DOMAIN: Final = "mcpfleet.test"


def people_of(place: Place) -> Callers:
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


def verify(phases: Phases, place: Place, servers: Mapping[str, Mapping[str, Any]]) -> None:
    """Check every server of *servers* (the stack's output of that name), side by side.

    Raises:
        SetupError: with each check that failed.
    """
    with phases.phase("Verify") as step:
        try:
            people = people_of(place)
            found = servers_of({"servers": servers}, "the stack")
        except McpfleetError as error:
            raise SetupError(str(error), "run ./dev up: the local cloud writes its credential files anew.") from None
        callers = [(one, callers_of(people, one.invokers)) for one in found.values()]
        balanced = addresses(Admin(place).inventory())
        reports = asyncio.run(_checked(place, callers, balanced))
        failed = [f"{report.server}: {line}" for report in reports for line in report.failed]
        if failed:
            raise SetupError(
                "What is deployed does not behave as it must:\n  " + "\n  ".join(failed),
                "read the server's log with ./dev logs SERVER.",
            )
        step.note(f"{sum(len(report.passed) for report in reports)} checks of {len(reports)} servers passed")


async def _checked(
    place: Place, callers: Sequence[tuple[Server, Callers]], balanced: Mapping[str, tuple[str, int]]
) -> list[Report]:
    """Check every server side by side; one that is behind a domain by way of its load balancer."""
    wishes = Wishes(call=ANY_TOOL)
    return await asyncio.gather(
        *(
            check(one, who, wishes, transport=DomainTransport(place, balanced) if _behind(one, balanced) else None)
            for one, who in callers
        )
    )


def _behind(server: Server, balanced: Container[str]) -> bool:
    return server.target.bare_host in balanced

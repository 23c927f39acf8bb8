"""Round every message, whatever transport it came by: limits, one log line for each tool call, an orderly end.

A middleware of the SDK (`mcp.server.context.ServerMiddleware`), so it stands inside the protocol: what it refuses is
refused by a JSON-RPC error with the request's own id.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST, REQUEST_TIMEOUT

from mcpfleet_server.caller import current_caller
from mcpfleet_server.hosting.drain import SHUTTING_DOWN, Drain

# The name is that of the lines' subject: a filter on `mcp_server.calls` finds them and nothing else.
logger = logging.getLogger("mcp_server.calls")

CallNext = Callable[[Any], Awaitable[Any]]

_MAX_NAME: Final = 128

UNKNOWN: Final = "?"
"""What every tool that is not there is called."""

_MOST: Final = 10_000


class CallMiddleware:
    """The middleware; one for each server."""

    def __init__(
        self,
        drain: Drain,
        *,
        concurrency: Mapping[str, int],
        timeout: Mapping[str, float],
        sessions: bool,
        tools: "Tools",
        missing_scopes: Callable[[object], frozenset[str]] | None = None,
        observe: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """Set the limits.

        Args:
            drain: What knows of the calls that run.
            concurrency: By tool, or `*` for each tool not named: the most calls at once. Further ones wait.
            timeout: By tool, or `*`: the seconds that one call may take, waiting included.
            sessions: Whether messages may come through the SDK's sessions, which no `Exchange` looks after.
            tools: Knows which there are. All that are not share one place: names come from callers, who could make
                up new ones to get round a limit, or to fill memory and metrics.
            missing_scopes: Gives the scopes that the caller lacks for a tool.
            observe: Is told the tool, the outcome and the seconds of each call.
        """
        self._drain = drain
        self._concurrency = concurrency
        self._timeout = timeout
        self._sessions = sessions
        self._tools = tools
        self._missing_scopes = missing_scopes
        self._observe = observe
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, ctx: Any, call_next: CallNext) -> Any:
        """Pass one message on."""
        if ctx.method == "tools/call":
            return await self._tool(ctx, call_next)
        listens = ctx.method == "subscriptions/listen"
        work = call_next(ctx)
        result = await (
            self._until_the_end(work) if self._sessions and ctx.request_id is not None and not listens else work
        )
        if ctx.method == "tools/list":
            self._tools.listed(result)
        return result

    async def _tool(self, ctx: Any, call_next: CallNext) -> Any:
        name = ctx.params.get("name") if ctx.params else None
        tool = self._tools.name(name)
        began = time.perf_counter()
        outcome = "cancelled"
        try:
            result = await self._limited(tool, name, ctx, call_next)
            outcome = "error" if _failed(result) else "ok"
            if outcome == "ok" and tool == UNKNOWN:
                self._tools.answered(name)
            return result
        except MCPError as error:
            outcome = f"refused ({error.error.code})"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            seconds = time.perf_counter() - began
            if self._observe is not None:
                self._observe(tool, outcome, seconds)
            if logger.isEnabledFor(logging.INFO):
                _log(tool, name, outcome, seconds, ctx.protocol_version)

    async def _limited(self, tool: str, name: object, ctx: Any, call_next: CallNext) -> Any:
        if self._missing_scopes is not None and (missing := self._missing_scopes(name)):
            # An exchange has answered 403 already; this is for messages of a session.
            raise MCPError(INVALID_REQUEST, f"Missing scope: {' '.join(sorted(missing))}")
        seconds = self._timeout.get(tool, self._timeout.get("*"))
        slots = self._slots_of(tool)
        if slots is None and seconds is None and not self._sessions:
            return await call_next(ctx)
        work = call_next(ctx) if slots is None else _in_turn(slots, call_next, ctx)
        return await self._until_the_end(work, tool, seconds)

    async def _until_the_end(self, work: Awaitable[Any], tool: str = "", seconds: float | None = None) -> Any:
        """Await the work, but no longer than its time or the process's.

        It runs in a task of its own: a function in a thread can't be cancelled, and its caller is to be answered all
        the same. Such a function keeps its slot until it returns, which is why the task is stopped through a scope:
        a plain cancellation would leave the thread behind.
        """
        scope = anyio.CancelScope()

        async def scoped() -> Any:
            with scope:
                return await work

        task = asyncio.ensure_future(scoped())
        over = asyncio.ensure_future(self._drain.over.wait()) if self._sessions else None
        waits: set[asyncio.Future[Any]] = {task} if over is None else {task, over}
        self._drain.begin_work()
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                return task.result()
            if done:
                raise MCPError.from_error_data(SHUTTING_DOWN)
            raise MCPError(
                REQUEST_TIMEOUT,
                f"Tool {tool} took longer than {seconds:g} s and was stopped",
                {"tool": tool, "seconds": seconds},
            )
        finally:
            self._drain.end_work()
            if over is not None:
                over.cancel()
            scope.cancel()
            task.add_done_callback(_heard)

    def _slots_of(self, tool: str) -> asyncio.Semaphore | None:
        if not self._concurrency:
            return None
        limit = self._concurrency.get(tool, self._concurrency.get("*"))
        if limit is None:
            return None
        slots = self._slots.get(tool)
        if slots is None:
            slots = self._slots[tool] = asyncio.Semaphore(limit)
        return slots


async def _in_turn(slots: asyncio.Semaphore, call_next: CallNext, ctx: Any) -> Any:
    async with slots:
        return await call_next(ctx)


def _heard(task: asyncio.Future[Any]) -> None:
    # Nobody waits for it any more; without this the loop would complain of an exception never retrieved.
    if not task.cancelled():
        task.exception()


def _failed(result: Any) -> bool:
    # By now the kernel has made a dict of it; a middleware of the user's may have put a model in its place.
    return bool(result.get("isError") if isinstance(result, dict) else getattr(result, "is_error", False))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _log(tool: str, called: object, outcome: str, seconds: float, protocol: str) -> None:
    caller = current_caller()
    fields: dict[str, object] = {
        "tool": tool,
        "outcome": outcome,
        "milliseconds": round(seconds * 1000, 3),
        "protocol": protocol,
    }
    if caller is not None:
        fields["caller"] = caller.name
    shown = tool if tool == called else repr(called)[:_MAX_NAME]
    logger.info("tools/call %s: %s", shown, outcome, extra={"fields": fields})


class Tools:
    """The names of a server's tools, for limits and for metrics: callers could make up thousands.

    Args:
        server: The low-level server. One that can be asked for a tool's schema is asked. Another one's tools are those
            that it has listed to clients; until it has, those that have answered.
        named: Those that the environment names, which are tools in any case.
    """

    def __init__(self, server: Any, named: Iterable[str] = ()) -> None:
        self._server = server
        self._known: set[str] = set(named)
        self._has_listed = False

    def name(self, given: object) -> str:
        """The tool's name, or `UNKNOWN` where there is no such tool."""
        if not isinstance(given, str):
            return UNKNOWN
        if given in self._known:
            return given
        lookup = self._server.get_tool_input_schema
        if lookup is None:
            return UNKNOWN
        try:
            known = lookup(given) is not None
        except Exception:  # the server's own code; the call itself will tell
            known = False
        return given if known else UNKNOWN

    def listed(self, result: object) -> None:
        """Take note of what the server has answered to `tools/list`."""
        if self._server.get_tool_input_schema is None:
            self._has_listed = True
            for tool in _list(_member(result, "tools")):
                self._learn(_member(tool, "name"))

    def answered(self, name: object) -> None:
        """Take note that a tool of this name has answered."""
        if self._server.get_tool_input_schema is None and not self._has_listed:
            self._learn(name)

    def _learn(self, name: object) -> None:
        if isinstance(name, str) and len(self._known) < _MOST:
            self._known.add(name)


def _member(value: object, name: str) -> object:
    # By the time it reaches a middleware, the kernel has made a dict of it; a middleware may have put a model there.
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else getattr(value, name, None)


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []

"""Middleware around every message, on every transport: limits, one log entry for each tool call, graceful shutdown.

It is a middleware of the SDK (`mcp.server.context.ServerMiddleware`), so it refuses a request with a JSON-RPC error
that has the request's ID.
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

# A logger of its own, so that a filter on `mcp_server.calls` finds exactly these entries.
logger = logging.getLogger("mcp_server.calls")

CallNext = Callable[[Any], Awaitable[Any]]

_MAX_LOGGED_NAME: Final = 128

UNKNOWN_TOOL: Final = "?"
"""The common name of all tools that do not exist."""

_MAX_TOOL_NAMES: Final = 10_000


class CallMiddleware:
    """Limits and logs the calls of one server."""

    def __init__(
        self,
        drain: Drain,
        *,
        concurrency: Mapping[str, int],
        timeout: Mapping[str, float],
        has_sessions: bool,
        tools: "ToolNames",
        missing_scopes: Callable[[object], frozenset[str]] | None = None,
        observe: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """Configure the limits.

        Args:
            drain: Tracks running calls.
            concurrency: Maximum number of concurrent calls by tool, or of each other tool (`*`). Further calls wait.
            timeout: Maximum seconds of a call by tool, or of each other tool (`*`), including the wait.
            has_sessions: Whether messages may come through the SDK's sessions, which bypass `McpEndpoint`.
            tools: The names of the tools. All other names share one limit: callers choose them, and could
                otherwise use new names to get around a limit or to fill memory and metrics.
            missing_scopes: Returns the scopes that the caller needs for a tool and does not have.
            observe: Called with the tool, the outcome and the seconds of each call.
        """
        self._drain = drain
        self._concurrency = concurrency
        self._timeout = timeout
        self._has_sessions = has_sessions
        self._tools = tools
        self._missing_scopes = missing_scopes
        self._observe = observe
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, ctx: Any, call_next: CallNext) -> Any:
        """Handle one message."""
        if ctx.method == "tools/call":
            return await self._call_tool(ctx, call_next)
        is_subscription = ctx.method == "subscriptions/listen"
        work = call_next(ctx)
        result = await (
            self._await_in_time(work)
            if self._has_sessions and ctx.request_id is not None and not is_subscription
            else work
        )
        if ctx.method == "tools/list":
            self._tools.record_list(result)
        return result

    async def _call_tool(self, ctx: Any, call_next: CallNext) -> Any:
        name = ctx.params.get("name") if ctx.params else None
        tool = self._tools.resolve(name)
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            result = await self._run_with_limits(tool, name, ctx, call_next)
            outcome = "error" if _is_error(result) else "ok"
            if outcome == "ok" and tool == UNKNOWN_TOOL:
                self._tools.record_answer(name)
            return result
        except MCPError as error:
            outcome = f"refused ({error.error.code})"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            seconds = time.perf_counter() - started
            if self._observe is not None:
                self._observe(tool, outcome, seconds)
            if logger.isEnabledFor(logging.INFO):
                _log_call(tool, name, outcome, seconds, ctx.protocol_version)

    async def _run_with_limits(self, tool: str, name: object, ctx: Any, call_next: CallNext) -> Any:
        if self._missing_scopes is not None and (missing := self._missing_scopes(name)):
            # Outside of sessions, `McpEndpoint` has answered 403 already.
            raise MCPError(INVALID_REQUEST, f"Missing scope: {' '.join(sorted(missing))}")
        seconds = self._timeout.get(tool, self._timeout.get("*"))
        slots = self._find_slots(tool)
        if slots is None and seconds is None and not self._has_sessions:
            return await call_next(ctx)
        work = call_next(ctx) if slots is None else _run_in_slot(slots, call_next, ctx)
        return await self._await_in_time(work, tool, seconds)

    async def _await_in_time(self, work: Awaitable[Any], tool: str = "", seconds: float | None = None) -> Any:
        """Await *work* until it is done, its time is up, or the process shuts down.

        The work runs in its own task, because a function in a thread can't be cancelled, but its caller must get a
        response anyway. Such a function keeps its slot until it returns. Therefore, the task is stopped through a
        scope: a plain cancellation would release the slot while the thread still runs.
        """
        scope = anyio.CancelScope()

        async def scoped() -> Any:
            with scope:
                return await work

        task = asyncio.ensure_future(scoped())
        time_up = asyncio.ensure_future(self._drain.time_up.wait()) if self._has_sessions else None
        futures: set[asyncio.Future[Any]] = {task} if time_up is None else {task, time_up}
        self._drain.begin_work()
        try:
            done, _ = await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
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
            if time_up is not None:
                time_up.cancel()
            scope.cancel()
            task.add_done_callback(_retrieve_exception)

    def _find_slots(self, tool: str) -> asyncio.Semaphore | None:
        if not self._concurrency:
            return None
        limit = self._concurrency.get(tool, self._concurrency.get("*"))
        if limit is None:
            return None
        slots = self._slots.get(tool)
        if slots is None:
            slots = self._slots[tool] = asyncio.Semaphore(limit)
        return slots


async def _run_in_slot(slots: asyncio.Semaphore, call_next: CallNext, ctx: Any) -> Any:
    async with slots:
        return await call_next(ctx)


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    # No one awaits the task any more. Otherwise, the loop would log that its exception was never retrieved.
    if not task.cancelled():
        task.exception()


def _is_error(result: Any) -> bool:
    # The kernel has turned the result into a dict, but a middleware of the user may have replaced it with a model.
    return bool(result.get("isError") if isinstance(result, dict) else getattr(result, "is_error", False))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _log_call(tool: str, requested_name: object, outcome: str, seconds: float, protocol_version: str) -> None:
    caller = current_caller()
    fields: dict[str, object] = {
        "tool": tool,
        "outcome": outcome,
        "milliseconds": round(seconds * 1000, 3),
        "protocol": protocol_version,
    }
    if caller is not None:
        fields["caller"] = caller.name
    label = tool if tool == requested_name else repr(requested_name)[:_MAX_LOGGED_NAME]
    logger.info("tools/call %s: %s", label, outcome, extra={"fields": fields})


class ToolNames:
    """The names of a server's tools, for limits and metrics: callers could make up thousands of other names.

    Args:
        server: The low-level server. If it can look up a tool's schema, that decides. Otherwise, its tools are those
            that it has listed to clients, or, before it has listed any, those whose calls have succeeded.
        configured: Names from the environment, which always count as tools.
    """

    def __init__(self, server: Any, configured: Iterable[str] = ()) -> None:
        self._server = server
        self._names: set[str] = set(configured)
        self._has_listed = False

    def resolve(self, requested: object) -> str:
        """Return the tool's name, or `UNKNOWN_TOOL` if there is no such tool."""
        if not isinstance(requested, str):
            return UNKNOWN_TOOL
        if requested in self._names:
            return requested
        lookup = self._server.get_tool_input_schema
        if lookup is None:
            return UNKNOWN_TOOL
        try:
            exists = lookup(requested) is not None
        except Exception:  # an error in the server's own code, which the call itself will report
            exists = False
        return requested if exists else UNKNOWN_TOOL

    def record_list(self, result: object) -> None:
        """Record the names in a result of `tools/list`."""
        if self._server.get_tool_input_schema is None:
            self._has_listed = True
            for tool in _as_list(_read_member(result, "tools")):
                self._add(_read_member(tool, "name"))

    def record_answer(self, name: object) -> None:
        """Record the name of a tool whose call has succeeded."""
        if self._server.get_tool_input_schema is None and not self._has_listed:
            self._add(name)

    def _add(self, name: object) -> None:
        if isinstance(name, str) and len(self._names) < _MAX_TOOL_NAMES:
            self._names.add(name)


def _read_member(value: object, name: str) -> object:
    # The kernel has turned the result into a dict, but another middleware may have replaced it with a model.
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else getattr(value, name, None)


def _as_list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []

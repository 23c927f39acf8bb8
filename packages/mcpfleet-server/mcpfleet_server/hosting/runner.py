"""The process: environment, logs, listening, SIGTERM, and one process for each CPU."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pydantic_core

from mcpfleet_server.environment import begin
from mcpfleet_server.hosting.settings import Settings, load_settings

if TYPE_CHECKING:
    from mcpfleet_server.hosting.application import Application

logger = logging.getLogger(__name__)

# More than DRAIN_SECONDS, so that calls get our answer before uvicorn cancels; less than Cloud Run's 10.
_GRACEFUL_SECONDS: Final = 9

_CGROUP: Final = Path("/sys/fs/cgroup")

Server = Any
"""An `MCPServer`, a low-level `Server` or a `FastMCP`."""


def serve(server: Server | Callable[[Settings], Server], settings: Settings | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what runs, and return.

    Args:
        server: A server, or a function that makes it from the settings. With a function a mistake in the environment is
            told before the server is built.
        settings: What the environment says; read here if it isn't given.

    Returns:
        The exit code: 0 after an orderly stop, 2 for a mistake in the environment.
    """
    # Import and construction make a million objects that stay: the collector would walk them again and again.
    gc.disable()
    # As process 1 we would not end by a signal at all before there is a handler for it.
    signal.signal(signal.SIGTERM, _leave)
    given = settings
    settings = begin(load_settings if given is None else lambda: given, "mcp_server", to_json)
    if settings is None:
        return 2
    warn_of(settings)
    from mcpfleet_server.hosting.lazy_import import import_the_sdk, keys_used_on_demand, models_built_on_demand

    import_the_sdk()
    from mcpfleet_server.hosting.application import build_app

    # What was imported up to here lives for ever: the collector need not walk it again (p99 52 -> 16 ms), and what is
    # never touched stays shared between the processes. There is next to no garbage in it, so it isn't walked even once.
    gc.freeze()
    with models_built_on_demand(), keys_used_on_demand():
        made = server(settings) if callable(server) and not hasattr(server, "middleware") else server
        app = build_app(made, settings)
    listener = _listen(settings.port)
    workers = settings.workers or (1 if settings.sessions else whole_cpus())
    gc.collect()
    gc.freeze()
    gc.enable()
    if workers > 1:
        return supervise(workers, lambda: _run(app, settings, listener))
    return _run(app, settings, listener)


def to_json(entry: Any) -> str:
    """Write a log entry in half the time that the standard library takes: there is one for each call."""
    return pydantic_core.to_json(entry, inf_nan_mode="strings", fallback=repr, ensure_ascii=True).decode()


def warn_of(settings: Settings) -> None:
    """Say what is allowed but can hardly be meant."""
    if settings.service and not settings.accepted_hosts:
        logger.warning(
            "MCP_ALLOWED_HOSTS is empty: every request to %s by its URL will be answered 421", settings.service
        )
    if settings.service and settings.request_state_key is None and settings.stateless:
        logger.info(
            "MCP_REQUEST_STATE_KEY is not set: a call that asks the client for input (2026-07-28) has to end at the "
            "instance where it began"
        )


def _listen(port: int) -> socket.socket:
    # Cloud Run's contract: not loopback. Both families where there are two.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    return socket.create_server(
        ("", port), family=family, backlog=2048, reuse_port=False, dualstack_ipv6=family == socket.AF_INET6
    )


def uvicorn_config(app: "Application", settings: Settings) -> Any:
    """How uvicorn is to serve."""
    from mcpfleet_server.connection import config

    # Google's front end keeps connections for minutes; one that we close first costs a request.
    return config(app, settings.forwarded_allow_ips, _GRACEFUL_SECONDS, timeout_keep_alive=620)


def _run(app: "Application", settings: Settings, listener: socket.socket) -> int:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn, which tells the application when the end begins."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            if not app.drain.ending:
                app.drain.begin()
                loop.call_soon_threadsafe(lambda: ends.append(loop.create_task(app.drain.end())))

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            nonlocal loop
            import asyncio

            loop = asyncio.get_running_loop()
            await super().serve(sockets)

    loop: Any = None
    ends: list[Any] = []
    config = uvicorn_config(app, settings)
    # sse-starlette cancels open event streams at SIGTERM, which would cut a call before its result.
    from sse_starlette.sse import AppStatus

    AppStatus.disable_automatic_graceful_drain()
    try:
        Server(config).run([listener])
    except SystemExit as stop:
        return _end(stop.code if isinstance(stop.code, int) else 1)
    return _end(0)


def _end(code: int) -> int:
    """Leave at once if a tool's thread would hold the process until it is killed."""
    left = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    if left:
        logger.warning("%d tools still run in threads; they end with the process", len(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


# --- one process for each CPU: forked after everything was built, accepting from one socket -------------------


def supervise(count: int, run: Callable[[], int]) -> int:
    """Run *run* in *count* processes until all have ended.

    SIGTERM and SIGINT go to each of them. If one ends by itself, the others are asked to end too and the exit code
    says so: Cloud Run then starts a new instance, which is cleaner than a process mended half.

    Returns:
        0 if all ended in order, else the first other exit code.
    """
    children: set[int] = set()
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for child in children:
            os.kill(child, signum)

    for _ in range(count):
        child = os.fork()
        if child == 0:
            # Flushed and ended here: what the parent has registered for its own end is not ours.
            code = 1
            try:
                code = run()
            finally:
                logging.shutdown()
                os._exit(code)
        children.add(child)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, ask)
    logger.info("%d processes serve", count)
    worst = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 or not asked:
            worst = worst or code or 1
            if not asked:
                logger.error("A serving process ended by itself (%d); the others are asked to end", code)
                ask(signal.SIGTERM, None)
    return abs(worst)


def whole_cpus(cgroup: Path = _CGROUP, runnable: int | None = None) -> int:
    """The whole CPUs that this process may use; 1 if it is less than one.

    Args:
        cgroup: Where the kernel shows the container's limits (both of its versions are read).
        runnable: How many CPUs the process may run on; asked of the kernel if it isn't given.
    """
    runnable = len(os.sched_getaffinity(0)) if runnable is None else runnable
    quota = _quota(cgroup)
    return max(1, runnable if quota is None else min(runnable, int(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    if not (limit.isdecimal() and period.isdecimal()):
        return None  # "max" and -1 are no limit
    return int(limit) / max(1, int(period))

"""Runs a hosted server: environment, logging, listening, shutdown, and one process for each CPU."""

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

from mcpfleet_server.environment import initialize
from mcpfleet_server.hosting.settings import Settings, load_settings

if TYPE_CHECKING:
    from mcpfleet_server.hosting.application import Application

logger = logging.getLogger(__name__)

# More than DRAIN_SECONDS, so that calls get an error before uvicorn cancels them; less than Cloud Run's 10.
_GRACEFUL_SECONDS: Final = 9

_CGROUP: Final = Path("/sys/fs/cgroup")

HostableServer = Any
"""An `MCPServer`, a low-level `Server` or a `FastMCP`."""


def serve(server: HostableServer | Callable[[Settings], HostableServer], settings: Settings | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then shut down gracefully and return.

    Args:
        server: A server, or a function that creates it from the settings. With a function, mistakes in the environment
            are reported before the server is created.
        settings: The settings; read from the environment by default.

    Returns:
        The exit code: 0 after a graceful shutdown, 2 for a mistake in the environment.
    """
    # Imports and construction create a million permanent objects, which the collector would scan again and again.
    gc.disable()
    # Process 1 ignores signals that have no handler.
    signal.signal(signal.SIGTERM, _exit)
    provided = settings
    settings = initialize(load_settings if provided is None else lambda: provided, "mcp_server", to_json)
    if settings is None:
        return 2
    log_warnings(settings)
    from mcpfleet_server.hosting.lazy_import import defer_models, defer_state_keys, import_sdk

    import_sdk()
    from mcpfleet_server.hosting.application import build_app

    # Objects imported so far live forever. Frozen, the collector does not scan them (p99 52 -> 16 ms), and untouched
    # pages stay shared between the processes. They contain almost no garbage, so there is no collection before.
    gc.freeze()
    with defer_models(), defer_state_keys():
        instance = server(settings) if callable(server) and not hasattr(server, "middleware") else server
        app = build_app(instance, settings)
    listener = _listen(settings.port)
    workers = settings.workers or (1 if settings.has_sessions else count_cpus())
    gc.collect()
    gc.freeze()
    gc.enable()
    if workers > 1:
        return supervise(workers, lambda: _run(app, settings, listener))
    return _run(app, settings, listener)


def to_json(entry: Any) -> str:
    """Encode a log entry as JSON in half the time of the standard library; each call has an entry."""
    return pydantic_core.to_json(entry, inf_nan_mode="strings", fallback=repr, ensure_ascii=True).decode()


def log_warnings(settings: Settings) -> None:
    """Log settings that are valid but probably unintended."""
    if settings.service and not settings.accepted_hosts:
        logger.warning(
            "MCP_ALLOWED_HOSTS is empty, so every request to the URL of %s gets 421; set it to the service's host",
            settings.service,
        )
    if settings.service and settings.request_state_key is None and settings.stateless:
        logger.info(
            "MCP_REQUEST_STATE_KEY is not set: a call that asks the client for input (2026-07-28) must finish at the "
            "instance where it started"
        )


def _listen(port: int) -> socket.socket:
    # Cloud Run's contract forbids loopback. Listens on IPv4 and IPv6 where both are available.
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    return socket.create_server(
        ("", port), family=family, backlog=2048, reuse_port=False, dualstack_ipv6=family == socket.AF_INET6
    )


def uvicorn_config(app: "Application", settings: Settings) -> Any:
    """Return uvicorn's configuration for an application."""
    from mcpfleet_server.connection import create_uvicorn_config

    # Google's front end keeps connections open for minutes. Closing one earlier would fail a request.
    return create_uvicorn_config(app, settings.forwarded_allow_ips, _GRACEFUL_SECONDS, timeout_keep_alive=620)


def _run(app: "Application", settings: Settings, listener: socket.socket) -> int:
    import uvicorn

    class DrainingServer(uvicorn.Server):
        """A uvicorn server that starts the application's shutdown at the first signal."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            if not app.drain.is_ending:
                app.drain.begin()
                loop.call_soon_threadsafe(lambda: end_tasks.append(loop.create_task(app.drain.end())))

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            nonlocal loop
            import asyncio

            loop = asyncio.get_running_loop()
            await super().serve(sockets)

    loop: Any = None
    end_tasks: list[Any] = []
    config = uvicorn_config(app, settings)
    # sse-starlette would cancel open event streams at SIGTERM, before their calls have a result.
    from sse_starlette.sse import AppStatus

    AppStatus.disable_automatic_graceful_drain()
    try:
        DrainingServer(config).run([listener])
    except SystemExit as stop:
        return _finish(stop.code if isinstance(stop.code, int) else 1)
    return _finish(0)


def _finish(code: int) -> int:
    """Return the exit code, or exit at once if a tool's thread would keep the process alive until it is killed."""
    threads = [
        thread for thread in threading.enumerate() if thread is not threading.current_thread() and not thread.daemon
    ]
    if threads:
        logger.warning("%d tools still run in threads; the process exits anyway", len(threads))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


# --- one process for each CPU, forked after everything is built; all accept from one socket --------------------


def supervise(count: int, run: Callable[[], int]) -> int:
    """Run *run* in *count* processes until all have exited.

    SIGTERM and SIGINT are forwarded to each of them. If one exits by itself, the others are stopped, too, so that Cloud
    Run starts a new instance. This is more reliable than restarting a single process.

    Returns:
        0 if all exited gracefully, otherwise the first other exit code.
    """
    children: set[int] = set()
    is_stopping = False

    def forward_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        for child in children:
            os.kill(child, signum)

    for _ in range(count):
        child = os.fork()
        if child == 0:
            # `os._exit` skips the exit handlers, which belong to the parent.
            code = 1
            try:
                code = run()
            finally:
                logging.shutdown()
                os._exit(code)
        children.add(child)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward_signal)
    logger.info("Serving with %d processes", count)
    exit_code = 0
    while children:
        child, status = os.wait()
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 or not is_stopping:
            exit_code = exit_code or code or 1
            if not is_stopping:
                logger.error("A process exited unexpectedly with code %d; stopping the others", code)
                forward_signal(signal.SIGTERM, None)
    return abs(exit_code)


def count_cpus(cgroup: Path = _CGROUP, runnable: int | None = None) -> int:
    """Return the number of whole CPUs that this process may use; at least 1.

    Args:
        cgroup: The cgroup file system with the container's limits (version 1 or 2).
        runnable: The number of CPUs that the process may run on; read from the kernel by default.
    """
    runnable = len(os.sched_getaffinity(0)) if runnable is None else runnable
    quota = _read_cpu_quota(cgroup)
    return max(1, runnable if quota is None else min(runnable, int(quota)))


def _read_cpu_quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    if not (limit.isdecimal() and period.isdecimal()):
        return None  # "max" and -1 mean no limit
    return int(limit) / max(1, int(period))

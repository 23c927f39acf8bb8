"""Serves one local cloud until a signal stops it: the socket, the signals, the lock, the file `cloud.json`."""

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvicorn

from mcpfleet_local_cloud.app import create_app, create_registry, create_storage
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.data_plane.contract import OpenError
from mcpfleet_local_cloud.network.http_protocol import FrontEndProtocol
from mcpfleet_local_cloud.state.folder import Settings, State

# A stop takes under five seconds: open requests have this many seconds to finish; containers keep running.
_SHUTDOWN_SECONDS: Final = 2
_MAX_OPEN_FILES: Final = 16384
"""The gateway forwards at most 2,048 connections of containers, and each may need a connection to an instance."""
_log = logging.getLogger(__name__)


class StartError(Exception):
    """The cloud cannot be served: the message gives the cause, and *next_step* tells the user what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


def serve(settings: Settings, credentials: Path | None, announce: Callable[[str], None]) -> None:
    """Serve the cloud with *settings* until SIGTERM or SIGINT; *announce* receives one line when it is ready.

    Raises:
        StartError: the port is taken, or Docker cannot be reached.
        StateLockedError: another process serves this state.
    """
    state = State(settings.state)
    raise_open_files_limit()
    with (
        state.lock(),
        contextlib.closing(_listen(settings)) as listener,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(settings, credentials, listener, announce))


async def _serve(
    settings: Settings, credentials: Path | None, listener: socket.socket, announce: Callable[[str], None]
) -> None:
    cloud = Cloud(settings, credentials=credentials)
    server = _Server(_config(cloud))
    main = asyncio.current_task()
    loop = asyncio.get_running_loop()
    starting = True

    def stop() -> None:
        server.should_exit = True
        if starting and main is not None:
            main.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="control-plane")
    try:
        await _wait_until_started(server, serving)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        await cloud.start(
            create_registry(cloud), create_storage(cloud), on_opened=lambda: cloud.state.announce(settings, started_at)
        )
        starting = False
        announce(f"local cloud {cloud.state.cloud_id} is ready at {settings.url} (project {settings.project})")
        await serving
    except OpenError as refusal:
        raise StartError(str(refusal), refusal.next_step) from refusal
    except asyncio.CancelledError:
        _log.info("stopped while starting")
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        await cloud.stop()
        cloud.state.withdraw()


async def _wait_until_started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    # The socket listens already, so that no connection is lost; uvicorn accepts within one or two turns of the loop.
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has only a flag for it
        await asyncio.sleep(0.005)


def raise_open_files_limit() -> None:
    """Raise the limit of open files to what the gateway's connections need: the usual limit of a login is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(_MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as refusal:  # macOS has a second, lower limit
            _log.warning("cannot raise the limit of %d open files: %s", soft, refusal)


def _listen(settings: Settings) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Connections of an earlier process that are still closing must not block its port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as refusal:
        listener.close()
        raise StartError(
            f"Cannot listen on port {settings.port} of {settings.host}: {refusal.strerror}.",
            f"find the program that uses it with `ss -ltnp 'sport = :{settings.port}'`, or choose another --port.",
        ) from refusal
    listener.setblocking(False)
    return listener


def _config(cloud: Cloud) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(cloud),
        http=FrontEndProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to `_serve`, which has more to stop than uvicorn."""
        yield

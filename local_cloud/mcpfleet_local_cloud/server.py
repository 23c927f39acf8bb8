"""Serves one local cloud until it is told to stop: the socket, the signals, the lock, the announcement."""

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

from mcpfleet_local_cloud.app import create_app, create_registry
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.data_plane.contract import OpenError
from mcpfleet_local_cloud.network.http_protocol import FrontProtocol
from mcpfleet_local_cloud.state.folder import Settings, State

# A stop takes under five seconds: open requests get this long, the containers are left alone.
_GRACE: Final = 2
_OPEN_FILES: Final = 16384
"""The gateway passes at most 2,048 connections of containers on, and to each a connection to an instance may belong."""
_log = logging.getLogger(__name__)


class StartError(Exception):
    """The cloud cannot be served; the text says why, *next_step* what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


def serve(settings: Settings, credentials: Path | None, announce: Callable[[str], None]) -> None:
    """Serve the cloud at *settings* until SIGTERM or SIGINT; *announce* gets one line once it is ready.

    Raises:
        StartError: the port is taken, or Docker cannot be reached.
        StateLockedError: another process serves this state.
    """
    state = State(settings.state)
    allow_open_files()
    with (
        state.locked(),
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
        await _started(server, serving)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        await cloud.start(create_registry(cloud), lambda: cloud.state.announce(settings, began))
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


async def _started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    # The socket listens already, so that nothing is lost; uvicorn accepts within one turn or two of the loop.
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells it by a flag only
        await asyncio.sleep(0.005)


def allow_open_files() -> None:
    """Let this process have as many connections as the gateway lets in: 1,024 files are the usual limit of a login."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as refusal:  # macOS has a second, lower limit
            _log.warning("no more than %d files can be open at once: %s", soft, refusal)


def _listen(settings: Settings) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Connections of an earlier process that are still closing do not keep us from its port.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as refusal:
        listener.close()
        raise StartError(
            f"Port {settings.port} on {settings.host} cannot be used: {refusal.strerror}.",
            f"see what has it with `ss -ltnp 'sport = :{settings.port}'`, or give another --port.",
        ) from refusal
    listener.setblocking(False)
    return listener


def _config(cloud: Cloud) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(cloud),
        http=FrontProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE,
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
        """Leave the signals to `_serve`, which has more to end than uvicorn."""
        yield

"""Puts the parts together, and runs them as an HTTP server."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import uvicorn

from mcpfleet_login.authorization_server import CALLBACK_PATH, AuthorizationServer
from mcpfleet_login.clients import Clients
from mcpfleet_login.cloud_storage import CloudStorage, MetadataToken
from mcpfleet_login.documents import ClientDocuments, Fetch, PublicNetwork, create_fetch
from mcpfleet_login.families import Families
from mcpfleet_login.gate import Gate
from mcpfleet_login.issuer import Issuer
from mcpfleet_login.sealing import Sealer
from mcpfleet_login.settings import Settings
from mcpfleet_login.store import Store
from mcpfleet_server.connection import create_uvicorn_config

_DRAIN_SECONDS: Final = 9
"""How long calls in flight may still run after SIGTERM; Cloud Run kills the container after 10 seconds."""

_IDLE_SECONDS: Final = 4.0
"""How long a connection to the application is kept: less than the 5 s after which uvicorn and Node close theirs."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The time.

    Attributes:
        epoch: Returns seconds since the epoch.
        monotonic: Returns the seconds of a clock that never goes back.
    """

    epoch: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Outside:
    """What the program talks to.

    Attributes:
        issuer: Sends requests to the issuer.
        store: The records of logins.
        application: Sends requests to the application.
        fetch_document: Fetches client ID metadata documents.
    """

    issuer: httpx2.AsyncClient
    store: Store
    application: httpx2.AsyncBaseTransport
    fetch_document: Fetch


def connect(settings: Settings) -> Outside:
    """Return the real ones."""
    timeout = httpx2.Timeout(5.0)
    storage = httpx2.AsyncClient(timeout=timeout, follow_redirects=False)
    return Outside(
        issuer=httpx2.AsyncClient(timeout=timeout, follow_redirects=False),
        store=CloudStorage(settings.bucket, "", storage, MetadataToken(storage)),
        application=httpx2.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_SECONDS),
        ),
        fetch_document=create_fetch(PublicNetwork()),
    )


def create_gate(settings: Settings, outside: Outside, clock: Clock | None = None) -> Gate:
    """Return the ASGI application.

    Args:
        settings: The settings.
        outside: What it talks to.
        clock: The time; by default the system's.
    """
    clock = clock or Clock()
    sealer = Sealer(settings.keys, settings.resource, clock.epoch)
    clients = Clients(
        sealer,
        ClientDocuments(outside.fetch_document, clock.monotonic),
        registration=settings.registration,
        clock=clock.epoch,
    )
    issuer = Issuer(
        settings.issuer,
        settings.client_id,
        settings.client_secret.get_secret_value(),
        f"{settings.base_url}{CALLBACK_PATH}",
        outside.issuer,
        clock.epoch,
        clock.monotonic,
    )
    server = AuthorizationServer(
        settings.base_url,
        settings.resource,
        sealer=sealer,
        clients=clients,
        families=Families(outside.store, sealer, clock.epoch),
        issuer=issuer,
        members=settings.members,
        registration=settings.registration,
    )
    return Gate(
        server.app,
        sealer,
        settings.base_url,
        settings.resource,
        f"http://127.0.0.1:{settings.application_port}",
        outside.application,
        settings.health_path,
        settings.allowed_origins,
    )


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then let calls in flight finish.

    Returns:
        The exit code: 0 after a graceful shutdown.
    """
    gate = create_gate(settings, connect(settings))
    # Cloud Run's contract forbids loopback.
    address: dict[str, Any] = {"host": "0.0.0.0", "port": settings.port, "backlog": 2048}  # noqa: S104
    config = create_uvicorn_config(
        gate, settings.forwarded_allow_ips, _DRAIN_SECONDS, timeout_keep_alive=620, date_header=False, **address
    )
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run()
    return 0

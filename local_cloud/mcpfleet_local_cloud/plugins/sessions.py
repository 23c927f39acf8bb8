"""Which engine is calling: its configuration and its Ctrl-C, kept apart from other engines'.

The real engine starts a plugin process per provider; one stand-in process serves them all. Every provider that an
engine attaches opens its own connection, so the connection tells them apart.
"""

import threading
from collections import OrderedDict
from typing import Any, Final

from pulumi.runtime.proto import engine_pb2

from mcpfleet_local_cloud.plugins.call import Call
from pulumi_mcpfleet.cloud_build.plugin import Engine

_KEPT: Final = 256  # connections remembered; an engine opens one per provider
_SEVERITIES: Final = {
    "status": engine_pb2.INFO,
    "info": engine_pb2.INFO,
    "warning": engine_pb2.WARNING,
    "error": engine_pb2.ERROR,
}


class Session:
    """One attached engine."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.config: Any = None
        self._engine: Engine | None = None

    def connect(self, engine_address: str) -> None:
        """Remember where the engine's log is."""
        self._engine = Engine(engine_address)

    def call(self, urn: str, timeout: float) -> Call:
        """The surroundings of one operation on the resource *urn*; *timeout* 0 means the usual 20 minutes."""

        def log(severity: str, message: str) -> None:
            if self._engine is not None:
                self._engine.show(message, urn, _SEVERITIES[severity], passing=severity == "status")

        return Call(cancelled=self.cancelled, timeout=timeout or 1200, log=log)


class Sessions:
    """Sessions by connection; the oldest are forgotten."""

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, peer: str) -> Session:
        """The session of the connection *peer*.

        A connection that gRPC opened anew in the middle of an update goes on with the configuration given last.
        """
        with self._lock:
            session = self._by_peer.get(peer)
            if session is None:
                session = Session()
                if self._by_peer:
                    session.config = next(reversed(self._by_peer.values())).config
                self._by_peer[peer] = session
                while len(self._by_peer) > _KEPT:
                    self._by_peer.popitem(last=False)
            else:
                self._by_peer.move_to_end(peer)
            return session

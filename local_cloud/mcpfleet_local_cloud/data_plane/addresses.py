"""Assigns a loopback port to each service; a service keeps its port after a restart."""

import hashlib
from typing import Final

from mcpfleet_local_cloud.data_plane.contract import RolloutError
from mcpfleet_local_cloud.network.listeners import Listeners
from mcpfleet_local_cloud.state.store import Store

KIND: Final = "address"
FIRST_PORT: Final = 18500
PORTS: Final = 1000


class Addresses:
    """The services' ports, stored in *store* and opened on *listeners*."""

    def __init__(self, store: Store, listeners: Listeners, cloud_id: str) -> None:
        self._store = store
        self._listeners = listeners
        self._cloud_id = cloud_id
        self._services: dict[int, str] = {int(document["port"]): name for name, document in store.list(KIND)}

    def port(self, service: str) -> int:
        """Return the port of *service* (its full name), and open it.

        Raises:
            RolloutError: Another program uses the service's port.
        """
        document = self._store.get(KIND, service)
        if document is None:
            return self._choose(service)
        port = int(document["port"])
        if not self._listeners.open(port):
            raise RolloutError(
                f"Port {port} of 127.0.0.1, the address of {service}, is used by another program. Stop it (`ss -ltnp "
                f"sport = :{port}` names it), or delete the service and deploy it again to get another address."
            )
        return port

    def service(self, port: int) -> str | None:
        """The full name of the service with this port; None if there is none."""
        return self._services.get(port)

    def forget(self, service: str) -> int | None:
        """Release the service's port, and return it."""
        document = self._store.get(KIND, service)
        if document is None:
            return None
        self._store.delete(KIND, service)
        self._services.pop(int(document["port"]), None)
        return int(document["port"])

    def _choose(self, service: str) -> int:
        # By a hash of the name, so that a redeployed service gets its old URL, and two clouds rarely choose the same.
        start = int.from_bytes(hashlib.sha256(f"{self._cloud_id}/{service}".encode()).digest()[:4], "big")
        for step in range(PORTS):
            port = FIRST_PORT + (start + step) % PORTS
            if port not in self._services and self._listeners.open(port):
                self._store.put(KIND, service, {"port": port})
                self._services[port] = service
                return port
        raise RolloutError(f"All ports from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} of 127.0.0.1 are in use.")

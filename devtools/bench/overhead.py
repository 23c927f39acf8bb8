"""What the local cloud adds to a request: the same request to the container itself and through the ingress."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from mcpfleet.auth import IdTokenAuth
from mcpfleet.sources import source_from_file
from mcpfleet_local_cloud.commands.background import Place, running
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup import Prepared

_REQUESTS: Final = 500


def measure_overhead(place: Place, prepared: Prepared, server: Mapping[str, Any]) -> str:
    """Measure `GET /health` of *server* (its part of the stack's outputs) one by one, over kept connections."""
    cloud = running(place, "cloud") or {}
    labels = [f"dev.mcpfleet.cloud={cloud.get('id')}", f"dev.mcpfleet.service={server['service']}"]
    containers: list[Any] = prepared.docker.containers.list(filters={"label": labels})
    if not containers:
        raise SetupError(f"No container of {server['service']} runs.", "look at its log: ./dev logs SERVER.")
    (container, *_) = containers
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    auth = IdTokenAuth(str(server["audience"]), source_from_file(place.credentials / "ada.json"))
    direct = _times(f"http://{address}:8080/health", None)
    through = _times(f"{server['service_url']}/health", auth)
    direct_p50, through_p50 = statistics.median(direct), statistics.median(through)
    p99 = sorted(through)[int(len(through) * 0.99)] - sorted(direct)[int(len(direct) * 0.99)]
    return (
        f"GET /health, {_REQUESTS} requests one by one: p50 {(through_p50 - direct_p50) * 1000:.2f} ms "
        f"({through_p50 * 1000:.2f} through the ingress, {direct_p50 * 1000:.2f} to the container), "
        f"p99 {p99 * 1000:.2f} ms; goal: p50 ≤ 3 ms."
    )


def _times(url: str, auth: IdTokenAuth | None) -> list[float]:
    times: list[float] = []
    with httpx2.Client(auth=auth, trust_env=False, timeout=30) as client:
        for _ in range(_REQUESTS + 50):
            began = time.perf_counter()
            client.get(url).raise_for_status()
            times.append(time.perf_counter() - began)
    return times[50:]

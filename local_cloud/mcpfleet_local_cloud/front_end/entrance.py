"""How a container's request arrives: by the service's own name, at the gateway of the cloud's network.

On Google a container calls `https://NAME-NUMBER.REGION.run.app`, or a domain, whoever it is; whether it is *inside* for
the called service depends on its own way out. The names of `run.app` are public, so only a caller that sends all its
traffic through the VPC network arrives from there.
"""

import re
from collections.abc import Callable
from typing import Final

from starlette.types import Scope

from mcpfleet_local_cloud.data_plane.contract import FrontDoor
from mcpfleet_local_cloud.front_end.arrivals import Arrival, host_of
from mcpfleet_local_cloud.front_end.balancer import Balancer
from mcpfleet_local_cloud.front_end.published import HOST
from mcpfleet_local_cloud.identity.metadata import Workload
from mcpfleet_local_cloud.state.settings import Settings

_HOST: Final = re.compile(r"([a-z](?:[a-z0-9-]{0,47}[a-z0-9])?)-(\d{1,19})\.([a-z0-9-]{1,30})\.run\.app")


class Entrance:
    """See `arrivals.Arrivals`.

    Args:
        doors: the front door of a service, by its full name.
        balancer: the load balancers.
        workload: who has an address on the cloud's network.
        settings: the cloud.
    """

    def __init__(
        self,
        doors: Callable[[str], FrontDoor | None],
        balancer: Balancer,
        workload: Callable[[str], Workload | None],
        settings: Settings,
    ) -> None:
        self._doors = doors
        self._balancer = balancer
        self._workload = workload
        self._settings = settings

    def named(self, host: str) -> bool:
        """Whether *host* leads to this cloud: a service of its project, whether it exists or not, a domain, or keys."""
        return host == HOST or self._service(host) is not None or self._balancer.secured(host)

    def __call__(self, scope: Scope) -> Arrival:
        """The arrival of a container's request."""
        host = host_of(scope["headers"])
        service = self._service(host)
        if service is None:
            query = scope["query_string"].decode("latin-1")
            return self._balancer.arrive_by_name(host, scope["path"], query) or Arrival(door=None)
        client: tuple[str, int] | None = scope["client"]
        caller = self._workload(client[0]) if client else None
        return Arrival(door=self._doors(service), inside=caller is not None and caller.inside)

    def _service(self, host: str) -> str | None:
        found = _HOST.fullmatch(host)
        if found is None or found[2] != str(self._settings.project_number):
            return None
        return f"projects/{self._settings.project}/locations/{found[3]}/services/{found[1]}"

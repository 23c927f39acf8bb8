"""What Cloud Run fills in where a caller said nothing.

Only in fields that the provider's schema marks `Com` (computed; `data/cloudrunv2-service-schema.txt` beside the
design notes), or that have the same default there: any other field that came back different would show as a change
in every `pulumi preview`. Everything else comes back exactly as it was sent.
"""

import copy
from typing import Final

from mcpfleet_local_cloud.services.run.quantities import quantity
from mcpfleet_local_cloud.state.store import Document

TRAFFIC_LATEST: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
_UNSET: Final = ("", 0, None)


def complete(service: Document, default_account: str) -> Document:
    """A copy of the parsed *service* with all defaults; *default_account* runs it where none is named."""
    done = copy.deepcopy(service)
    _fill(done, "ingress", "INGRESS_TRAFFIC_ALL", unset=("INGRESS_TRAFFIC_UNSPECIFIED",))
    _fill(done, "launchStage", "GA", unset=("LAUNCH_STAGE_UNSPECIFIED",))
    if not done.get("traffic"):
        done["traffic"] = [{"type": TRAFFIC_LATEST, "percent": 100}]
    template: Document = done["template"]
    _fill(template, "serviceAccount", default_account)
    _fill(template, "timeout", "300s", unset=("0s",))
    alone = len(template["containers"]) == 1
    if template.get("vpcAccess"):
        _fill(template["vpcAccess"], "egress", "PRIVATE_RANGES_ONLY", unset=("VPC_EGRESS_UNSPECIFIED",))
    for container in template["containers"]:
        _container(container, serves=alone or bool(container.get("ports")))
    # Google's rule: a fraction of a CPU serves one request at a time.
    whole = sum(_cpu(container) for container in template["containers"]) >= 1
    _fill(template, "maxInstanceRequestConcurrency", 80 if whole else 1)
    scaling = template.setdefault("scaling", {})
    _fill(scaling, "maxInstanceCount", max(100, scaling.get("minInstanceCount", 0)))
    return done


def _cpu(container: Document) -> float:
    return quantity(container["resources"]["limits"]["cpu"]) or 0


def _fill(holder: Document, field: str, value: object, unset: tuple[object, ...] = ()) -> None:
    if holder.get(field) in (*_UNSET, *unset):
        holder[field] = value


def _container(container: Document, *, serves: bool) -> None:
    """Of all containers, only the one that *serves* has a port and must show that it listens on it."""
    port: Document = {}
    if serves:
        if not container.get("ports"):
            container["ports"] = [port]
        port = container["ports"][0]
        _fill(port, "name", "http1")
        _fill(port, "containerPort", 8080)
    if "resources" not in container:
        # Only where the whole message is absent: "if ResourceRequirements is set, the caller must explicitly set
        # [cpuIdle] to true to preserve the default behavior" (discovery document).
        default: Document = {"cpuIdle": True}
        container["resources"] = default
    limits: Document = container["resources"].setdefault("limits", {})
    _fill(limits, "cpu", "1000m")
    _fill(limits, "memory", "512Mi")
    if serves and "startupProbe" not in container:
        container["startupProbe"] = {
            "timeoutSeconds": 240,
            "periodSeconds": 240,
            "failureThreshold": 1,
            "tcpSocket": {},
        }
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            _probe(container[name], port.get("containerPort"))


def _probe(probe: Document, port: int | None) -> None:
    _fill(probe, "timeoutSeconds", 1)
    _fill(probe, "periodSeconds", 10)
    _fill(probe, "failureThreshold", 3)
    if "httpGet" in probe:
        _fill(probe["httpGet"], "path", "/")
    for action in ("httpGet", "tcpSocket", "grpc"):
        if action in probe and port is not None:
            _fill(probe[action], "port", port)

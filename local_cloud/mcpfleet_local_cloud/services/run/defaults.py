"""The default values that Cloud Run sets in a service.

Defaults are set only in fields that are computed in the provider's schema (`gcp.cloudrunv2.Service`), or that have the
same default there: a difference in any other field would appear as a change in every `pulumi preview`. All other fields
are returned exactly as they were sent.
"""

import copy
from typing import Final

from mcpfleet_local_cloud.services.run.quantities import parse_quantity
from mcpfleet_local_cloud.state.store import Document

TRAFFIC_LATEST: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
_UNSET: Final = ("", 0, None)


def apply_defaults(service: Document, default_account: str) -> Document:
    """Return a copy of the parsed *service* with all defaults; *default_account* is used if no account is set."""
    completed = copy.deepcopy(service)
    _set_default(completed, "ingress", "INGRESS_TRAFFIC_ALL", unset=("INGRESS_TRAFFIC_UNSPECIFIED",))
    _set_default(completed, "launchStage", "GA", unset=("LAUNCH_STAGE_UNSPECIFIED",))
    if not completed.get("traffic"):
        completed["traffic"] = [{"type": TRAFFIC_LATEST, "percent": 100}]
    template: Document = completed["template"]
    _set_default(template, "serviceAccount", default_account)
    _set_default(template, "timeout", "300s", unset=("0s",))
    is_only_container = len(template["containers"]) == 1
    if template.get("vpcAccess"):
        _set_default(template["vpcAccess"], "egress", "PRIVATE_RANGES_ONLY", unset=("VPC_EGRESS_UNSPECIFIED",))
    for container in template["containers"]:
        _complete_container(container, is_ingress=is_only_container or bool(container.get("ports")))
    # Google's rule: a fraction of a CPU serves one request at a time.
    has_full_cpu = sum(_cpu(container) for container in template["containers"]) >= 1
    _set_default(template, "maxInstanceRequestConcurrency", 80 if has_full_cpu else 1)
    scaling = template.setdefault("scaling", {})
    _set_default(scaling, "maxInstanceCount", max(100, scaling.get("minInstanceCount", 0)))
    return completed


def _cpu(container: Document) -> float:
    return parse_quantity(container["resources"]["limits"]["cpu"]) or 0


def _set_default(message: Document, field: str, value: object, unset: tuple[object, ...] = ()) -> None:
    if message.get(field) in (*_UNSET, *unset):
        message[field] = value


def _complete_container(container: Document, *, is_ingress: bool) -> None:
    """Set the defaults of a container; only the ingress container has a port and a default startup probe."""
    port: Document = {}
    if is_ingress:
        if not container.get("ports"):
            container["ports"] = [port]
        port = container["ports"][0]
        _set_default(port, "name", "http1")
        _set_default(port, "containerPort", 8080)
    if "resources" not in container:
        # Only if the whole message is absent: "if ResourceRequirements is set, the caller must explicitly set
        # [cpuIdle] to true to preserve the default behavior" (discovery document).
        default: Document = {"cpuIdle": True}
        container["resources"] = default
    limits: Document = container["resources"].setdefault("limits", {})
    _set_default(limits, "cpu", "1000m")
    _set_default(limits, "memory", "512Mi")
    if is_ingress and "startupProbe" not in container:
        container["startupProbe"] = {
            "timeoutSeconds": 240,
            "periodSeconds": 240,
            "failureThreshold": 1,
            "tcpSocket": {},
        }
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            _complete_probe(container[name], port.get("containerPort"))


def _complete_probe(probe: Document, port: int | None) -> None:
    _set_default(probe, "timeoutSeconds", 1)
    _set_default(probe, "periodSeconds", 10)
    _set_default(probe, "failureThreshold", 3)
    if "httpGet" in probe:
        _set_default(probe["httpGet"], "path", "/")
    for action in ("httpGet", "tcpSocket", "grpc"):
        if action in probe and port is not None:
            _set_default(probe[action], "port", port)

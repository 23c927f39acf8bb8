"""A revision as the data plane runs it, made of what the control plane remembers."""

from local_cloud.dataplane import Probe, Revision
from local_cloud.services.run.places import parts, short
from local_cloud.services.run.quantities import quantity, whole_seconds
from local_cloud.store import Document


def workload(revision: Document, scaling: Document) -> Revision:
    """What to run for the remembered *revision*, under the service's own *scaling* bounds.

    The image is the digest once it is known: a revision never changes, also when its tag moves.
    """
    template: Document = revision["template"]
    container: Document = template["containers"][0]
    project, region, service = parts(revision["name"])
    least, most = instance_bounds(template["scaling"], scaling)
    limits = container["resources"]["limits"]
    liveness = container.get("livenessProbe")
    return Revision(
        name=short(revision["name"]),
        service=service,
        project=project,
        region=region,
        image=revision.get("digest") or container["image"],
        service_account=template["serviceAccount"],
        command=tuple(container.get("command", [])),
        args=tuple(container.get("args", [])),
        env=tuple((one["name"], one.get("value", "")) for one in container.get("env", [])),
        port=container["ports"][0]["containerPort"],
        cpu=quantity(limits["cpu"]) or 1.0,
        memory_bytes=int(quantity(limits["memory"]) or 0),
        concurrency=template["maxInstanceRequestConcurrency"],
        timeout=whole_seconds(template["timeout"]),
        min_instances=least,
        max_instances=most,
        startup_probe=_probe(container["startupProbe"]),
        liveness_probe=_probe(liveness) if liveness else None,
    )


def instance_bounds(revision: Document, service: Document) -> tuple[int, int]:
    """How few and how many instances: the revision's bounds within the service's; one revision has all traffic."""
    if service.get("scalingMode") == "MANUAL":
        return service["manualInstanceCount"], service["manualInstanceCount"]
    most = revision["maxInstanceCount"]
    if service.get("maxInstanceCount"):
        most = min(most, service["maxInstanceCount"])
    least = max(revision.get("minInstanceCount", 0), service.get("minInstanceCount", 0))
    return min(least, most), most


def _probe(probe: Document) -> Probe:
    http: Document | None = probe.get("httpGet")
    return Probe(
        port=(http if http is not None else probe["tcpSocket"])["port"],
        http_path=http["path"] if http is not None else None,
        http_headers=tuple((one["name"], one.get("value", "")) for one in (http or {}).get("httpHeaders", [])),
        initial_delay=probe.get("initialDelaySeconds", 0),
        timeout=probe["timeoutSeconds"],
        period=probe["periodSeconds"],
        failure_threshold=probe["failureThreshold"],
    )

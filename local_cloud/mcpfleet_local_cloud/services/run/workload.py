"""A revision as the data plane runs it, made of what the control plane remembers."""

from typing import Final

from mcpfleet_local_cloud.data_plane.contract import (
    BucketFolder,
    Container,
    EmptyDir,
    Mount,
    Probe,
    Revision,
    SecretFile,
    SecretFiles,
    SecretRef,
    Volume,
)
from mcpfleet_local_cloud.services.compute.answers import reference
from mcpfleet_local_cloud.services.run.places import parts, short
from mcpfleet_local_cloud.services.run.quantities import quantity, whole_seconds
from mcpfleet_local_cloud.state.store import Document

_MODE: Final = 0o444
"""Of a secret's file where none is asked for."""


def workload(revision: Document, scaling: Document) -> Revision:
    """What to run for the remembered *revision*, under the service's own *scaling* bounds.

    Images are digests once they are known: a revision never changes, also when a tag moves.
    """
    template: Document = revision["template"]
    project, region, service = parts(revision["name"])
    least, most = instance_bounds(template["scaling"], scaling)
    made = [
        _container(container, digest, project)
        for container, digest in zip(
            template["containers"], revision.get("digests") or [""] * len(template["containers"]), strict=True
        )
    ]
    main = made.pop(ingress_container(template))
    if main.port is None or main.startup_probe is None:
        raise ValueError(f"{revision['name']}: the ingress container has no port or no startup probe")
    return Revision(
        name=short(revision["name"]),
        service=service,
        project=project,
        region=region,
        containers=(main, *made),
        service_account=template["serviceAccount"],
        concurrency=template["maxInstanceRequestConcurrency"],
        timeout=whole_seconds(template["timeout"]),
        min_instances=least,
        max_instances=most,
        volumes=tuple(_volume(one, template, project) for one in template.get("volumes", [])),
        health_checked=not template.get("healthCheckDisabled", False),
        session_affinity=template.get("sessionAffinity", False),
        vpc_all_traffic=template.get("vpcAccess", {}).get("egress") == "ALL_TRAFFIC",
        network=_network(template, project),
        mesh=template.get("serviceMesh", {}).get("mesh", ""),
    )


def ingress_container(template: Document) -> int:
    """The place of the container that serves: the one with a port."""
    return next((index for index, one in enumerate(template["containers"]) if one.get("ports")), 0)


def secret_name(given: str, project: str) -> str:
    """The full name of a secret that a template names by itself, or in full."""
    return given if given.startswith("projects/") else f"projects/{project}/secrets/{given}"


def _network(template: Document, project: str) -> str:
    """The path of the VPC network; a template may name it alone. An interface has one (`RunModel`)."""
    interfaces: list[Document] = template.get("vpcAccess", {}).get("networkInterfaces", [])
    given: str = interfaces[0].get("network", "") if interfaces else ""
    if not given:
        return ""
    return reference(given) if "/" in given else f"projects/{project}/global/networks/{given}"


def _container(container: Document, digest: str, project: str) -> Container:
    limits = container["resources"]["limits"]
    variables: list[Document] = container.get("env", [])
    ports: list[Document] = container.get("ports", [])
    probes: dict[str, Probe | None] = {
        name: _probe(container[name]) if name in container else None
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    return Container(
        name=container.get("name", ""),
        image=digest or container["image"],
        command=tuple(container.get("command", [])),
        args=tuple(container.get("args", [])),
        env=tuple((one["name"], one.get("value", "")) for one in variables if not one.get("valueSource")),
        secret_env=tuple(
            (one["name"], _reference(one["valueSource"]["secretKeyRef"], project))
            for one in variables
            if one.get("valueSource")
        ),
        port=ports[0]["containerPort"] if ports else None,
        cpu=quantity(limits["cpu"]) or 1.0,
        memory_bytes=int(quantity(limits["memory"]) or 0),
        startup_probe=probes["startupProbe"],
        liveness_probe=probes["livenessProbe"],
        readiness_probe=probes["readinessProbe"],
        depends_on=tuple(container.get("dependsOn", [])),
        mounts=tuple(
            Mount(volume=one["name"], path=one["mountPath"], sub_path=one.get("subPath", ""))
            for one in container.get("volumeMounts", [])
        ),
    )


def _reference(selector: Document, project: str) -> SecretRef:
    return SecretRef(secret=secret_name(selector["secret"], project), version=selector.get("version") or "latest")


def _volume(volume: Document, template: Document, project: str) -> Volume:
    name: str = volume["name"]
    if "secret" in volume:
        source: Document = volume["secret"]
        mode = source.get("defaultMode") or _MODE
        # Without items there is one file, called as the secret is, with the newest version.
        items: list[Document] = source.get("items") or [{"path": short(source["secret"]), "version": "latest"}]
        files = tuple(
            SecretFile(path=one["path"], version=one.get("version") or "latest", mode=one.get("mode") or mode)
            for one in items
        )
        return Volume(name=name, source=SecretFiles(secret=secret_name(source["secret"], project), files=files))
    if "gcs" in volume:
        bucket: Document = volume["gcs"]
        return Volume(name=name, source=BucketFolder(bucket=bucket["bucket"], read_only=bucket.get("readOnly", False)))
    empty: Document = volume["emptyDir"]
    limit = quantity(empty.get("sizeLimit") or "")
    total = sum(quantity(one["resources"]["limits"]["memory"]) or 0 for one in template["containers"])
    # "If unspecified, the default is half of the instance's memory."
    return Volume(name=name, source=EmptyDir(size_bytes=int(limit or total / 2), on_disk=empty.get("medium") == "DISK"))


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
    grpc: Document | None = probe.get("grpc")
    action: Document = next(one for one in (http, grpc, probe.get("tcpSocket")) if one is not None)
    return Probe(
        port=action["port"],
        http_path=http["path"] if http is not None else None,
        grpc_service=grpc.get("service", "") if grpc is not None else None,
        http_headers=tuple((one["name"], one.get("value", "")) for one in (http or {}).get("httpHeaders", [])),
        initial_delay=probe.get("initialDelaySeconds", 0),
        timeout=probe["timeoutSeconds"],
        period=probe["periodSeconds"],
        failure_threshold=probe["failureThreshold"],
    )

"""Builds the data plane's `Revision` from the stored records."""

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
from mcpfleet_local_cloud.services.compute.documents import parse_reference
from mcpfleet_local_cloud.services.run.locations import short_name, split_name
from mcpfleet_local_cloud.services.run.quantities import parse_quantity, parse_whole_seconds
from mcpfleet_local_cloud.state.store import Document

_DEFAULT_FILE_MODE: Final = 0o444
"""The default file mode of a secret."""


def build_workload(revision: Document, scaling: Document) -> Revision:
    """Build the workload of the stored *revision*, within the service's own *scaling* bounds.

    Images are digests as soon as these are known: a revision never changes, even if a tag moves.
    """
    template: Document = revision["template"]
    project, region, service = split_name(revision["name"])
    minimum, maximum = instance_bounds(template["scaling"], scaling)
    containers = [
        _build_container(container, digest, project)
        for container, digest in zip(
            template["containers"], revision.get("digests") or [""] * len(template["containers"]), strict=True
        )
    ]
    main = containers.pop(find_ingress_index(template))
    if main.port is None or main.startup_probe is None:
        raise ValueError(f"{revision['name']}: the ingress container has no port or no startup probe")
    return Revision(
        name=short_name(revision["name"]),
        service=service,
        project=project,
        region=region,
        containers=(main, *containers),
        service_account=template["serviceAccount"],
        concurrency=template["maxInstanceRequestConcurrency"],
        timeout=parse_whole_seconds(template["timeout"]),
        min_instances=minimum,
        max_instances=maximum,
        volumes=tuple(_build_volume(volume, template, project) for volume in template.get("volumes", [])),
        health_checked=not template.get("healthCheckDisabled", False),
        session_affinity=template.get("sessionAffinity", False),
        vpc_all_traffic=template.get("vpcAccess", {}).get("egress") == "ALL_TRAFFIC",
        network=_network_path(template, project),
        mesh=template.get("serviceMesh", {}).get("mesh", ""),
    )


def find_ingress_index(template: Document) -> int:
    """The index of the container that receives requests: the one with a port."""
    return next((index for index, container in enumerate(template["containers"]) if container.get("ports")), 0)


def secret_name(name: str, project: str) -> str:
    """The full name of a secret; a template may have the short or the full name."""
    return name if name.startswith("projects/") else f"projects/{project}/secrets/{name}"


def _network_path(template: Document, project: str) -> str:
    """The path of the VPC network; a template may have only its name. `RunModel` sets one in each interface."""
    interfaces: list[Document] = template.get("vpcAccess", {}).get("networkInterfaces", [])
    network: str = interfaces[0].get("network", "") if interfaces else ""
    if not network:
        return ""
    return parse_reference(network) if "/" in network else f"projects/{project}/global/networks/{network}"


def _build_container(container: Document, digest: str, project: str) -> Container:
    limits = container["resources"]["limits"]
    variables: list[Document] = container.get("env", [])
    ports: list[Document] = container.get("ports", [])
    probes: dict[str, Probe | None] = {
        name: _build_probe(container[name]) if name in container else None
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    return Container(
        name=container.get("name", ""),
        image=digest or container["image"],
        command=tuple(container.get("command", [])),
        args=tuple(container.get("args", [])),
        env=tuple((item["name"], item.get("value", "")) for item in variables if not item.get("valueSource")),
        secret_env=tuple(
            (item["name"], _build_secret_ref(item["valueSource"]["secretKeyRef"], project))
            for item in variables
            if item.get("valueSource")
        ),
        port=ports[0]["containerPort"] if ports else None,
        cpu=parse_quantity(limits["cpu"]) or 1.0,
        memory_bytes=int(parse_quantity(limits["memory"]) or 0),
        startup_probe=probes["startupProbe"],
        liveness_probe=probes["livenessProbe"],
        readiness_probe=probes["readinessProbe"],
        depends_on=tuple(container.get("dependsOn", [])),
        mounts=tuple(
            Mount(volume=item["name"], path=item["mountPath"], sub_path=item.get("subPath", ""))
            for item in container.get("volumeMounts", [])
        ),
    )


def _build_secret_ref(selector: Document, project: str) -> SecretRef:
    return SecretRef(secret=secret_name(selector["secret"], project), version=selector.get("version") or "latest")


def _build_volume(volume: Document, template: Document, project: str) -> Volume:
    name: str = volume["name"]
    if "secret" in volume:
        source: Document = volume["secret"]
        mode = source.get("defaultMode") or _DEFAULT_FILE_MODE
        # Without items there is one file, named after the secret, with the newest version.
        items: list[Document] = source.get("items") or [{"path": short_name(source["secret"]), "version": "latest"}]
        files = tuple(
            SecretFile(path=item["path"], version=item.get("version") or "latest", mode=item.get("mode") or mode)
            for item in items
        )
        return Volume(name=name, source=SecretFiles(secret=secret_name(source["secret"], project), files=files))
    if "gcs" in volume:
        bucket: Document = volume["gcs"]
        return Volume(name=name, source=BucketFolder(bucket=bucket["bucket"], read_only=bucket.get("readOnly", False)))
    empty_dir: Document = volume["emptyDir"]
    limit = parse_quantity(empty_dir.get("sizeLimit") or "")
    total = sum(parse_quantity(item["resources"]["limits"]["memory"]) or 0 for item in template["containers"])
    # "If unspecified, the default is half of the instance's memory."
    return Volume(
        name=name, source=EmptyDir(size_bytes=int(limit or total / 2), on_disk=empty_dir.get("medium") == "DISK")
    )


def instance_bounds(revision: Document, service: Document) -> tuple[int, int]:
    """The smallest and the largest number of instances: the revision's bounds within those of the service."""
    if service.get("scalingMode") == "MANUAL":
        return service["manualInstanceCount"], service["manualInstanceCount"]
    maximum = revision["maxInstanceCount"]
    if service.get("maxInstanceCount"):
        maximum = min(maximum, service["maxInstanceCount"])
    minimum = max(revision.get("minInstanceCount", 0), service.get("minInstanceCount", 0))
    return min(minimum, maximum), maximum


def _build_probe(probe: Document) -> Probe:
    http: Document | None = probe.get("httpGet")
    grpc: Document | None = probe.get("grpc")
    action: Document = next(item for item in (http, grpc, probe.get("tcpSocket")) if item is not None)
    return Probe(
        port=action["port"],
        http_path=http["path"] if http is not None else None,
        grpc_service=grpc.get("service", "") if grpc is not None else None,
        http_headers=tuple((item["name"], item.get("value", "")) for item in (http or {}).get("httpHeaders", [])),
        initial_delay=probe.get("initialDelaySeconds", 0),
        timeout=probe["timeoutSeconds"],
        period=probe["periodSeconds"],
        failure_threshold=probe["failureThreshold"],
    )

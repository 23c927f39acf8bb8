"""Fields that Cloud Run supports and the local cloud does not: refused by name, never ignored.

This check follows `validation`, so that Google's own errors come first.
"""

from collections.abc import Iterator
from typing import Any, Final

from mcpfleet_local_cloud.data_plane.contract import TRUSTED
from mcpfleet_local_cloud.rest.errors import unimplemented
from mcpfleet_local_cloud.rest.json_api import as_list, as_object
from mcpfleet_local_cloud.services.run.quantities import parse_seconds
from mcpfleet_local_cloud.state.store import Document

_SERVICE: Final = {
    "binaryAuthorization": "it doesn't check images against policies.",
    "multiRegionSettings": "it runs a service in one region.",
    "buildConfig": "it doesn't build from source; build an image and name it.",
    "sshEnabled": "use `docker exec` on this machine.",
}
_TEMPLATE: Final = {
    "encryptionKey": "it has no Cloud KMS.",
    "encryptionKeyRevocationAction": "it has no Cloud KMS.",
    "encryptionKeyShutdownDuration": "it has no Cloud KMS.",
    "nodeSelector": "it has no GPUs.",
    "gpuZonalRedundancyDisabled": "it has no GPUs.",
    "workloadIdentityConfig": "it has no workload identities of agents.",
}
_VOLUME: Final = {
    "cloudSqlInstance": "it has no Cloud SQL.",
    "nfs": "it has no NFS server.",
}
_SCALING: Final = {
    "cpuUtilization": "it adds instances by concurrency only.",
    "concurrencyUtilization": "it adds an instance when all others are full.",
}
_CONTAINER: Final = {
    "workingDir": "set WORKDIR in the image.",
    "baseImageUri": "it doesn't update base images.",
    "sourceCode": "it doesn't build from source; build an image and name it.",
    "sandboxLauncher": "it has no sandboxes.",
}


_TRUST_FOLDER: Final = TRUSTED.rpartition("/")[0]


def prune(value: Any) -> Any:
    """Remove protobuf's default values from *value*, which Google does not store either."""
    fields = as_object(value)
    if fields is not None:
        pruned = {name: prune(field_value) for name, field_value in fields.items()}
        return {name: field_value for name, field_value in pruned.items() if field_value}
    items = as_list(value)
    return value if items is None else [prune(item) for item in items]


def check(service: Document) -> None:
    """Refuse the first field of *service* that is set and not supported.

    Raises:
        GoogleError: UNIMPLEMENTED, with the field's path.
    """
    for path, reason in _find_unsupported(service):
        raise unimplemented(path, reason)


def _find_unsupported(service: Document) -> Iterator[tuple[str, str]]:
    yield from _find_set_fields(service, _SERVICE, "service")
    template: Document = service["template"]
    yield from _find_set_fields(template, _TEMPLATE, "service.template")
    yield from _find_set_fields(template.get("scaling", {}), _SCALING, "service.template.scaling")
    if template.get("vpcAccess", {}).get("connector"):
        yield "service.template.vpcAccess.connector", "it has no connectors; use networkInterfaces."
    yield from _values(service, template)
    yield from _traffic(service)
    containers: list[Document] = template["containers"]
    yield from _volumes(template)
    for index, container in enumerate(containers):
        yield from _container(container, f"service.template.containers[{index}]")


def _find_set_fields(message: Document, refusals: dict[str, str], path: str) -> Iterator[tuple[str, str]]:
    for field, reason in refusals.items():
        if prune(message.get(field)):
            yield f"{path}.{field}", reason


def _values(service: Document, template: Document) -> Iterator[tuple[str, str]]:
    if service.get("ingress") == "INGRESS_TRAFFIC_NONE":
        yield "service.ingress", "nobody could call a service without ingress."
    if service.get("launchStage") == "ALPHA":
        yield "service.launchStage", "it has no features of this stage; use BETA or GA."
    scaling = service.get("scaling", {})
    if scaling.get("scalingMode") == "MANUAL" and not scaling.get("manualInstanceCount"):
        yield "service.scaling.manualInstanceCount", "it can't disable a service with 0 instances; delete the service."
    if service.get("functionalType") == "FUNCTIONAL_TYPE_AGENT":
        yield "service.functionalType", "it has no workload identities of agents; use another type."
    if 0 < parse_seconds(template.get("timeout", "0s")) < 1:
        yield "service.template.timeout", "its timeouts are whole seconds; use 1s or more."


def _traffic(service: Document) -> Iterator[tuple[str, str]]:
    for index, target in enumerate(service.get("traffic", [])):
        path = f"service.traffic[{index}]"
        if target.get("tag"):
            yield f"{path}.tag", "its revisions have no URLs of their own."
        if target.get("revision"):
            yield f"{path}.revision", "it sends all requests to the latest ready revision."
        if target.get("percent") != 100:
            yield f"{path}.percent", "it sends all requests to the latest ready revision."


def _volumes(template: Document) -> Iterator[tuple[str, str]]:
    empty_volumes = set[str]()
    for index, volume in enumerate(template.get("volumes", [])):
        path = f"service.template.volumes[{index}]"
        for field, reason in _VOLUME.items():
            if field in volume:
                yield f"{path}.{field}", reason
        if "emptyDir" in volume:
            empty_volumes.add(volume.get("name", ""))
        if volume.get("gcs", {}).get("mountOptions"):
            yield (
                f"{path}.gcs.mountOptions",
                "its buckets are folders, without Cloud Storage FUSE's options.",
            )
    for index, container in enumerate(template["containers"]):
        for number, mount in enumerate(container.get("volumeMounts", [])):
            if mount.get("subPath") and mount.get("name", "") in empty_volumes:
                path = f"service.template.containers[{index}].volumeMounts[{number}].subPath"
                yield path, "a new volume has no folder to mount; mount the whole volume."
            if f"{mount.get('mountPath', '')}/".startswith(f"{_TRUST_FOLDER}/"):
                path = f"service.template.containers[{index}].volumeMounts[{number}].mountPath"
                yield path, "its certificates are there; mount the volume elsewhere."


def _container(container: Document, path: str) -> Iterator[tuple[str, str]]:
    # Not pruned: a probe or a source without fields has a meaning by being present.
    for field, reason in _CONTAINER.items():
        if container.get(field):
            yield f"{path}.{field}", reason
    if container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu"):
        yield f"{path}.resources.limits.nvidia.com/gpu", "it has no GPUs."
    for index, port in enumerate(container.get("ports", [])):
        if port.get("name") == "h2c":
            yield f"{path}.ports[{index}].name", "it sends HTTP/1 requests to containers; use http1."

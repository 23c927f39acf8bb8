"""Validates a service as Cloud Run does, with Cloud Run's error texts.

Pure functions from a parsed service to violations. The texts are Google's as far as they are known (docs/google-apis.md
3.1, whose fragments were verified against the real API's `validateOnly`); limits are from the API's discovery document.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.services.run.containers import (
    CONTAINER_LIMIT,
    SECRET_VERSION,
    Violation,
    container_violations,
    secret_violations,
)
from mcpfleet_local_cloud.services.run.quantities import GI, parse_quantity, parse_seconds
from mcpfleet_local_cloud.state.store import Document

SYSTEM_NAMESPACES: Final = (
    "run.googleapis.com",
    "cloud.googleapis.com",
    "serving.knative.dev",
    "autoscaling.knative.dev",
)
SERVICE_ID = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REVISION_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_ACCOUNT = re.compile(r"[a-z0-9-]{1,63}@[a-z0-9.-]{1,253}")
_MESH = re.compile(r"projects/[a-z0-9-]+/locations/global/meshes/[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LIMITS: Final = {
    "description": 512,
    "audiences": 32768,
    "labels": 64,
    "timeout": 3600,
    "concurrency": 1000,
    "list": 1000,
}
_MIN_DISK_BYTES: Final = 10 * GI
"""The smallest volume on disk (Cloud Run, "Configure an ephemeral disk")."""
_VOLUME_KINDS: Final = ("secret", "cloudSqlInstance", "emptyDir", "nfs", "gcs")
# Cloud Run, "Configure secrets", "Disallowed paths": /dev, /proc, /sys and folders in them, and /etc itself.
_DISALLOWED_MOUNTS: Final = re.compile(r"/*|/+etc/*|/+(dev|proc|sys)(/.*)?")


def check_service_id(request: str, service_id: str) -> None:
    """Check the name of a service.

    Raises:
        GoogleError: INVALID_ARGUMENT.
    """
    if not SERVICE_ID.fullmatch(service_id):
        raise invalid(
            f"Violation in {request}.service_id: only lowercase, digits, and hyphens; must begin with letter, and "
            "may not end with hyphen; must be less than 50 characters."
        )


def check(request: str, service_id: str, service: Document, registries: frozenset[str]) -> None:
    """Check *service*; the error has all its violations, one per line.

    Args:
        request: `CreateServiceRequest` or `UpdateServiceRequest`, for the error texts.
        service_id: the service's short name.
        service: the parsed document.
        registries: image registries that are allowed in addition to Google's: this cloud's own registry.

    Raises:
        GoogleError: INVALID_ARGUMENT.
    """
    all_violations = list(violations(service_id, service, registries))
    if all_violations:
        raise invalid("\n".join(f"Violation in {request}.{path}: {text}" for path, text in all_violations))


def violations(service_id: str, service: Document, registries: frozenset[str]) -> Iterator[Violation]:
    """Find every violation in *service*."""
    yield from _metadata("service", service)
    if len(service.get("description", "")) > _LIMITS["description"]:
        yield "service.description", f"must be at most {_LIMITS['description']} characters."
    if len(json.dumps(service.get("customAudiences", []))) > _LIMITS["audiences"]:
        yield "service.custom_audiences", f"length cannot exceed {_LIMITS['audiences']} characters."
    if service.get("launchStage") not in (None, "LAUNCH_STAGE_UNSPECIFIED", "ALPHA", "BETA", "GA"):
        yield "service.launch_stage", "only ALPHA, BETA, GA, or unspecified are supported."
    identity = service.get("template", {}).get("workloadIdentityConfig")
    if service.get("functionalType") == "FUNCTIONAL_TYPE_AGENT" and not identity:
        yield "service.functional_type", "FUNCTIONAL_TYPE_AGENT needs template.workload_identity_config to be set."
    mesh = service.get("template", {}).get("serviceMesh", {}).get("mesh")
    if mesh and service.get("launchStage") not in ("ALPHA", "BETA"):
        yield "service.launch_stage", "a service mesh is a preview feature: set the launch stage to BETA."
    yield from _service_scaling(service.get("scaling", {}))
    yield from _traffic(service.get("traffic", []))
    if "template" in service:
        yield from _template(service_id, service["template"], registries)
    else:
        yield "service.template", "should be set."


def _metadata(path: str, message: Document) -> Iterator[Violation]:
    for field in ("annotations", "labels"):
        for key in message.get(field, {}):
            namespace = key.partition("/")[0]
            if "/" in key and any(
                namespace == system_namespace or namespace.endswith(f".{system_namespace}")
                for system_namespace in SYSTEM_NAMESPACES
            ):
                yield f"{path}.{field}", f"system {field} are not supported in Cloud Run API v2: '{key}'."
    labels: Mapping[str, str] = message.get("labels", {})
    if len(labels) > _LIMITS["labels"]:
        yield f"{path}.labels", f"at most {_LIMITS['labels']} labels are allowed."
    rule = (
        "can only contain lowercase letters, numeric characters, underscores and dashes. "
        "The {} can be no more than 63 characters long."
    )
    for key, value in labels.items():
        if "/" not in key and not _LABEL_KEY.fullmatch(key):
            yield (
                f"{path}.labels",
                f"Label key '{key}' violates format constraints. The key must start with a lowercase letter and "
                + rule.format("key"),
            )
        if not _LABEL_VALUE.fullmatch(value):
            yield (
                f"{path}.labels",
                f"Label value '{value}' violates format constraints. The label value " + rule.format("value"),
            )


def _service_scaling(scaling: Document) -> Iterator[Violation]:
    yield from _bounds("service.scaling", scaling)
    if "manualInstanceCount" in scaling:
        if scaling.get("scalingMode") != "MANUAL":
            yield (
                "service.scaling.manual_instance_count",
                "scaling mode must be set to MANUAL if manual instance count is set.",
            )
        if scaling["manualInstanceCount"] < 0:
            yield "service.scaling.manual_instance_count", "must be greater than or equal to zero."


def _bounds(path: str, scaling: Document) -> Iterator[Violation]:
    minimum, maximum = scaling.get("minInstanceCount", 0), scaling.get("maxInstanceCount", 0)
    for name, value in (("min", minimum), ("max", maximum)):
        if value < 0:
            yield f"{path}.{name}_instance_count", "must be greater than or equal to zero."
    if 0 < maximum < minimum:
        yield f"{path}.max_instance_count", "must be greater than or equal to min_instance_count."


def _traffic(targets: Sequence[Document]) -> Iterator[Violation]:
    total, tags = 0, set[str]()
    for index, target in enumerate(targets):
        path = f"service.traffic[{index}]"
        percent = target.get("percent", 0)
        total += percent
        if not 0 <= percent <= 100:
            yield f"{path}.percent", "must be a number between 0 and 100."
        by_revision = target.get("type") == "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
        if by_revision != bool(target.get("revision")):
            yield f"{path}.revision", f"must be specified if and only if traffic type is REVISION ('{path}.type')."
        tag = target.get("tag", "")
        if tag and tag in tags:
            yield f"{path}.tag", f"may not contain a duplicate tag: '{tag}'."
        tags.add(tag)
    if targets and total != 100:
        yield "service.traffic", f"the sum of all percents is {total}, it should be 100."


def _template(service_id: str, template: Document, registries: frozenset[str]) -> Iterator[Violation]:
    path = "service.template"
    yield from _metadata(path, template)
    yield from _revision_name(service_id, template.get("revision", ""))
    yield from _bounds(f"{path}.scaling", template.get("scaling", {}))
    concurrency = template.get("maxInstanceRequestConcurrency", 0)
    if not 0 <= concurrency <= _LIMITS["concurrency"]:
        yield f"{path}.max_instance_request_concurrency", "Must be a number between 0 and 1000."
    timeout = parse_seconds(template.get("timeout", "0s"))
    if timeout > _LIMITS["timeout"]:
        yield f"{path}.timeout", "maximum allowed time is one hour."
    if timeout < 0:
        yield f"{path}.timeout", "must not be negative."
    account = template.get("serviceAccount", "")
    if account and not _ACCOUNT.fullmatch(account):
        yield f"{path}.service_account", f"Unsupported service account '{account}'; give its e-mail address."
    yield from _vpc(template.get("vpcAccess"))
    yield from _mesh(template)
    yield from _volumes(template)
    yield from _containers(template, registries)


def _revision_name(service_id: str, name: str) -> Iterator[Violation]:
    path = "service.template.revision"
    if not name:
        return
    if not name.startswith(f"{service_id}-"):
        yield path, "The revision name must be prefixed by the name of the enclosing Service with a trailing -."
    elif not _REVISION_ID.fullmatch(name):
        yield (
            path,
            (
                "only lowercase, digits, and hyphens; must begin with letter, and may not end with hyphen; "
                "must be less than 64 characters."
            ),
        )


def _vpc(access: Document | None) -> Iterator[Violation]:
    path = "service.template.vpc_access"
    if access is None:
        return
    interfaces = access.get("networkInterfaces", [])
    if bool(access.get("connector")) == bool(interfaces):
        yield path, "one and only one of connector and network_interfaces must be set."
    if len(interfaces) > 1:
        yield f"{path}.network_interfaces", "only 1 network interface is allowed."
    for index, interface in enumerate(interfaces):
        if not interface.get("network") and not interface.get("subnetwork"):
            yield (
                f"{path}.network_interfaces[{index}]",
                "at least one of network or subnetwork should not be empty.",
            )


def _mesh(template: Document) -> Iterator[Violation]:
    mesh = template.get("serviceMesh", {}).get("mesh", "")
    if not mesh:
        return
    if not _MESH.fullmatch(mesh):
        yield "service.template.service_mesh.mesh", "must be projects/PROJECT/locations/global/meshes/MESH."
    if not template.get("vpcAccess"):
        yield "service.template.service_mesh", "network egress to a VPC network is required: set vpc_access."


def _volumes(template: Document) -> Iterator[Violation]:
    names = set[str]()
    mounted = {
        mount.get("name") for container in template.get("containers", []) for mount in container.get("volumeMounts", [])
    }
    for index, volume in enumerate(template.get("volumes", [])):
        path, name = f"service.template.volumes[{index}]", volume.get("name", "")
        if not _DNS_LABEL.fullmatch(name):
            yield f"{path}.name", "must conform to RFC 1123: lowercase letters, digits and hyphens."
        if name in names:
            yield "service.template.volumes", f"Duplicate volume name '{name}'."
        names.add(name)
        if name and name not in mounted:
            yield f"{path}.name", f'volume with name "{name}" not mounted.'
        if not any(kind in volume for kind in _VOLUME_KINDS):
            yield path, f"exactly one of {', '.join(_VOLUME_KINDS)} must be set."
        if "cloudSqlInstance" in volume and name != "cloudsql":
            yield f"{path}.name", "Cloud SQL volume must be named 'cloudsql'."
        if "gcs" in volume and not volume["gcs"].get("bucket"):
            yield f"{path}.gcs.bucket", "Bucket name must be specified."
        limit = volume.get("emptyDir", {}).get("sizeLimit", "")
        if limit and not parse_quantity(limit):
            yield f"{path}.empty_dir.size_limit", f"Could not parse Quantity '{limit}'."
        elif volume.get("emptyDir", {}).get("medium") == "DISK" and (parse_quantity(limit) or 0) < _MIN_DISK_BYTES:
            yield f"{path}.empty_dir.size_limit", "must be at least 10Gi for the medium DISK."
        if "secret" in volume:
            yield from _secret_volume(f"{path}.secret", volume["secret"])


def _secret_volume(path: str, source: Document) -> Iterator[Violation]:
    yield from secret_violations(path, source.get("secret", ""), "latest")
    modes = [("default_mode", source.get("defaultMode", 0))]
    paths: list[str] = []
    for index, item in enumerate(source.get("items", [])):
        item_path, relative = f"{path}.items[{index}]", item.get("path", "")
        if not relative or relative.startswith("/") or any(part in ("", ".", "..") for part in relative.split("/")):
            yield f"{item_path}.path", "must be a relative path without '..'."
        if relative in paths:
            yield f"{item_path}.path", f"Duplicate path '{relative}'."
        paths.append(relative)
        if not SECRET_VERSION.fullmatch(item.get("version") or "latest"):
            yield f"{item_path}.version", "must be 'latest', an integer or an alias."
        modes.append((f"items[{index}].mode", item.get("mode", 0)))
    for field, mode in modes:
        if not 0 <= mode <= 0o777:
            yield f"{path}.{field}", "must be a value between 0000 and 0777 (octal)."


def _containers(template: Document, registries: frozenset[str]) -> Iterator[Violation]:
    path = "service.template.containers"
    containers: Sequence[Document] = template.get("containers", [])
    if not containers:
        yield path, "must contain at least one container."
        return
    if len(containers) > CONTAINER_LIMIT:
        yield path, f"at most {CONTAINER_LIMIT} containers are allowed in a revision template."
    exposed = sum(1 for container in containers if container.get("ports"))
    if len(containers) > 1 and exposed != 1:
        yield path, "Revision template should contain exactly one container with an exposed port."
    for field, label in (("env", "EnvVars"), ("args", "args")):
        if sum(len(container.get(field, [])) for container in containers) > _LIMITS["list"]:
            yield path, f"exceeds the limit on {label} across all containers, which is {_LIMITS['list']}."
    yield from _container_names(containers)
    for index, container in enumerate(containers):
        is_sidecar = len(containers) > 1 and not container.get("ports")
        yield from container_violations(f"{path}[{index}]", container, registries, is_sidecar=is_sidecar)
        if is_sidecar:
            yield from _sidecar_probes(f"{path}[{index}]", container)
        yield from _mounts(f"{path}[{index}]", container, template.get("volumes", []))
    yield from _fractional_cpu(template, containers)


def _sidecar_probes(path: str, container: Document) -> Iterator[Violation]:
    """Check that each probe of a sidecar has a port: a container without a port has no default for it."""
    for field in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe: Document = container.get(field, {})
        for action in ("httpGet", "tcpSocket", "grpc"):
            if action in probe and not probe[action].get("port"):
                yield f"{path}.{field}", "port must be specified: the container exposes none."


def _container_names(containers: Sequence[Document]) -> Iterator[Violation]:
    path = "service.template.containers"
    names = [container.get("name", "") for container in containers]
    set_names = [name for name in names if name]
    if len(set(set_names)) != len(set_names):
        yield path, "duplicate container names are not allowed."
    for index, name in enumerate(names):
        if name and not _DNS_LABEL.fullmatch(name):
            yield f"{path}[{index}].name", "must conform to RFC 1123: lowercase letters, digits and hyphens."
    dependencies: dict[str, list[str]] = {}
    for index, container in enumerate(containers):
        for dependency in container.get("dependsOn", []):
            if dependency not in set_names:
                yield f"{path}[{index}].depends_on", f"container '{dependency}' does not exist."
        dependencies[container.get("name", "")] = container.get("dependsOn", [])
    if _has_cycle(dependencies):
        yield path, "dependency cycle detected among containers."


def _has_cycle(dependencies: Mapping[str, Sequence[str]]) -> bool:
    remaining = dict(dependencies)
    while ready := [
        name
        for name, requirements in remaining.items()
        if not any(requirement in remaining for requirement in requirements)
    ]:
        for name in ready:
            del remaining[name]
    return bool(remaining)


def _mounts(path: str, container: Document, volumes: Sequence[Document]) -> Iterator[Violation]:
    by_name: dict[str, Document] = {volume.get("name", ""): volume for volume in volumes}
    unknown = [
        mount.get("name", "") for mount in container.get("volumeMounts", []) if mount.get("name", "") not in by_name
    ]
    if unknown:
        yield f"{path}.volume_mounts", f"has names {unknown} which were not found in volumes list."
    mount_paths = set[str]()
    for index, mount in enumerate(container.get("volumeMounts", [])):
        location, mount_path = f"{path}.volume_mounts[{index}]", mount.get("mountPath", "")
        if "cloudSqlInstance" in by_name.get(mount.get("name", ""), {}):
            if mount_path not in ("", "/cloudsql"):
                yield f"{location}.mount_path", "for Cloud SQL volumes, it must be empty or '/cloudsql'."
            continue
        if not mount_path.startswith("/") or ":" in mount_path:
            yield f"{location}.mount_path", "must be a valid unix absolute path."
        elif _DISALLOWED_MOUNTS.fullmatch(mount_path):
            yield location, f"mount paths ['{mount_path}'] are in one of disallowed mount points."
        if mount_path.rstrip("/") in mount_paths:
            yield f"{location}.mount_path", f'"{mount_path}" must be unique.'
        mount_paths.add(mount_path.rstrip("/"))
        if ".." in mount.get("subPath", "").split("/") or mount.get("subPath", "").startswith("/"):
            yield f"{location}.sub_path", "must be a relative path without '..'."
        if mount.get("subPath") and "secret" in by_name.get(mount.get("name", ""), {}):
            yield location, "secret volume mount cannot have sub_path set."


def _fractional_cpu(template: Document, containers: Sequence[Document]) -> Iterator[Violation]:
    """Check the sums over the instance; a container without `resources` has one CPU, which idles between requests."""
    resources: list[Document] = [container.get("resources", {"cpuIdle": True}) for container in containers]
    path = "service.template.containers[0].resources.limits"
    limits: list[dict[str, str]] = [item.get("limits", {}) for item in resources]
    cpus = [parse_quantity(item.get("cpu") or "1") for item in limits]
    memories = [parse_quantity(item.get("memory") or "512Mi") for item in limits]
    if None in cpus or None in memories:
        return  # already reported as a quantity that cannot be parsed
    cpu, memory = sum(item or 0 for item in cpus), sum(item or 0 for item in memories)
    is_always_allocated = any(not item.get("cpuIdle", False) for item in resources)
    if cpu < 1 and template.get("maxInstanceRequestConcurrency", 0) > 1:
        yield f"{path}.cpu", "Total cpu < 1 is not supported with concurrency > 1."
    if cpu < 1 and is_always_allocated:
        yield f"{path}.cpu", "Total cpu < 1 is not supported with cpu always allocated."
    half_gi = 512 * 1024**2
    if memory < half_gi and is_always_allocated:
        yield f"{path}.memory", "Total memory < 512 Mi is not supported with cpu always allocated."
    if memory < half_gi and template.get("executionEnvironment") == "EXECUTION_ENVIRONMENT_GEN2":
        yield f"{path}.memory", "Total memory < 512 Mi is not supported with gen2 execution environment."

"""Validates one container of a template, with Cloud Run's error texts (docs/google-apis.md 3.1)."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from mcpfleet_local_cloud.services.run.quantities import GI, MI, parse_quantity
from mcpfleet_local_cloud.state.store import Document

Violation = tuple[str, str]
"""The field's path in protobuf spelling, and the error text."""

CONTAINER_LIMIT: Final = 10
RESERVED_ENV: Final = frozenset({"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"})
_ENV_LIMIT: Final = 32768
_PORT_LIMIT: Final = 65535
_IMAGE = re.compile(
    r"(?P<host>[a-zA-Z0-9.-]+(?::\d{1,5})?/)?[a-z0-9]+(?:(?:[._-]+|/)[a-z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_GOOGLE_REGISTRIES = re.compile(r"([a-z0-9-]+\.)?gcr\.io|([a-z0-9-]+-)?docker\.pkg\.dev|docker\.io")
SECRET_NAME = re.compile(r"(?:projects/[a-z0-9-]{1,63}/secrets/)?[a-zA-Z0-9_-]{1,255}")
SECRET_VERSION = re.compile(r"[a-zA-Z0-9_-]{1,63}")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_CPU_STEPS: Final = (1, 2, 4, 6, 8)
_MIN_CPU: Final = 0.08
# The allowed memory for a number of CPUs: https://cloud.google.com/run/docs/configuring/services/memory-limits
_MEMORY: Final = (
    (0.499, 128 * MI, 512 * MI),
    (0.999, 128 * MI, GI),
    (1, 128 * MI, 4 * GI),
    (2, 128 * MI, 8 * GI),
    (4, 2 * GI, 16 * GI),
    (6, 4 * GI, 24 * GI),
    (8, 4 * GI, 32 * GI),
)
_PROBE_LIMITS: Final = {"startup_probe": 240, "liveness_probe": 3600, "readiness_probe": 300}


def container_violations(
    path: str, container: Document, registries: frozenset[str], *, is_sidecar: bool = False
) -> Iterator[Violation]:
    """Find every violation in the container at *path*.

    Args:
        path: The path of the container in the request.
        container: The container.
        registries: Registries that are allowed in addition to Google's.
        is_sidecar: Whether it is a sidecar, which may set PORT: Cloud Run sets PORT only for the container that
            receives requests ("Container runtime contract"), and Google's example of a proxy sets another PORT for the
            server.
    """
    yield from _image(f"{path}.image", container.get("image", ""), registries)
    reserved = RESERVED_ENV - {"PORT"} if is_sidecar else RESERVED_ENV
    yield from _environment(f"{path}.env", container.get("env", []), reserved)
    yield from _ports(f"{path}.ports", container.get("ports", []))
    yield from _resources(f"{path}.resources.limits", container.get("resources", {}).get("limits", {}))
    for field, name in (
        ("startupProbe", "startup_probe"),
        ("livenessProbe", "liveness_probe"),
        ("readinessProbe", "readiness_probe"),
    ):
        if field in container:
            yield from _probe(path, name, container[field])
    for field in ("command", "args"):
        if any("\0" in word for word in container.get(field, [])):
            yield f"{path}.{field}", "must not contain a NUL character, which cannot be passed to a program."


def _image(path: str, image: str, registries: frozenset[str]) -> Iterator[Violation]:
    if not image:
        yield path, "must provide an image name to deploy."
        return
    match = _IMAGE.fullmatch(image)
    if match is None:
        yield path, "must be a container image path in the form [hostname/]repo-path[:tag and/or @digest]."
        return
    host = (match["host"] or "").removesuffix("/")
    has_registry = "." in host or ":" in host or host == "localhost"
    if has_registry and host not in registries and not _GOOGLE_REGISTRIES.fullmatch(host):
        yield (
            path,
            (
                "must be a container image path: Expected an image path like [host/]repo-path[:tag and/or @digest], "
                f"where host is one of [region.]gcr.io, [region-]docker.pkg.dev or docker.io but obtained {image}."
            ),
        )


def _environment(path: str, variables: Sequence[Document], reserved_names: frozenset[str]) -> Iterator[Violation]:
    reserved = [entry["name"] for entry in variables if entry.get("name") in reserved_names]
    if reserved:
        yield (
            path,
            (
                f"The following reserved env names were provided: {', '.join(reserved)}. "
                "These values are automatically set by the system."
            ),
        )
    for index, variable in enumerate(variables):
        name, value = variable.get("name", ""), variable.get("value", "")
        if not name or "=" in name or "\0" in name:
            yield f"{path}[{index}].name", "must not be empty and must not contain '=' or NUL."
        if len(name) > _ENV_LIMIT:
            yield f"{path}[{index}].name", f"length cannot exceed {_ENV_LIMIT}."
        if "valueSource" in variable:
            selector: Document = variable["valueSource"].get("secretKeyRef", {})
            selector_path = f"{path}[{index}].value_source.secret_key_ref"
            yield from secret_violations(selector_path, selector.get("secret", ""), selector.get("version") or "latest")
        if len(value.encode()) > _ENV_LIMIT:
            yield f"{path}[{index}].value", f"length cannot exceed {_ENV_LIMIT} bytes."
        if "\0" in value:
            yield f"{path}[{index}].value", "must not contain a NUL character, which cannot be passed to a program."


def secret_violations(path: str, secret: str, version: str) -> Iterator[Violation]:
    """Find the violations in a reference to a version of a secret."""
    if not SECRET_NAME.fullmatch(secret):
        yield f"{path}.secret", "must be {secret_name}, or projects/{project}/secrets/{secret_name}."
    if not SECRET_VERSION.fullmatch(version):
        yield f"{path}.version", "must be 'latest', an integer or an alias."


def _ports(path: str, ports: Sequence[Document]) -> Iterator[Violation]:
    if len(ports) > 1:
        yield path, "ports should contain 0 or 1 port."
    for index, port in enumerate(ports):
        if port.get("name", "") not in ("", "http1", "h2c"):
            yield f"{path}[{index}].name", "must be one of empty, 'http1' or 'h2c'."
        if not 0 <= port.get("containerPort", 0) <= _PORT_LIMIT:
            yield f"{path}[{index}].container_port", "must be 0 (unset) or between 1 and 65535."


def _resources(path: str, limits: dict[str, str]) -> Iterator[Violation]:
    unknown = sorted(set(limits) - {"cpu", "memory", "nvidia.com/gpu"})
    if unknown:
        yield path, f"only 'cpu', 'memory' and 'nvidia.com/gpu' limits are supported, not {unknown}."
    amounts: dict[str, float] = {}
    for field, default in (("cpu", "1"), ("memory", "512Mi")):
        amount = parse_quantity(limits.get(field) or default)
        if amount is None:
            yield f"{path}.{field}", f"Could not parse Quantity '{limits[field]}'."
        else:
            amounts[field] = amount
    if len(amounts) == 2 and "nvidia.com/gpu" not in limits:
        yield from _sizes(path, amounts["cpu"], amounts["memory"])


def _sizes(path: str, cpu: float, memory: float) -> Iterator[Violation]:
    if not (_MIN_CPU <= cpu <= 1 or cpu in _CPU_STEPS):
        yield (
            f"{path}.cpu",
            "Invalid value specified for container cpu. Must be equal to one of [.08-1], 1.0, 2.0, 4.0, 6.0, 8.0",
        )
        return
    minimum, maximum = next((low, high) for cpu_limit, low, high in _MEMORY if cpu <= cpu_limit)
    if not minimum <= memory <= maximum:
        yield (
            f"{path}.memory",
            (
                f"Invalid value specified for container memory. For {cpu} CPU, memory must be between "
                f"{_format_binary(minimum)} and {_format_binary(maximum)} inclusive."
            ),
        )


def _format_binary(size: int) -> str:
    return f"{size // GI}Gi" if size % GI == 0 else f"{size // MI}Mi"


def _probe(container: str, name: str, probe: Document) -> Iterator[Violation]:
    path, limit = f"{container}.{name}", _PROBE_LIMITS[name]
    kind = name.removesuffix("_probe")
    actions = [action for action in ("httpGet", "tcpSocket", "grpc") if action in probe]
    if not actions:
        yield path, "Exactly one probe action must be set: http_get, tcp_socket or grpc."
    if "tcpSocket" in actions and kind != "startup":
        yield path, f"Cloud Run does not support TCP socket in {kind} probe."
    delay = probe.get("initialDelaySeconds", 0)
    if kind == "readiness" and delay:
        yield f"{path}.initial_delay_seconds", "Initial delay is not supported for readiness probe."
    elif not 0 <= delay <= limit:
        yield path, f"initial_delay_seconds must be a number between 0 and {limit}."
    if "successThreshold" in probe:
        yield f"{path}.success_threshold", "Cannot find field: API v2 has no success threshold."
    yield from _timing(path, kind, probe)
    for field, protobuf_name in (("periodSeconds", "period_seconds"), ("timeoutSeconds", "timeout_seconds")):
        if not 0 <= probe.get(field, 0) <= limit:
            yield path, f"{protobuf_name} must be a number between 0 and {limit}."
    if probe.get("failureThreshold", 1) < 0:
        yield f"{path}.failure_threshold", "Must be a positive number if set."
    for action in actions:
        if not 0 <= probe[action].get("port", 0) <= _PORT_LIMIT:
            yield f"{path}.port", "if specified, must be between 1 and 65535."
    yield from _http_get(f"{path}.http_get", probe.get("httpGet", {}))


def _timing(path: str, kind: str, probe: Document) -> Iterator[Violation]:
    """Check timeout and period: the default startup probe has 240 s for both; other probes need a smaller timeout."""
    period, timeout = probe.get("periodSeconds") or 10, probe.get("timeoutSeconds") or 1
    if timeout > period or (timeout == period and kind != "startup"):
        yield f"{path}.timeout_seconds", "must be less than period_seconds."
    total_seconds = period * (probe.get("failureThreshold") or 3)
    if kind == "startup" and total_seconds > _PROBE_LIMITS["startup_probe"] >= period:
        yield path, f"failure_threshold * period_seconds is {total_seconds} seconds and must not exceed 240 seconds."


def _http_get(path: str, action: Document) -> Iterator[Violation]:
    target = action.get("path") or "/"
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target:
        yield f"{path}.path", "must be an absolute path of printable ASCII characters."
    for index, header in enumerate(action.get("httpHeaders", [])):
        header_path = f"{path}.http_headers[{index}]"
        if not _HEADER.fullmatch(header.get("name", "")):
            yield f"{header_path}.name", "a valid HTTP header must consist of alphanumeric characters or '-'."
        if any(char in "\r\n\0" for char in header.get("value", "")):
            yield f"{header_path}.value", "must not contain a line break or NUL."

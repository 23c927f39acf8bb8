"""`python -m mcpfleet_local_cloud.reference`: the methods and fields that this cloud supports, as Markdown in JSON.

Nothing is listed by hand: the methods come from the routes, and each field of a Cloud Run service is passed to the
cloud's own checks. `docs/local-cloud.md` contains the result; a test compares the two.
"""

import copy
import json
import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from pulumi.runtime.proto.provider_pb2 import GetSchemaRequest
from starlette.routing import Route

from mcpfleet_local_cloud import admin
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.identity import roles
from mcpfleet_local_cloud.plugins.docker_build.image import UNSUPPORTED as REFUSED_OF_IMAGES
from mcpfleet_local_cloud.plugins.docker_build.image import DockerBuildProvider
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import fields_of, parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.services.run import unsupported
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document

_APIS: Final = {
    "cloudbuild": "Cloud Build v1",
    "logging": "Cloud Logging v2",
    "serviceusage": "Service Usage",
    "crm": "Resource Manager",
    "iam": "IAM",
    "iamcredentials": "IAM Credentials",
    "sts": "Security Token Service",
    "billing": "Cloud Billing",
    "oauth2": "OAuth",
    "artifactregistry": "Artifact Registry",
    "secretmanager": "Secret Manager",
    "iap": "Identity-Aware Proxy",
    "agentregistry": "Agent Registry",
    "compute": "Compute Engine",
    "certificatemanager": "Certificate Manager",
    "dns": "Cloud DNS",
    "networkservices": "Network Services",
    "storage": "Cloud Storage",
    "upload": "Cloud Storage, uploads",
    "download": "Cloud Storage, downloads",
    "run": "Cloud Run Admin",
    "v2": "the registry",
    "_local": "the cloud's own",
}
_SCHEMAS: Final = load_api("run.v2").schemas
_CREATE_METHOD: Final = load_api("run.v2").methods["POST /run/v2/projects/{project}/locations/{location}/services"]
_SAMPLE_VALUES: Final[dict[str, Any]] = {
    "string": "x",
    "bool": True,
    "int32": 1,
    "int64": "1",
    "float": 0.5,
    "duration": "60s",
    "{string}": {"x": "x"},
}
# The path of a field → further values to try, which its type does not suggest.
_EXTRA_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "service.traffic[0].percent": (50, 100),
    "service.scaling": ({"scalingMode": "MANUAL", "manualInstanceCount": 0},),
    "service.template.timeout": ("0.5s",),
    "service.template": (
        {
            "containers": [{"image": "x", "volumeMounts": [{"name": "x", "mountPath": "/x", "subPath": "x"}]}],
            "volumes": [{"name": "x", "emptyDir": {}}],
        },
    ),
    "service.template.containers[0].volumeMounts": ([{"name": "x", "mountPath": "/etc/mcpfleet"}],),
    "service.template.containers[0].resources.limits": ({"nvidia.com/gpu": "1"},),
    "service.template.containers[0].ports": ([{"name": "h2c"}],),
}


def build_parts() -> dict[str, str]:
    """Build every generated part of the guide, by name."""
    return {
        "methods": _render_methods(),
        "supported": _render_supported(),
        "refused": _render_refusals(),
        "repositories": ", ".join(
            f"`{field.name}`"
            for name, field in sorted(fields_of("artifactregistry.v1", "Repository").items())
            if name == field.name and field.support.level == "refused"
        ),
        "roles": ", ".join(f"`{role}`" for role in sorted(roles.ROLES)),
        "plugins": _render_plugins(),
    }


def find_refusals() -> dict[str, str]:
    """Find each refused field of a Cloud Run service (with its refused values, if any is accepted) and the reason."""
    accepted: set[str] = set()
    refused: dict[str, tuple[str, list[str]]] = {}
    for path, value in _iterate_values():
        service = _build_service(path, value)
        refusal = _find_refusal(service)
        if refusal is None:
            accepted.add(path)
        else:
            field, reason = refusal
            values = refused.setdefault(field, (reason, []))[1]
            values += [value_text for value_text in [_value_at(service, field)] if value_text not in values]
    return {
        f"{path} = {', '.join(values)}" if path in accepted else path: reason
        for path, (reason, values) in refused.items()
    }


def find_supported_fields() -> dict[str, list[str]]:
    """Find the fields of each message that a caller may set and that accept at least one value."""
    supported: dict[str, list[str]] = {}
    refused = find_refusals()
    for message, path, field in _iterate_fields("Service", "service"):
        fields = supported.setdefault(message, [])
        if path not in refused and field not in fields:
            fields.append(field)
    return supported


def _render_methods() -> str:
    with tempfile.TemporaryDirectory() as folder:
        unused: Any = object()  # the routes are only listed, never called
        cloud = Cloud(Settings(state=Path(folder)), data_plane=unused)
        routes = [*cloud.routes(), *admin.routes(cloud)]
        cloud.store.close()
    groups: dict[str, list[str]] = {}
    for route in routes:
        assert isinstance(route, Route)  # noqa: S101 - all routes are of this type
        api = route.path.split("/")[1]
        methods = "|".join(sorted((route.methods or set()) - {"HEAD"})) if api != "v2" else "any"
        groups.setdefault(api, []).append(f"{methods:<8}{route.path}")
    return "\n\n".join(f"**{_APIS[api]}**\n\n```text\n" + "\n".join(lines) + "\n```" for api, lines in groups.items())


def _render_supported() -> str:
    rows = [
        f"| {message} | " + ", ".join(f"`{field}`" for field in fields) + " |"
        for message, fields in find_supported_fields().items()
    ]
    return "\n".join(["| message | fields |", "|---|---|", *rows])


def _render_refusals() -> str:
    rows = [f"| `{path}` | {reason} |" for path, reason in find_refusals().items()]
    return "\n".join(["| field | why, and what to do |", "|---|---|", *rows])


def _render_plugins() -> str:
    providers: list[Provider] = [GcpProvider(), DockerBuildProvider()]
    rows = [
        f"| `{provider.package}` {provider.version} | {', '.join(f'`{token}`' for token in _list_tokens(provider))} |"
        for provider in providers
    ]
    refused = ", ".join(f"`{name}`" for name in REFUSED_OF_IMAGES)
    table = "\n".join(["| plugin | resource types and functions |", "|---|---|", *rows])
    return f"{table}\n\nOf an image, {refused} are refused by name."


def _list_tokens(provider: Provider) -> list[str]:
    context: Any = None  # GetSchema does not use it
    schema: Document = json.loads(provider.GetSchema(GetSchemaRequest(), context).schema)
    return [*schema["resources"], *schema["functions"]]


def _iterate_fields(message: str, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield message, path and name of each field that a caller may set; skips the fields of refused messages."""
    for field, kind in _SCHEMAS[message].items():
        if kind.endswith("!"):
            continue
        field_path, inner = f"{path}.{field}", kind.strip("[]")
        yield message, field_path, field
        if inner in _SCHEMAS and (_find_refusal(_build_service(field_path, _sample(kind))) or ("",))[0] != field_path:
            yield from _iterate_fields(inner, f"{field_path}[0]" if kind.startswith("[") else field_path)


def _iterate_values() -> Iterator[tuple[str, Any]]:
    for message, field_path, field in _iterate_fields("Service", "service"):
        kind = _SCHEMAS[message][field]
        yield field_path, _sample(kind)
        if kind.startswith("enum "):
            yield from ((field_path, value) for value in kind.removeprefix("enum ").split("|"))
        yield from ((field_path, value) for value in _EXTRA_VALUES.get(field_path, ()))


def _sample(kind: str) -> Any:
    """A sample value of that type; for a message, one with its first field."""
    if kind.startswith("["):
        return [_sample(kind[1:-1])]
    if kind.startswith("enum "):
        return kind.rpartition("|")[2]
    if kind in _SCHEMAS:
        fields = ((name, inner) for name, inner in _SCHEMAS[kind].items() if not inner.endswith("!"))
        return {field: _sample(inner) for field, inner in list(fields)[:1]}
    return _SAMPLE_VALUES[kind]


def _build_service(path: str, value: Any) -> Document:
    """Build a minimal service whose field at *path* is *value*."""
    service: Document = {"template": {"containers": [{"image": "x"}]}}
    steps = _steps(path)
    holder: Any = service
    for step, following in pairwise(steps):
        holder = holder[0] if step == "[0]" else holder.setdefault(step, [{}] if following == "[0]" else {})
    holder[steps[-1]] = copy.deepcopy(value)
    service["template"].setdefault("containers", [{"image": "x"}])
    return service


def _find_refusal(service: Document) -> tuple[str, str] | None:
    """Return the first field that is refused and the reason, or None."""
    try:
        unsupported.check(parse_body(json.dumps(service).encode(), _CREATE_METHOD))
    except GoogleError as refusal:
        field, _, reason = refusal.message.partition(": the local cloud does not support this field yet: ")
        return field, reason
    return None


def _value_at(service: Document, path: str) -> str:
    node: Any = service
    try:
        for step in _steps(path):
            node = node[0] if step == "[0]" else node[step]
    except (KeyError, TypeError):
        return "unset"
    return str(node)


def _steps(path: str) -> list[str]:
    return re.findall(r"[^.\[\]]+|\[0\]", path.removeprefix("service."))


if __name__ == "__main__":
    print(json.dumps(build_parts()))

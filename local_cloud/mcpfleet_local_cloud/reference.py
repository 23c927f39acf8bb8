"""`python -m mcpfleet_local_cloud.reference`: what this cloud serves, honours and refuses, as Markdown in JSON.

Nothing is listed by hand: methods are read from the routes, and for each field of a Cloud Run service the cloud's own
checks are asked what they say of it. `docs/local-cloud.md` holds the result; a test compares the two.
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
from mcpfleet_local_cloud.plugins.docker_build.image import REFUSED as REFUSED_OF_IMAGES
from mcpfleet_local_cloud.plugins.docker_build.image import DockerBuildProvider
from mcpfleet_local_cloud.plugins.gcp.provider import GcpProvider
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.reading import fields_of, read
from mcpfleet_local_cloud.rest.schemas import load
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
_MESSAGES: Final = load("run.v2").schemas
_CREATE: Final = load("run.v2").methods["POST /run/v2/projects/{project}/locations/{location}/services"]
_VALUES: Final[dict[str, Any]] = {
    "string": "x",
    "bool": True,
    "int32": 1,
    "int64": "1",
    "float": 0.5,
    "duration": "60s",
    "{string}": {"x": "x"},
}
# A field's own path → values of it that its kind alone does not suggest.
_FURTHER: Final[dict[str, tuple[Any, ...]]] = {
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


def parts() -> dict[str, str]:
    """Every generated part of the guide, by name."""
    return {
        "methods": _methods(),
        "honoured": _honoured(),
        "refused": _refused(),
        "repositories": ", ".join(
            f"`{one.name}`"
            for name, one in sorted(fields_of("artifactregistry.v1", "Repository").items())
            if name == one.name and one.standing.kind == "refused"
        ),
        "roles": ", ".join(f"`{role}`" for role in sorted(roles.ROLES)),
        "plugins": _plugins(),
    }


def refusals() -> dict[str, str]:
    """Each field of a Cloud Run service that is refused by name (with its values, where others pass), and why."""
    passed: set[str] = set()
    found: dict[str, tuple[str, list[str]]] = {}
    for path, value in _every_value():
        service = _service(path, value)
        refusal = _refusal(service)
        if refusal is None:
            passed.add(path)
        else:
            field, why = refusal
            values = found.setdefault(field, (why, []))[1]
            values += [shown for shown in [_value_at(service, field)] if shown not in values]
    return {f"{path} = {', '.join(values)}" if path in passed else path: why for path, (why, values) in found.items()}


def honoured() -> dict[str, list[str]]:
    """The fields of each message that a caller may set and that are not refused whatever they hold."""
    found: dict[str, list[str]] = {}
    refused = refusals()
    for message, path, field in _fields("Service", "service"):
        fields = found.setdefault(message, [])
        if path not in refused and field not in fields:
            fields.append(field)
    return found


def _methods() -> str:
    with tempfile.TemporaryDirectory() as folder:
        nothing: Any = object()  # routes are listed here, never called
        cloud = Cloud(Settings(state=Path(folder)), data_plane=nothing)
        routes = [*cloud.routes(), *admin.routes(cloud)]
        cloud.store.close()
    groups: dict[str, list[str]] = {}
    for route in routes:
        assert isinstance(route, Route)  # noqa: S101 - there is no other kind here
        api = route.path.split("/")[1]
        methods = "|".join(sorted((route.methods or set()) - {"HEAD"})) if api != "v2" else "any"
        groups.setdefault(api, []).append(f"{methods:<8}{route.path}")
    return "\n\n".join(f"**{_APIS[api]}**\n\n```text\n" + "\n".join(lines) + "\n```" for api, lines in groups.items())


def _honoured() -> str:
    rows = [
        f"| {message} | " + ", ".join(f"`{one}`" for one in fields) + " |" for message, fields in honoured().items()
    ]
    return "\n".join(["| message | fields |", "|---|---|", *rows])


def _refused() -> str:
    rows = [f"| `{path}` | {why} |" for path, why in refusals().items()]
    return "\n".join(["| field | why, and what to do |", "|---|---|", *rows])


def _plugins() -> str:
    providers: list[Provider] = [GcpProvider(), DockerBuildProvider()]
    rows = [
        f"| `{one.package}` {one.version} | {', '.join(f'`{token}`' for token in _tokens(one))} |" for one in providers
    ]
    refused = ", ".join(f"`{name}`" for name in REFUSED_OF_IMAGES)
    table = "\n".join(["| plugin | resource types and functions |", "|---|---|", *rows])
    return f"{table}\n\nOf an image, {refused} are refused by name."


def _tokens(provider: Provider) -> list[str]:
    nobody: Any = None  # who asks for the schema does not matter
    schema: Document = json.loads(provider.GetSchema(GetSchemaRequest(), nobody).schema)
    return [*schema["resources"], *schema["functions"]]


def _fields(message: str, path: str) -> Iterator[tuple[str, str, str]]:
    """Message, path and name of each field that a caller may set; messages that are refused whole are not entered."""
    for field, kind in _MESSAGES[message].items():
        if kind.endswith("!"):
            continue
        here, inner = f"{path}.{field}", kind.strip("[]")
        yield message, here, field
        if inner in _MESSAGES and (_refusal(_service(here, _sample(kind))) or ("",))[0] != here:
            yield from _fields(inner, f"{here}[0]" if kind.startswith("[") else here)


def _every_value() -> Iterator[tuple[str, Any]]:
    for message, here, field in _fields("Service", "service"):
        kind = _MESSAGES[message][field]
        yield here, _sample(kind)
        if kind.startswith("enum "):
            yield from ((here, value) for value in kind.removeprefix("enum ").split("|"))
        yield from ((here, value) for value in _FURTHER.get(here, ()))


def _sample(kind: str) -> Any:
    """Some value of that kind; of a message, one with its first field."""
    if kind.startswith("["):
        return [_sample(kind[1:-1])]
    if kind.startswith("enum "):
        return kind.rpartition("|")[2]
    if kind in _MESSAGES:
        fields = ((name, inner) for name, inner in _MESSAGES[kind].items() if not inner.endswith("!"))
        return {field: _sample(inner) for field, inner in list(fields)[:1]}
    return _VALUES[kind]


def _service(path: str, value: Any) -> Document:
    """A plain service whose field at *path* is *value*."""
    service: Document = {"template": {"containers": [{"image": "x"}]}}
    steps = _steps(path)
    holder: Any = service
    for step, following in pairwise(steps):
        holder = holder[0] if step == "[0]" else holder.setdefault(step, [{}] if following == "[0]" else {})
    holder[steps[-1]] = copy.deepcopy(value)
    service["template"].setdefault("containers", [{"image": "x"}])
    return service


def _refusal(service: Document) -> tuple[str, str] | None:
    """The field that is refused first, and why."""
    try:
        unsupported.check(read(json.dumps(service).encode(), _CREATE))
    except GoogleError as refusal:
        field, _, why = refusal.message.partition(": the local cloud does not honour this field yet: ")
        return field, why
    return None


def _value_at(service: Document, path: str) -> str:
    found: Any = service
    try:
        for step in _steps(path):
            found = found[0] if step == "[0]" else found[step]
    except (KeyError, TypeError):
        return "unset"
    return str(found)


def _steps(path: str) -> list[str]:
    return re.findall(r"[^.\[\]]+|\[0\]", path.removeprefix("service."))


if __name__ == "__main__":
    print(json.dumps(parts()))

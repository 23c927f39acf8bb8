"""Renders Google's documents of services and revisions from the stored records."""

import hashlib
from typing import Final
from urllib.parse import quote

from mcpfleet_local_cloud.services.run.defaults import TRAFFIC_LATEST
from mcpfleet_local_cloud.services.run.locations import split_name
from mcpfleet_local_cloud.state.store import Document

SERVICE_TYPE: Final = "type.googleapis.com/google.cloud.run.v2.Service"
REVISION_TYPE: Final = "type.googleapis.com/google.cloud.run.v2.Revision"
# Fields of a template that a revision's document contains at its top level.
_TEMPLATE_FIELDS: Final = (
    "labels",
    "annotations",
    "scaling",
    "timeout",
    "serviceAccount",
    "executionEnvironment",
    "maxInstanceRequestConcurrency",
    "volumes",
    "vpcAccess",
    "sessionAffinity",
    "serviceMesh",
    "client",
    "clientVersion",
)


def service_etag(record: Document) -> str:
    """The service's etag, which changes only with a caller's changes, not with the progress of a deployment."""
    return _etag(record["uid"], str(record["generation"]))


def deterministic_host(record: Document) -> str:
    """The host name that Google computes from service, project number and region."""
    _, region, service = split_name(record["name"])
    return f"{service}-{record['projectNumber']}.{region}.run.app"


def urls(record: Document, uri: str) -> list[str]:
    """List the default URLs of the service; the first is *uri*, its real address here (left out if empty)."""
    if record["spec"].get("defaultUriDisabled"):
        return []
    deterministic = f"https://{deterministic_host(record)}"
    return [uri, deterministic] if uri else [deterministic]


def render_service(record: Document, uri: str) -> Document:
    """Render the service's document; *uri* is its address on this machine, or "" if it has none yet."""
    document: Document = {
        **record["spec"],
        "name": record["name"],
        "uid": record["uid"],
        "generation": str(record["generation"]),
        "createTime": record["createTime"],
        "updateTime": record["updateTime"],
        "creator": record["creator"],
        "lastModifier": record["lastModifier"],
        "reconciling": bool(record.get("pending") or record.get("deleting")),
        "conditions": record["conditions"],
        "terminalCondition": record["terminalCondition"],
        "etag": service_etag(record),
    }
    if uri and (all_urls := urls(record, uri)):
        document |= {"uri": uri, "urls": all_urls}
    if record["observedGeneration"]:
        document["observedGeneration"] = str(record["observedGeneration"])
        document["trafficStatuses"] = [{"type": TRAFFIC_LATEST, "percent": 100}]
    for field in ("latestReadyRevision", "latestCreatedRevision"):
        if record.get(field):
            document[field] = record[field]
    if record.get("deleting"):
        document["deleteTime"] = record["deleting"]["time"]
    return document


def render_revision(record: Document) -> Document:
    """Render the revision's document."""
    project, _, service_id = split_name(record["name"])
    template: Document = record["template"]
    revision_id = record["name"].rpartition("/")[2]
    containers: list[Document] = [dict(container) for container in template["containers"]]
    statuses: list[Document] = []
    for container, digest in zip(containers, record.get("digests") or [], strict=False):
        container["image"] = digest
        name_field = {"name": container["name"]} if container.get("name") else {}
        statuses.append({**name_field, "imageDigest": digest})
    query = (
        f'resource.type="cloud_run_revision"\nresource.labels.service_name="{service_id}"\n'
        f'resource.labels.revision_name="{revision_id}"'
    )
    return {
        **{field: template[field] for field in _TEMPLATE_FIELDS if field in template},
        "name": record["name"],
        "uid": record["uid"],
        "generation": "1",
        "observedGeneration": "1",
        "createTime": record["createTime"],
        "updateTime": record["updateTime"],
        "creator": record["creator"],
        "launchStage": record["launchStage"],
        "service": service_id,
        "containers": containers,
        **({"containerStatuses": statuses} if statuses else {}),
        "scalingStatus": {"desiredMinInstanceCount": template["scaling"].get("minInstanceCount", 0)},
        "reconciling": record["state"] in ("starting", "retiring"),
        "conditions": record["conditions"],
        "logUri": f"https://console.cloud.google.com/logs/viewer?project={project}&advancedFilter={quote(query)}",
        "etag": _etag(record["uid"], record["state"]),
    }


def _etag(*parts_: str) -> str:
    return f'"{hashlib.sha256("/".join(parts_).encode()).hexdigest()[:22]}"'

"""References to resources that a fleet uses but does not create: keys, policies, databases, connectors; annotations."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern
from pulumi_mcpfleet.fleet.values import REGION_FORM, matching

_PROJECT: Final = r"[a-z][a-z0-9:.-]{4,62}"

# Cloud KMS, "Resource IDs": 1 to 63 of letters, digits, _ and -.
_KEY: Final = (
    rf"projects/{_PROJECT}/locations/{REGION_FORM}/keyRings/[A-Za-z0-9_-]{{1,63}}/cryptoKeys/[A-Za-z0-9_-]{{1,63}}"
)
EncryptionKey = Annotated[
    str,
    matching(
        _KEY,
        "is not a key of Cloud KMS in a region; write projects/P/locations/REGION/keyRings/RING/cryptoKeys/KEY",
    ),
    FieldDoc("key", "keys", "`projects/P/locations/REGION/keyRings/RING/cryptoKeys/KEY`", pattern(_KEY)),
]


def key_region(key: str) -> str:
    """The region of a key of Cloud KMS."""
    return key.split("/")[3]


DEFAULT_POLICY: Final = "default"
_POLICY: Final = rf"default|projects/{_PROJECT}/platforms/cloudRun/[a-z0-9]([a-z0-9-]{{0,61}}[a-z0-9])?"
BinaryPolicy = Annotated[
    str,
    matching(_POLICY, "is not a policy; write default, the project's own, or projects/P/platforms/cloudRun/POLICY"),
    FieldDoc("policy", "policies", "`default`, or `projects/P/platforms/cloudRun/POLICY`", pattern(_POLICY)),
]

_INSTANCE: Final = rf"{_PROJECT}:{REGION_FORM}:[a-z][a-z0-9-]{{0,96}}"
SqlInstance = Annotated[
    str,
    matching(
        _INSTANCE,
        "is not a connection name; write PROJECT:REGION:INSTANCE, as `gcloud sql instances describe INSTANCE` shows it",
    ),
    FieldDoc("connection name", "connection names", "`PROJECT:REGION:INSTANCE`", pattern(_INSTANCE)),
]

_CONNECTOR: Final = rf"(projects/{_PROJECT}/locations/{REGION_FORM}/connectors/)?[a-z][a-z0-9-]{{0,23}}[a-z0-9]"
Connector = Annotated[
    str,
    matching(
        _CONNECTOR,
        "is not a connector; write its NAME, or projects/P/locations/REGION/connectors/NAME where it is shared",
    ),
    FieldDoc("connector", "connectors", "a name, or its full path in a host project", pattern(_CONNECTOR)),
]

# Cloud Run's API v2 refuses the annotations in which API v1 had its settings ("annotations", discovery document).
_SYSTEM_PREFIXES: Final = (
    "run.googleapis.com",
    "cloud.googleapis.com",
    "serving.knative.dev",
    "autoscaling.knative.dev",
)
_FLEET_PREFIX: Final = "mcpfleet"
# Kubernetes, "Annotations": an optional DNS name and /, then at most 63 of letters, digits, -, _ and dots.
_ANNOTATION: Final = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"


def _check_annotation_key(value: str) -> str:
    if not re.fullmatch(_ANNOTATION, value):
        raise ValueError(
            f"{value[:200]!r} cannot be an annotation's key; write acme.dev/owner: at most 63 of letters, digits, ., _"
            " and -, after a DNS name and / where it has one"
        )
    prefix = value.partition("/")[0] if "/" in value else ""
    if any(prefix == system or prefix.endswith(f".{system}") for system in _SYSTEM_PREFIXES):
        raise ValueError(f"{value} is a setting of Cloud Run's older API; write the fleet's key for it")
    if prefix == _FLEET_PREFIX:
        raise ValueError(f"{prefix}/ is the fleet's own; write another prefix")
    return value


AnnotationKey = Annotated[
    str,
    AfterValidator(_check_annotation_key),
    FieldDoc(
        "annotation",
        "annotations",
        "keys: `[DNS-NAME/]NAME`, at most 63 of letters, digits, `.`, `_`, `-`; not Cloud Run's, not `mcpfleet/…`",
        pattern(_ANNOTATION),
    ),
]


NfsServer = Annotated[
    str,
    matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "is not a server; write its IP address or its DNS name"),
    FieldDoc("server", "servers", "an IP address, or a DNS name"),
]
NfsPath = Annotated[
    str,
    Field(max_length=1024),
    matching(r"/([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?", "is not the path of an export; write it as /share"),
    FieldDoc("path", "paths", "`/` first, no `/` last"),
]

"""What Google's APIs take and answer: tables from Google's discovery documents, each read when it is first needed.

`devtools.discovery` writes the tables and says what is in them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
APIS: Final[Mapping[str, str]] = {
    "/agentregistry/v1": "agentregistry.v1",
    "/artifactregistry/v1": "artifactregistry.v1",
    "/billing/v1": "cloudbilling.v1",
    "/certificatemanager/v1": "certificatemanager.v1",
    "/cloudbuild/v1": "cloudbuild.v1",
    "/compute/v1": "compute.v1",
    "/crm/v1": "cloudresourcemanager.v1",
    "/crm/v3": "cloudresourcemanager.v3",
    "/dns/v1": "dns.v1",
    "/download/storage/v1": "storage.v1",
    "/iam/v1": "iam.v1",
    "/iamcredentials/v1": "iamcredentials.v1",
    "/iap/v1": "iap.v1",
    "/logging/v2": "logging.v2",
    "/networkservices/v1": "networkservices.v1",
    "/run/v2": "run.v2",
    "/secretmanager/v1": "secretmanager.v1",
    "/serviceusage/v1": "serviceusage.v1",
    "/serviceusage/v1beta1": "serviceusage.v1beta1",
    "/storage/v1": "storage.v1",
    "/sts/v1": "sts.v1",
    "/upload/storage/v1": "storage.v1",
}
"""Each prefix that is served, and the discovery document of its API."""
SCOPE: Final = "https://www.googleapis.com/auth/"
"""How the scopes of Google's own APIs begin."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of an API.

    Attributes:
        api: the discovery document that has it, `run.v2`.
        id: its name there, `run.projects.locations.services.create`.
        request: the schema of its body; empty where it takes none.
        response: the schema of its answer; empty where that has no body.
        query: its query parameters, by their names, with their kinds.
        scopes: of which a token needs one, as URLs.
    """

    api: str
    id: str
    request: str = ""
    response: str = ""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Api:
    """The methods of one API, by verb and path of the route, and its schemas: fields and their kinds."""

    methods: Mapping[str, Method]
    schemas: Mapping[str, Mapping[str, str]]


def api_of(path: str) -> str:
    """The discovery document of the API at *path*; empty where that is no JSON API of Google's."""
    parts = path.split("/")
    length = 4 if parts[1] in ("download", "upload") else 3
    return APIS.get("/".join(parts[:length]), "")


@cache
def table(api: str) -> Mapping[str, Any]:
    """The table as it is kept."""
    return json.loads((FOLDER / f"{api}.json").read_bytes())


@cache
def load(api: str) -> Api:
    """What the table of *api* says."""
    read = table(api)
    return Api(
        methods={key: _method(api, **one) for key, one in read["methods"].items()},
        schemas=read["schemas"],
    )


def _method(api: str, *, scopes: str = "", **said: Any) -> Method:
    return Method(api=api, scopes=frozenset(SCOPE + one for one in scopes.split()), **said)


def method_at(verb: str, path: str) -> Method | None:
    """The method at the route *path*; None where Google has none."""
    api = api_of(path)
    return load(api).methods.get(f"{verb} {path}") if api else None

"""Methods and schemas of Google's APIs: tables from Google's discovery documents, each loaded when first needed.

`devtools.discovery` writes the tables and documents their format.
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
"""The discovery document of the API at each path prefix."""
SCOPE_PREFIX: Final = "https://www.googleapis.com/auth/"
"""The prefix of the OAuth scopes of Google's APIs."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of an API.

    Attributes:
        api: the discovery document of the method, `run.v2`.
        id: the name in that document, `run.projects.locations.services.create`.
        request: the schema of the request's body; empty if there is none.
        response: the schema of the response's body; empty if there is none.
        query: the types of the query parameters, by name.
        scopes: the OAuth scopes as URLs; a token needs one of them.
    """

    api: str
    id: str
    request: str = ""
    response: str = ""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    scopes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Api:
    """The methods of one API, by verb and path of the route, and its schemas: fields and their types."""

    methods: Mapping[str, Method]
    schemas: Mapping[str, Mapping[str, str]]


def api_of(path: str) -> str:
    """The discovery document of the API at *path*; empty if no JSON API of Google is there."""
    parts = path.split("/")
    length = 4 if parts[1] in ("download", "upload") else 3
    return APIS.get("/".join(parts[:length]), "")


@cache
def read_table(api: str) -> Mapping[str, Any]:
    """Read the table of *api* as it is stored."""
    return json.loads((FOLDER / f"{api}.json").read_bytes())


@cache
def load_api(api: str) -> Api:
    """Load the methods and schemas of *api*."""
    table = read_table(api)
    return Api(
        methods={key: _build_method(api, **entry) for key, entry in table["methods"].items()},
        schemas=table["schemas"],
    )


def _build_method(api: str, *, scopes: str = "", **fields: Any) -> Method:
    return Method(api=api, scopes=frozenset(SCOPE_PREFIX + scope for scope in scopes.split()), **fields)


def find_method(verb: str, path: str) -> Method | None:
    """The method with that *verb* and route *path*; None if Google has none."""
    api = api_of(path)
    return load_api(api).methods.get(f"{verb} {path}") if api else None

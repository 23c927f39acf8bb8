"""Types for image references, for the fleet's repository, and for the registries that it is a proxy of."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from pulumi_mcpfleet.fleet import values
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern

# The grammar of the distribution project's reference package, which Cloud Run's error quotes as
# "[host/]repo-path[:tag and/or @digest]".
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?/)?"
_IMAGE: Final = (
    rf"{_HOST}{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
ImageUrl = Annotated[
    str,
    Field(max_length=1024),
    values.matching(
        _IMAGE, "is not an image; write [HOST/]PATH[:TAG][@sha256:DIGEST] in small letters, without https://"
    ),
    FieldDoc("image", "images", "`[HOST/]PATH[:TAG][@sha256:DIGEST]`, at most 1,024 characters", pattern(_IMAGE)),
]


def is_pinned(image: str) -> bool:
    """Check whether *image* has a digest, so that its content never changes."""
    return "@sha256:" in image


def host_of(image: str) -> str:
    """The host of *image*'s registry; an image without a host is in Docker Hub, as for Docker itself."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def is_pullable(image: str) -> bool:
    """Check whether Cloud Run pulls directly from *image*'s registry.

    "Artifact Registry, Container Registry or Docker Hub" (docs/google-apis.md 3.1: ghcr.io is rejected). A host with a
    port is a private registry: it passes, because only the cloud knows whether it can pull from there.
    """
    host = host_of(image)
    return ":" in host or host in {"docker.io", "index.docker.io", "gcr.io"} or host.endswith((".pkg.dev", ".gcr.io"))


# Artifact Registry: repository ids match this (projects.locations.repositories.create).
_REPOSITORY: Final = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
RepositoryId = Annotated[
    str,
    values.matching(_REPOSITORY, "is not a repository's name; use at most 63 of a-z, 0-9 and -, a letter first"),
    FieldDoc("repository", "repositories", "1 to 63 of `a-z`, `0-9`, `-`; a letter first", pattern(_REPOSITORY)),
]
_UPSTREAM: Final = r"[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]{1,5})?"


def _check_upstream(value: str) -> str:
    if not re.fullmatch(_UPSTREAM, value):
        raise ValueError(
            f"{value[:200]!r} is not a registry; write its host, such as ghcr.io, without https:// and without a path"
        )
    return value


UpstreamRegistry = Annotated[
    str,
    AfterValidator(_check_upstream),
    FieldDoc("registry", "registries", "hosts, such as `ghcr.io`", pattern(_UPSTREAM)),
]


def _to_tuple(value: object) -> object:
    if isinstance(value, str):
        return (
            _check_upstream(value),
        )  # checked here, so that the mistake's path has no index: the user wrote no list
    return () if value is None else value


UpstreamRegistries = Annotated[
    tuple[UpstreamRegistry, ...],
    BeforeValidator(_to_tuple),
    FieldDoc(
        "registry, or list of them",
        "",
        "hosts, such as `ghcr.io`",
        {"type": ["string", "array"], **pattern(_UPSTREAM)},
    ),
]
"""One host, or a list of hosts."""

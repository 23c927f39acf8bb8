"""The resource types of Certificate Manager that exist here."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """The documents of one collection.

    Attributes:
        collection: the collection's name in paths.
        message: the message type of a document.
        permission: the resource in the permissions, `certificatemanager.<permission>.create`.
        id_parameter: the query parameter with the name of a new document.
        mutable: the fields that can be changed.
    """

    collection: str
    message: str
    permission: str
    id_parameter: str
    mutable: frozenset[str] = frozenset({"description", "labels"})


CERTIFICATES: Final = ResourceType(
    collection="certificates", message="Certificate", permission="certs", id_parameter="certificateId"
)
AUTHORIZATIONS: Final = ResourceType(
    collection="dnsAuthorizations",
    message="DnsAuthorization",
    permission="dnsauthorizations",
    id_parameter="dnsAuthorizationId",
)
MAPS: Final = ResourceType(
    collection="certificateMaps", message="CertificateMap", permission="certmaps", id_parameter="certificateMapId"
)
ENTRIES: Final = ResourceType(
    collection="certificateMapEntries",
    message="CertificateMapEntry",
    permission="certmapentries",
    id_parameter="certificateMapEntryId",
    mutable=frozenset({"description", "labels", "certificates"}),
)
RESOURCE_TYPES: Final = (CERTIFICATES, AUTHORIZATIONS, MAPS, ENTRIES)
PRIMARY_MATCHER: Final = "PRIMARY"
"""The matcher of the entry for all other host names."""
_BY_COLLECTION: Final = {kind.collection: kind for kind in RESOURCE_TYPES}


def resource_type_at(path: str) -> ResourceType:
    """The resource type of the document at *path*."""
    return _BY_COLLECTION[path.split("/")[-2]]

"""The kinds of documents of Certificate Manager that there are here."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """One collection.

    Attributes:
        collection: as paths have it.
        message: one document of it.
        permission: the resource in its permissions, `certificatemanager.<permission>.create`.
        id_parameter: the query parameter with a new one's name.
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
KINDS: Final = (CERTIFICATES, AUTHORIZATIONS, MAPS, ENTRIES)
PRIMARY: Final = "PRIMARY"
"""The matcher of the entry for whatever no other entry is for."""
_BY_COLLECTION: Final = {kind.collection: kind for kind in KINDS}


def kind_at(path: str) -> ResourceType:
    """The kind of the document at *path*."""
    return _BY_COLLECTION[path.split("/")[-2]]

"""gcp:certificatemanager types: certificates, and the maps from host names to certificates (google-apis.md 1.7).

The types have only the properties that the local cloud honours; all others of the real provider are errors. The facts
are from terraform-provider-google-beta 7.45, services/certificatemanager.
"""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.equivalence import same_but_number, same_or_default, same_resource
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, mapping, text, texts
from mcpfleet_local_cloud.plugins.values import Properties

_NAME: Final = text("name", "", force_new=True, autoname=63)
_LOCATION: Final = text("location", "", default="global", force_new=True)
_TIMES: Final = (text("createTime", output=True), text("updateTime", output=True))
_ATTEMPTS: Final = blocks(
    "authorizationAttemptInfos",
    [text("domain", output=True), text("state", output=True)],
    "authorizationAttemptInfo",
    output=True,
)


def _certificate_fields(*fields: Field) -> tuple[Field, ...]:
    labels = (
        mapping("labels", ""),
        mapping("effectiveLabels", "", output=True),
        mapping("pulumiLabels", "", output=True),
    )
    return (PROJECT, DELETION_POLICY, text("description"), *fields, *labels)


class _CertificateResource(RestResource):
    """The base class of Certificate Manager's types."""

    endpoint = "certificateManagerCustomEndpoint"
    update_method = "mask"
    operation_kind = "google"
    has_labels = True
    maskable = ("description",)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body; an update has only the properties that can change."""
        body = super().body(planned, olds)
        return {name: value for name, value in body.items() if not olds or name in ("labels", *self.maskable)}

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The project and the short name, from the full name."""
        parts = str(body["name"]).split("/")
        return {"project": parts[1], "name": parts[-1]}


class Certificate(_CertificateResource):
    """A certificate that Google issues."""

    type_name = "gcp:certificatemanager/certificate:Certificate"
    fields = (
        _NAME,
        _LOCATION,
        *_certificate_fields(
            text("scope", default="DEFAULT", force_new=True, equivalent=same_or_default("DEFAULT")),
            block(
                "managed",
                [
                    texts("domains", force_new=True),
                    texts("dnsAuthorizations", force_new=True, equivalent=same_but_number),
                    text("state", output=True),
                    _ATTEMPTS,
                ],
                force_new=True,
            ),
            texts("sanDnsnames", output=True),
        ),
    )
    id_format = "projects/{project}/locations/{location}/certificates/{name}"
    import_formats = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Certificate"
    create_parameter = "certificateId"


class DnsAuthorization(_CertificateResource):
    """The permission to issue certificates for a domain, proven by a DNS record."""

    type_name = "gcp:certificatemanager/dnsAuthorization:DnsAuthorization"
    fields = (
        _NAME,
        _LOCATION,
        *_certificate_fields(
            text("domain", required=True, force_new=True),
            text("type", computed=True, force_new=True, choices=("FIXED_RECORD", "PER_PROJECT_RECORD")),
            blocks(
                "dnsResourceRecords",
                [text("name", output=True), text("type", output=True), text("data", output=True)],
                "dnsResourceRecord",
                output=True,
            ),
        ),
    )
    id_format = "projects/{project}/locations/{location}/dnsAuthorizations/{name}"
    import_formats = ("{project}/{location}/{name}", "{location}/{name}")
    title = "DnsAuthorization"
    create_parameter = "dnsAuthorizationId"


class CertificateMap(_CertificateResource):
    """A map from host names to certificates."""

    type_name = "gcp:certificatemanager/certificateMap:CertificateMap"
    fields = (
        _NAME,
        *_certificate_fields(
            blocks(
                "gclbTargets",
                [
                    text("targetHttpsProxy", output=True),
                    blocks("ipConfigs", [text("ipAddress", output=True), texts("ports", output=True)], output=True),
                ],
                output=True,
            ),
        ),
        *_TIMES,
    )
    id_format = "projects/{project}/locations/global/certificateMaps/{name}"
    import_formats = ("{project}/{name}", "{name}")
    title = "CertificateMap"
    create_parameter = "certificateMapId"


class CertificateMapEntry(_CertificateResource):
    """The certificates of one host name in a map."""

    type_name = "gcp:certificatemanager/certificateMapEntry:CertificateMapEntry"
    fields = (
        text("name", force_new=True, autoname=63),
        text("map", "", required=True, force_new=True, equivalent=same_resource),
        *_certificate_fields(
            texts("certificates", required=True, equivalent=same_but_number),
            text("hostname", force_new=True, conflicts=("matcher",)),
            text("matcher", force_new=True, conflicts=("hostname",)),
            text("state", output=True),
        ),
        *_TIMES,
    )
    id_format = "projects/{project}/locations/global/certificateMaps/{map}/certificateMapEntries/{name}"
    import_formats = ("{project}/{map}/{name}", "{map}/{name}")
    title = "CertificateMapEntry"
    create_parameter = "certificateMapEntryId"
    maskable = ("description", "certificates")


TYPES: Final = (Certificate, CertificateMap, CertificateMapEntry, DnsAuthorization)

"""gcp:certificatemanager types: certificates and the maps that load balancers choose them by (google-apis.md 1.7).

Only the properties that the local cloud honours are here; the provider has more, which are refused by name. The facts
are from terraform-provider-google-beta 7.45, services/certificatemanager.
"""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.gcp.alike import same_but_number, same_or_default, same_resource
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
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


def _own(*fields: Field) -> tuple[Field, ...]:
    labels = (
        mapping("labels", ""),
        mapping("effectiveLabels", "", output=True),
        mapping("pulumiLabels", "", output=True),
    )
    return (PROJECT, DELETION_POLICY, text("description"), *fields, *labels)


class _CertificateResource(RestResource):
    """What the types of Certificate Manager have in common."""

    endpoint = "certificateManagerCustomEndpoint"
    updating = "mask"
    waiting = "google"
    labelled = True
    masked = ("description",)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document; a change has only what can be changed."""
        body = super().body(planned, olds)
        return {name: value for name, value in body.items() if not olds or name in ("labels", *self.masked)}

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """Where and under which name it is."""
        parts = str(body["name"]).split("/")
        return {"project": parts[1], "name": parts[-1]}


class Certificate(_CertificateResource):
    """A certificate that Google issues."""

    type_name = "gcp:certificatemanager/certificate:Certificate"
    fields = (
        _NAME,
        _LOCATION,
        *_own(
            text("scope", default="DEFAULT", force_new=True, alike=same_or_default("DEFAULT")),
            block(
                "managed",
                [
                    texts("domains", force_new=True),
                    texts("dnsAuthorizations", force_new=True, alike=same_but_number),
                    text("state", output=True),
                    _ATTEMPTS,
                ],
                force_new=True,
            ),
            texts("sanDnsnames", output=True),
        ),
    )
    id_form = "projects/{project}/locations/{location}/certificates/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Certificate"
    create_query = "certificateId"


class DnsAuthorization(_CertificateResource):
    """The proof, by a record of its DNS, that certificates may be issued for a domain."""

    type_name = "gcp:certificatemanager/dnsAuthorization:DnsAuthorization"
    fields = (
        _NAME,
        _LOCATION,
        *_own(
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
    id_form = "projects/{project}/locations/{location}/dnsAuthorizations/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}")
    title = "DnsAuthorization"
    create_query = "dnsAuthorizationId"


class CertificateMap(_CertificateResource):
    """Which certificate is shown for which name."""

    type_name = "gcp:certificatemanager/certificateMap:CertificateMap"
    fields = (
        _NAME,
        *_own(
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
    id_form = "projects/{project}/locations/global/certificateMaps/{name}"
    import_forms = ("{project}/{name}", "{name}")
    title = "CertificateMap"
    create_query = "certificateMapId"


class CertificateMapEntry(_CertificateResource):
    """The certificates of one name."""

    type_name = "gcp:certificatemanager/certificateMapEntry:CertificateMapEntry"
    fields = (
        text("name", force_new=True, autoname=63),
        text("map", "", required=True, force_new=True, alike=same_resource),
        *_own(
            texts("certificates", required=True, alike=same_but_number),
            text("hostname", force_new=True, conflicts=("matcher",)),
            text("matcher", force_new=True, conflicts=("hostname",)),
            text("state", output=True),
        ),
        *_TIMES,
    )
    id_form = "projects/{project}/locations/global/certificateMaps/{map}/certificateMapEntries/{name}"
    import_forms = ("{project}/{map}/{name}", "{map}/{name}")
    title = "CertificateMapEntry"
    create_query = "certificateMapEntryId"
    masked = ("description", "certificates")


TYPES: Final = (Certificate, CertificateMap, CertificateMapEntry, DnsAuthorization)

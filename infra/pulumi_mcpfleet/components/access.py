"""Who may call a service, in the provider's words (its switches, the grants beside it), and what its account may do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.components.foundation import Foundation
from pulumi_mcpfleet.fleet import Access, IamAccess, IapAccess, LoginAccess, OauthAccess, PublicAccess
from pulumi_mcpfleet.fleet.access import Iap, OauthClient, access_kind
from pulumi_mcpfleet.fleet.references import DEFAULT_POLICY

if TYPE_CHECKING:
    from pulumi_gcp.iap import SettingsAccessSettingsOauthSettingsArgsDict as OauthSettings


from pulumi_mcpfleet.fleet import Workload
from pulumi_mcpfleet.fleet.roles import role_names

INVOKER_ROLE: Final = "roles/run.invoker"
IAP_ROLE: Final = "roles/iap.httpsResourceAccessor"

ACCESS_NOTE: Final = "mcpfleet/access"
REASON_NOTE: Final = "mcpfleet/public-reason"
"""Annotations: whoever finds a service that Cloud Run lets everybody call reads there why."""


@dataclass(frozen=True, kw_only=True)
class GrantTarget:
    """A service to grant access to.

    Attributes:
        server: Its name in the stack (`naming.of_service`).
        project: The Google Cloud project.
        region: The service's region.
        service: The service's name, once it exists.
    """

    server: str
    project: str
    region: str
    service: pulumi.Output[str]


def switches(spec: Workload) -> dict[str, Any]:
    """The arguments of the service that say who and what is let in, and its annotations, which say why."""
    found: dict[str, Any] = {}
    notes = dict(spec.annotations)
    match spec.access:
        case IamAccess():
            pass
        case IapAccess():
            found["iap_enabled"] = True
        case LoginAccess():
            found["invoker_iam_disabled"] = True
            notes[ACCESS_NOTE] = "login"
        case OauthAccess():
            # Not by a grant to allUsers, which many organizations forbid: a policy would refuse it half way.
            found["invoker_iam_disabled"] = True
            notes[ACCESS_NOTE] = "oauth"
        case PublicAccess(public=public):
            found["invoker_iam_disabled"] = True
            notes |= {ACCESS_NOTE: "public", REASON_NOTE: public.reason}
    if notes:
        found["annotations"] = notes
    if spec.binary_authorization is not None:
        by_default = spec.binary_authorization == DEFAULT_POLICY
        found["binary_authorization"] = {"use_default": True} if by_default else {"policy": spec.binary_authorization}
    return found


def told(access: Access, service: str, regions: Sequence[str], foundation: Foundation) -> dict[str, pulumi.Input[str]]:
    """What the container finds in its environment about who has checked its callers.

    Args:
        access: The service's.
        service: The Cloud Run service's name.
        regions: Where it is; Identity-Aware Proxy calls it by another name in each.
        foundation: Knows the project's number.
    """
    found: dict[str, pulumi.Input[str]] = {environment.ACCESS: access_kind(access)}
    if isinstance(access, IapAccess):
        found[environment.IAP_AUDIENCE] = foundation.project_number.apply(
            lambda number: ",".join(
                naming.iap_audience(service, project_number=number, region=region) for region in regions
            )
        )
    return found


def grants(
    access: Access, guarded: GrantTarget, foundation: Foundation, child: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """Let in whom *access* names, and nobody else. Members, never a binding: that drops the grants it does not list."""
    match access:
        case IamAccess(iam=iam):
            return [_invoker(guarded, member, member, child) for member in iam.invokers]
        case IapAccess(iap=iap) if foundation.iap_agent is not None:
            agent = _invoker(guarded, "iap", foundation.iap_agent, child)
            return [agent, *_iap_members(guarded, iap, child), *_iap_settings(guarded, iap, foundation, child)]
        case _:
            return []


def admitted(
    access: Access, guarded: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Let in one member more, a client of the fleet's, by a grant of this name: at IAP where that is in front."""
    if isinstance(access, IapAccess):
        return _iap_member(guarded, name, member, child)
    return _may_invoke(guarded, name, member, child)


def _invoker(
    guarded: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.cloudrunv2.ServiceIamMember:
    grant = naming.grant_name(naming.regional_name(guarded.server, guarded.region), "invoker", name)
    return _may_invoke(guarded, grant, member, child)


def _may_invoke(
    guarded: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.cloudrunv2.ServiceIamMember:
    return gcp.cloudrunv2.ServiceIamMember(
        name,
        project=guarded.project,
        location=guarded.region,
        name=guarded.service,
        role=INVOKER_ROLE,
        member=member,
        opts=child,
    )


def _iap_members(guarded: GrantTarget, iap: Iap, child: pulumi.ResourceOptions) -> Sequence[pulumi.Resource]:
    place = naming.regional_name(guarded.server, guarded.region)
    return [_iap_member(guarded, naming.grant_name(place, "iap", one), one, child) for one in iap.members]


def _iap_member(
    guarded: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.iap.WebCloudRunServiceIamMember:
    return gcp.iap.WebCloudRunServiceIamMember(
        name,
        project=guarded.project,
        location=guarded.region,
        cloud_run_service_name=guarded.service,
        role=IAP_ROLE,
        member=member,
        opts=child,
    )


def _iap_settings(
    guarded: GrantTarget, iap: Iap, foundation: Foundation, child: pulumi.ResourceOptions
) -> Sequence[pulumi.Resource]:
    if iap.oauth_client is None and not iap.programmatic_clients:
        return []
    oauth: OauthSettings = {}
    if iap.programmatic_clients:
        oauth["programmatic_clients"] = iap.programmatic_clients
    if iap.oauth_client is not None:
        oauth["client_id"] = iap.oauth_client.client_id
        oauth["client_secret"] = _client_secret(iap.oauth_client, guarded, foundation, child)
    # The service's name is waited for: there are no settings of a service that does not exist.
    resource = pulumi.Output.all(foundation.project_number, guarded.service).apply(
        lambda known: naming.iap_resource(known[1], project_number=known[0], region=guarded.region)
    )
    return [
        gcp.iap.Settings(
            naming.regional_name(guarded.server, guarded.region),
            name=resource,
            access_settings={"oauth_settings": oauth},
            opts=child,
        )
    ]


def _client_secret(
    client: OauthClient, guarded: GrantTarget, foundation: Foundation, child: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """The client's secret, read at each run by whoever deploys; it stays a secret in Pulumi's state."""
    found = gcp.secretmanager.get_secret_version_access_output(
        project=naming.secret_project(client.secret, guarded.project),
        secret=naming.secret_id(client.secret),
        version=client.version,
        opts=pulumi.InvokeOutputOptions(parent=child.parent, depends_on=foundation.apis),
    )
    return pulumi.Output.secret(found.secret_data)


_SECRET_ROLE: Final = "roles/secretmanager.secretAccessor"  # noqa: S105 - a role
_SQL_ROLE: Final = "roles/cloudsql.client"
_READS_BUCKET: Final = "roles/storage.objectViewer"
_WRITES_BUCKET: Final = "roles/storage.objectUser"


def rights(
    name: str,
    spec: Workload,
    *,
    project: str,
    email: pulumi.Output[str],
    child: pulumi.ResourceOptions,
    also: Sequence[str] = (),
) -> list[pulumi.Resource]:
    """What an identity has to be able to do when its service is made, and nothing else.

    Args:
        name: The server's name, or a client's.
        spec: Its roles, secrets and buckets.
        project: The Google Cloud project.
        email: The account's address.
        child: For each grant.
        also: Roles besides.
    """
    sockets = (_SQL_ROLE,) if spec.cloudsql_instances else ()
    roles = tuple(dict.fromkeys((*role_names(spec.roles), *sockets, *also)))
    if not (roles or spec.all_secrets or spec.buckets):
        return []
    member = email.apply(naming.account_member)
    return [
        *_roles(name, roles, project, member, child),
        *_secrets(name, spec, project, member, child),
        *_buckets(name, spec, member, child),
    ]


def _roles(
    name: str, roles: Sequence[str], project: str, member: pulumi.Output[str], child: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    return [
        gcp.projects.IAMMember(f"{name}-{role}", project=project, role=role, member=member, opts=child)
        for role in roles
    ]


def _secrets(
    name: str, spec: Workload, project: str, member: pulumi.Output[str], child: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """Read access to each secret, and to no other: Cloud Run refuses a revision that may not read its own."""
    return [
        gcp.secretmanager.SecretIamMember(
            naming.grant_name(name, "secret", naming.secret_id(secret)),
            project=naming.secret_project(secret, project),
            secret_id=naming.secret_id(secret),
            role=_SECRET_ROLE,
            member=member,
            opts=child,
        )
        for secret in spec.all_secrets
    ]


def _buckets(
    name: str, spec: Workload, member: pulumi.Output[str], child: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    return [
        gcp.storage.BucketIAMMember(
            naming.grant_name(name, "bucket", bucket),
            bucket=bucket,
            role=_READS_BUCKET if read_only else _WRITES_BUCKET,
            member=member,
            opts=child,
        )
        for bucket, read_only in spec.buckets.items()
    ]

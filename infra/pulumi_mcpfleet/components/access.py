"""Access to a service: the service's arguments, the grants to its callers, and the permissions of its account."""

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

ACCESS_ANNOTATION: Final = "mcpfleet/access"
REASON_ANNOTATION: Final = "mcpfleet/public-reason"
"""Annotations of a service that Cloud Run lets everyone call; they explain why."""


@dataclass(frozen=True, kw_only=True)
class GrantTarget:
    """A service to grant access to.

    Attributes:
        server: The service's name in the stack (`naming.per_service_name`).
        project: The Google Cloud project.
        region: The service's region.
        service: The service's name, known when the service exists.
    """

    server: str
    project: str
    region: str
    service: pulumi.Output[str]


def access_arguments(spec: Workload) -> dict[str, Any]:
    """Return the service's arguments for access and Binary Authorization, with annotations that explain them."""
    arguments: dict[str, Any] = {}
    annotations = dict(spec.annotations)
    match spec.access:
        case IamAccess():
            pass
        case IapAccess():
            arguments["iap_enabled"] = True
        case LoginAccess():
            arguments["invoker_iam_disabled"] = True
            annotations[ACCESS_ANNOTATION] = "login"
        case OauthAccess():
            # No grant to allUsers: many organizations forbid it, and the update would fail halfway.
            arguments["invoker_iam_disabled"] = True
            annotations[ACCESS_ANNOTATION] = "oauth"
        case PublicAccess(public=public):
            arguments["invoker_iam_disabled"] = True
            annotations |= {ACCESS_ANNOTATION: "public", REASON_ANNOTATION: public.reason}
    if annotations:
        arguments["annotations"] = annotations
    if spec.binary_authorization is not None:
        is_default = spec.binary_authorization == DEFAULT_POLICY
        policy = {"use_default": True} if is_default else {"policy": spec.binary_authorization}
        arguments["binary_authorization"] = policy
    return arguments


def access_environment(
    access: Access, service: str, regions: Sequence[str], foundation: Foundation
) -> dict[str, pulumi.Input[str]]:
    """Return environment variables that tell the container how its callers are authenticated.

    Args:
        access: The service's access.
        service: The Cloud Run service's name.
        regions: The service's regions; Identity-Aware Proxy has another audience in each.
        foundation: The foundation, which has the project's number.
    """
    variables: dict[str, pulumi.Input[str]] = {environment.ACCESS: access_kind(access)}
    if isinstance(access, IapAccess):
        variables[environment.IAP_AUDIENCE] = foundation.project_number.apply(
            lambda number: ",".join(
                naming.iap_audience(service, project_number=number, region=region) for region in regions
            )
        )
    return variables


def grant_access(
    access: Access, target: GrantTarget, foundation: Foundation, child: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """Grant access to the members that *access* names. A binding isn't used, because it removes grants of others."""
    match access:
        case IamAccess(iam=iam):
            return [_invoker(target, member, member, child) for member in iam.invokers]
        case IapAccess(iap=iap) if foundation.iap_agent is not None:
            agent = _invoker(target, "iap", foundation.iap_agent, child)
            return [agent, *_iap_members(target, iap, child), *_iap_settings(target, iap, foundation, child)]
        case _:
            return []


def grant_client_access(
    access: Access, target: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Grant access to a client of the fleet, with IAP if the service is behind it; *name* is the grant's name."""
    if isinstance(access, IapAccess):
        return _iap_member(target, name, member, child)
    return _may_invoke(target, name, member, child)


def _invoker(
    target: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.cloudrunv2.ServiceIamMember:
    grant = naming.grant_name(naming.regional_name(target.server, target.region), "invoker", name)
    return _may_invoke(target, grant, member, child)


def _may_invoke(
    target: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.cloudrunv2.ServiceIamMember:
    return gcp.cloudrunv2.ServiceIamMember(
        name,
        project=target.project,
        location=target.region,
        name=target.service,
        role=INVOKER_ROLE,
        member=member,
        opts=child,
    )


def _iap_members(target: GrantTarget, iap: Iap, child: pulumi.ResourceOptions) -> Sequence[pulumi.Resource]:
    server = naming.regional_name(target.server, target.region)
    return [_iap_member(target, naming.grant_name(server, "iap", member), member, child) for member in iap.members]


def _iap_member(
    target: GrantTarget, name: str, member: pulumi.Input[str], child: pulumi.ResourceOptions
) -> gcp.iap.WebCloudRunServiceIamMember:
    return gcp.iap.WebCloudRunServiceIamMember(
        name,
        project=target.project,
        location=target.region,
        cloud_run_service_name=target.service,
        role=IAP_ROLE,
        member=member,
        opts=child,
    )


def _iap_settings(
    target: GrantTarget, iap: Iap, foundation: Foundation, child: pulumi.ResourceOptions
) -> Sequence[pulumi.Resource]:
    if iap.oauth_client is None and not iap.programmatic_clients:
        return []
    oauth: OauthSettings = {}
    if iap.programmatic_clients:
        oauth["programmatic_clients"] = iap.programmatic_clients
    if iap.oauth_client is not None:
        oauth["client_id"] = iap.oauth_client.client_id
        oauth["client_secret"] = _client_secret(iap.oauth_client, target, foundation, child)
    # Depends on the service's name, because settings need a service that exists.
    resource = pulumi.Output.all(foundation.project_number, target.service).apply(
        lambda values: naming.iap_resource(values[1], project_number=values[0], region=target.region)
    )
    return [
        gcp.iap.Settings(
            naming.regional_name(target.server, target.region),
            name=resource,
            access_settings={"oauth_settings": oauth},
            opts=child,
        )
    ]


def _client_secret(
    client: OauthClient, target: GrantTarget, foundation: Foundation, child: pulumi.ResourceOptions
) -> pulumi.Output[str]:
    """Read the client's secret as the deployer, in each run; it is a secret in Pulumi's state."""
    version = gcp.secretmanager.get_secret_version_access_output(
        project=naming.secret_project(client.secret, target.project),
        secret=naming.secret_id(client.secret),
        version=client.version,
        opts=pulumi.InvokeOutputOptions(parent=child.parent, depends_on=foundation.apis),
    )
    return pulumi.Output.secret(version.secret_data)


_SECRET_ROLE: Final = "roles/secretmanager.secretAccessor"  # noqa: S105 - a role
_SQL_ROLE: Final = "roles/cloudsql.client"
_BUCKET_READER_ROLE: Final = "roles/storage.objectViewer"
_BUCKET_WRITER_ROLE: Final = "roles/storage.objectUser"


def grant_permissions(
    name: str,
    spec: Workload,
    *,
    project: str,
    email: pulumi.Output[str],
    child: pulumi.ResourceOptions,
    also: Sequence[str] = (),
) -> list[pulumi.Resource]:
    """Grant a service account the permissions that its service needs, and no others.

    Args:
        name: The name of the server or client.
        spec: The configuration, with roles, secrets and buckets.
        project: The Google Cloud project.
        email: The service account's email address.
        child: The options of each grant.
        also: Further roles on the project.
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
    """Grant read access to each secret: Cloud Run refuses a revision whose account can't read its secrets."""
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
            role=_BUCKET_READER_ROLE if read_only else _BUCKET_WRITER_ROLE,
            member=member,
            opts=child,
        )
        for bucket, read_only in spec.buckets.items()
    ]

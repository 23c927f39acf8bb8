"""What an account of the fleet may do besides being called: roles on the project, its secrets, its buckets."""

from collections.abc import Sequence
from typing import Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import Workload
from pulumi_mcpfleet.fleet.roles import names as role_names

_SECRET_ROLE: Final = "roles/secretmanager.secretAccessor"  # noqa: S105 - a role
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
    roles = tuple(dict.fromkeys((*role_names(spec.roles), *also)))
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

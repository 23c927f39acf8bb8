"""Cloud Build for a stack's images: the bucket of the sources, the account that builds, and the image that is built.

A build has an account of its own, which may do three things: read the sources, write images into the stack's one
repository, write its log. Whoever deploys needs the right to build and to act as that account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import CloudBuildOptions
from pulumi_mcpfleet.tokens import CLOUD_BUILD, CLOUD_BUILT_IMAGE

_DAYS: Final = 30
"""An archive of a source is deleted after so many days: it can be made again from the source."""


@dataclass(frozen=True, kw_only=True)
class CloudBuildArgs:
    """Where builds run, and what they may reach.

    Attributes:
        project: The Google Cloud project.
        region: Where builds run and sources are.
        repository_id: The stack's Artifact Registry repository.
        repository: Its name, once it exists.
        options: How builds run.
        platform: For which machine images are built, as the fleet has it.
        after: What has to be there first: the APIs.
        labels: Labels on the bucket.
    """

    project: str
    region: str
    repository_id: str
    repository: pulumi.Output[str]
    options: CloudBuildOptions
    platform: str
    after: Sequence[pulumi.Input[pulumi.Resource]]
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class CloudBuild(pulumi.ComponentResource):
    """What all builds of a stack share."""

    bucket: pulumi.Output[str]
    """The bucket of the sources."""

    account: pulumi.Output[str]
    """The address of the account that builds."""

    grants: tuple[pulumi.Resource, ...]
    """To depend on: a build fails without them."""

    args: CloudBuildArgs
    """Where builds run, and how."""

    def __init__(self, name: str, args: CloudBuildArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(CLOUD_BUILD, name, None, opts)
        self.args = args
        after = pulumi.ResourceOptions(parent=self, depends_on=args.after, delete_before_replace=True)
        bucket = gcp.storage.Bucket(
            name,
            project=args.project,
            location=args.region,
            name=naming.source_bucket(args.project, args.repository_id),
            labels=args.labels or None,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            lifecycle_rules=[{"action": {"type": "Delete"}, "condition": {"age": _DAYS}}],
            soft_delete_policy={"retention_duration_seconds": 0},
            force_destroy=True,  # it holds copies only
            opts=after,
        )
        account = gcp.serviceaccount.Account(
            name,
            project=args.project,
            account_id=naming.builder_account_id(args.repository_id),
            display_name="Builds the images of MCP servers",
            opts=after,
        )
        member = account.email.apply(naming.account_member)
        child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        self.grants = (
            gcp.storage.BucketIAMMember(
                f"{name}-sources", bucket=bucket.name, role="roles/storage.objectViewer", member=member, opts=child
            ),
            gcp.artifactregistry.RepositoryIamMember(
                f"{name}-images",
                project=args.project,
                location=args.region,
                repository=args.repository,
                role="roles/artifactregistry.writer",
                member=member,
                opts=child,
            ),
            gcp.projects.IAMMember(
                f"{name}-log", project=args.project, role="roles/logging.logWriter", member=member, opts=child
            ),
        )
        self.bucket, self.account = bucket.name, account.email
        self.register_outputs({"bucket": self.bucket, "account": self.account})


class CloudBuiltImage(pulumi.CustomResource):
    """An image that Cloud Build makes (`pulumi_mcpfleet.cloud_build`): built when its content changes, and only then.

    Args:
        name: The server's or client's name.
        builder: What builds.
        image: The image, without tag or digest.
        context: The folder, as seen from Pulumi.yaml.
        dockerfile: The Dockerfile within it.
        inline: The text of a Dockerfile in its stead; empty: there is none.
        build_args: Values for its ARGs.
        labels: Labels of the image.
        target: The stage of the Dockerfile that is the image; empty: the last.
        opts: The resource's place and order.
    """

    digest: pulumi.Output[str]
    """The digest under which the registry has it."""

    def __init__(
        self,
        name: str,
        *,
        builder: CloudBuild,
        image: pulumi.Input[str],
        context: str,
        dockerfile: str,
        inline: str,
        build_args: Mapping[str, str],
        labels: Mapping[str, str],
        target: str = "",
        opts: pulumi.ResourceOptions,
    ) -> None:
        options = builder.args.options
        inputs: dict[str, pulumi.Input[object]] = {
            "project": builder.args.project,
            "location": builder.args.region,
            "bucket": builder.bucket,
            "serviceAccount": builder.account,
            "image": image,
            "context": context,
            "timeout": options.timeout,
            **({"inline": inline} if inline else {"dockerfile": dockerfile}),
            **({"buildArgs": dict(build_args)} if build_args else {}),
            **({"labels": dict(labels)} if labels else {}),
            **({"target": target} if target else {}),
            **({"platform": builder.args.platform} if builder.args.platform != "linux/amd64" else {}),
            **({"machineType": naming.build_machine(options.machine_type)} if options.machine_type else {}),
        }
        super().__init__(CLOUD_BUILT_IMAGE, name, {**inputs, "digest": None}, opts)

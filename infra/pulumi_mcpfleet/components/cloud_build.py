"""Cloud Build for a stack's images: the bucket for sources, the service account of builds, and the images.

Builds run as their own service account, which may do three things: read the sources, push images to the stack's
repository, and write logs. To deploy, you need permission to build and to act as that account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import CloudBuildOptions
from pulumi_mcpfleet.tokens import CLOUD_BUILD, CLOUD_BUILT_IMAGE

_ARCHIVE_DAYS: Final = 30
"""The age at which the archive of a source is deleted; it can be created from the source again."""


@dataclass(frozen=True, kw_only=True)
class CloudBuildArgs:
    """The location and options of builds.

    Attributes:
        project: The Google Cloud project.
        region: The region of the builds and of the bucket.
        repository_id: The stack's Artifact Registry repository.
        repository: The same, known when the repository exists.
        options: The fleet's options for builds.
        platform: The platform of the images, as in the fleet.
        after: The APIs that must be enabled first.
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
    """The bucket and the service account that all builds of a stack share."""

    bucket: pulumi.Output[str]
    """The bucket for archives of sources."""

    account: pulumi.Output[str]
    """The email address of the builds' service account."""

    grants: tuple[pulumi.Resource, ...]
    """The account's grants. Images depend on them, because a build fails without them."""

    args: CloudBuildArgs
    """The location and options of builds."""

    def __init__(self, name: str, args: CloudBuildArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(CLOUD_BUILD, name, None, opts)
        self.args = args
        after_apis = pulumi.ResourceOptions(parent=self, depends_on=args.after, delete_before_replace=True)
        bucket = gcp.storage.Bucket(
            name,
            project=args.project,
            location=args.region,
            name=naming.source_bucket(args.project, args.repository_id),
            labels=args.labels or None,
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            lifecycle_rules=[{"action": {"type": "Delete"}, "condition": {"age": _ARCHIVE_DAYS}}],
            soft_delete_policy={"retention_duration_seconds": 0},
            force_destroy=True,  # it has only copies
            opts=after_apis,
        )
        account = gcp.serviceaccount.Account(
            name,
            project=args.project,
            account_id=naming.builder_account_id(args.repository_id),
            display_name="Builds the images of MCP servers",
            opts=after_apis,
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
    """An image that Cloud Build builds (`pulumi_mcpfleet.cloud_build`) when its content changes.

    Args:
        name: The server's or client's name.
        builder: The stack's Cloud Build resources.
        image: The image, without tag or digest.
        context: The folder to build, relative to Pulumi.yaml.
        dockerfile: The path of the Dockerfile in *context*.
        inline: The text of a Dockerfile to use instead; empty for none.
        build_args: Values for the Dockerfile's ARGs.
        labels: Labels of the image.
        target: The stage of the Dockerfile to build; empty for the last.
        opts: The resource's options.
    """

    digest: pulumi.Output[str]
    """The image's digest in the registry."""

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

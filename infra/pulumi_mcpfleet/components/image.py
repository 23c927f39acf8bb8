"""Builds the image of a server from its source.

`pulumi_mcpfleet.sources` plans the build of a source without a Dockerfile. The plan's decisions are printed, each with
the key that changes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pulumi
import pulumi_docker_build as docker_build
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.cloud_build import CloudBuiltImage
from pulumi_mcpfleet.components.foundation import Foundation
from pulumi_mcpfleet.components.template import Image
from pulumi_mcpfleet.fleet import Build, ExistingImage, Folder, Git, Stdio, builds_in_cloud
from pulumi_mcpfleet.fleet.parts import SecretRef
from pulumi_mcpfleet.fleet.sources import Source
from pulumi_mcpfleet.fleet.stdio import Registered, is_bridged
from pulumi_mcpfleet.projects import find_build_provider_problem
from pulumi_mcpfleet.sources import BuildPlanError, Layout, plan_build
from pulumi_mcpfleet.sources.build_plan import BuildPlan, inert
from pulumi_mcpfleet.sources.build_requirements import version_of
from pulumi_mcpfleet.sources.checkout import checkout, refuse_pointers
from pulumi_mcpfleet.sources.environment_use import find_variables
from pulumi_mcpfleet.sources.lock import lock_for, read_newest_date
from pulumi_mcpfleet.sources.login import login_dockerfile
from pulumi_mcpfleet.sources.planning import IGNORE_FILES
from pulumi_mcpfleet.sources.safe_paths import find_folder, folder_problem
from pulumi_mcpfleet.sources.staging import (
    STATE_FOLDER,
    excludes_state_folder,
    stage_bridge,
    stage_dockerfile,
    stage_login,
    stage_source,
)
from pulumi_mcpfleet.sources.stdio import LOCK_FOLDER, plan_stdio
from pulumi_mcpfleet.sources.stdio import StdioSpec as StdioServer
from pulumi_mcpfleet.sources.workspaces import workspace_root

CHECKOUTS: Final = ".mcpfleet/sources"
"""The folder for fetched Git repositories, relative to Pulumi.yaml; Git ignores it."""

CLOUD_BUILD_LABELS: Final = {"dev.mcpfleet.builder": "cloud-build"}
"""A label that makes the digests of the two builders differ for the same source. If a server's builder changes, the old
image is deleted by its digest after the new one is deployed."""

BuiltSource = Build | Folder | Git | Stdio | Registered


@dataclass(frozen=True, kw_only=True)
class _BuildInputs:
    """The inputs of a build.

    Attributes:
        context: The folder to build, relative to Pulumi.yaml: an absolute path would differ between two checkouts, and
            each update from the other checkout would rebuild the image.
        inline: The text of a generated Dockerfile; empty if the source has its own.
        location: The path of that Dockerfile in *context*; empty for the builder's default, `Dockerfile`.
        is_staged: True if that Dockerfile is outside *context*; then `location` is relative to Pulumi.yaml.
        labels: Labels of the image.
        args: Arguments that replace the image's CMD.
        decisions: The decisions of the build plan, for the user.
        reads: Environment variables that the source reads.
        shares: State that all callers share.
    """

    context: str
    inline: str = ""
    location: str = ""
    is_staged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    args: Sequence[str] = ()
    decisions: Sequence[str] = ()
    reads: frozenset[str] = frozenset()
    shares: str = ""


def build_image(
    name: str,
    source: BuiltSource,
    *,
    project: str,
    foundation: Foundation,
    parent: pulumi.Resource,
    section: str = "servers",
) -> Image:
    """Build and push the image of the server *name*, and return it with its digest.

    Args:
        name: The server's name.
        source: The server's source.
        project: The project of a Git token's secret.
        foundation: The foundation, which has the image repository.
        parent: The server or client.
        section: The fleet's key above the server or client.

    Raises:
        pulumi.RunError: The source can't be built; the text has one line for each mistake, with its path.
    """
    try:
        plan = _prepare(source, name, project, foundation.root, parent)
        if not builds_in_cloud(source):  # Cloud Build's archives never have the folder
            plan = _without_state_folder(plan, name, foundation.root)
        secrets = _read_build_secrets(source, project, parent)
    except BuildPlanError as error:
        path = f"fleet.{section}.{name}.source"
        lines = [
            f"{path}.{mistake.key}: {mistake.message}" if mistake.key else f"{path}: {mistake.message}"
            for mistake in error.mistakes
        ]
        raise pulumi.RunError("\n".join(lines)) from None
    for decision in plan.decisions:
        pulumi.info(f"{name}: {inert(decision)}", parent)
    if foundation.registry_uri is None or foundation.registry_login is None:
        raise pulumi.RunError(f"{name}: its source needs a build, but its foundation has no image repository")
    repository = foundation.registry_uri.apply(lambda uri: naming.image_repository(uri, name))
    if builds_in_cloud(source):
        digest = _build_with_cloud_build(name, plan, source.build_args, _target(source), repository, foundation, parent)
    else:
        digest = _build_with_docker(
            name, plan, source.build_args, _target(source), repository, foundation, parent, secrets
        )
    return Image(pulumi.Output.concat(repository, "@", digest), plan.args, plan.reads, plan.shares)


def login_image(server: str, source: Source, foundation: Foundation, parent: pulumi.Resource) -> pulumi.Output[str]:
    """Build and push the image of the container of `access: login` in front of a server, and give it by its digest.

    It is built as the server's own image is: with the same base image, and in the cloud if that one is.
    """
    name = naming.login_name(server)
    context = f"{CHECKOUTS}/login-{server}"  # its own: another server's build may still read it
    stage_login(foundation.root / context)
    plan = _BuildInputs(context=context, inline=login_dockerfile())
    if foundation.registry_uri is None:
        raise pulumi.RunError(f"{server}: its foundation keeps no images, and access: login builds one")
    repository = foundation.registry_uri.apply(lambda uri: naming.image_repository(uri, name))
    own: Mapping[str, str] = {} if isinstance(source, ExistingImage) else source.build_args
    build_args = {arg: value for arg, value in own.items() if arg == "BASE_IMAGE"}
    if not isinstance(source, ExistingImage) and builds_in_cloud(source):
        digest = _build_with_cloud_build(name, plan, build_args, "", repository, foundation, parent)
    else:
        digest = _build_with_docker(name, plan, build_args, "", repository, foundation, parent, {})
    return pulumi.Output.concat(repository, "@", digest)


def _build_with_docker(
    name: str,
    plan: _BuildInputs,
    build_args: Mapping[str, str],
    target: str,
    repository: pulumi.Output[str],
    foundation: Foundation,
    parent: pulumi.Resource,
    secrets: Mapping[str, pulumi.Output[str]],
) -> pulumi.Output[str]:
    login, platform = foundation.registry_login, foundation.platform
    dockerfile: docker_build.DockerfileArgsDict | None = None
    if plan.inline:
        dockerfile = {"inline": plan.inline}
    elif plan.location:
        dockerfile = {"location": plan.location if plan.is_staged else f"{plan.context}/{plan.location}"}
    image = docker_build.Image(
        name,
        context={"location": plan.context},
        dockerfile=dockerfile,
        build_args=build_args,
        target=target or None,
        secrets=secrets or None,
        labels=plan.labels or None,
        platforms=None if platform == "native" else [docker_build.Platform(platform)],
        push=True,
        # The tag is for people; deployments use the digest.
        tags=[pulumi.Output.concat(repository, ":latest")],
        registries=login and [{"address": login.host, "username": login.username, "password": login.password}],
        # Only the builder's own cache is used: with a cache in the registry, the image's digest would depend on the
        # builder.
        build_on_preview=False,  # so a preview needs neither Docker nor a registry
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True),
    )
    return image.digest


def _build_with_cloud_build(
    name: str,
    plan: _BuildInputs,
    build_args: Mapping[str, str],
    target: str,
    repository: pulumi.Output[str],
    foundation: Foundation,
    parent: pulumi.Resource,
) -> pulumi.Output[str]:
    builder = foundation.cloud_build
    if builder is None:
        raise pulumi.RunError(
            f"{name}: builder: cloud-build needs the API {naming.api_host('cloudbuild')} in the stack"
        )
    if problem := find_build_provider_problem(foundation.root):
        pulumi.warn(f"{name}: {problem}", parent)
    image = CloudBuiltImage(
        name,
        builder=builder,
        image=repository,
        context=plan.context,
        dockerfile=plan.location or "Dockerfile",
        inline=plan.inline,
        build_args=build_args,
        labels={**plan.labels, **CLOUD_BUILD_LABELS},
        target=target,
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True, depends_on=builder.grants),
    )
    return image.digest


def _read_build_secrets(source: BuiltSource, project: str, parent: pulumi.Resource) -> dict[str, pulumi.Output[str]]:
    """Read the secrets of the build."""
    if not isinstance(source, Folder | Git):
        return {}
    return {
        name: pulumi.Output.secret(_read_secret(ref, project, parent)) for name, ref in source.build_secrets.items()
    }


def _read_secret(ref: SecretRef, project: str, parent: pulumi.Resource) -> str:
    return gcp.secretmanager.get_secret_version_access(
        secret=naming.secret_id(ref.secret),
        project=naming.secret_project(ref.secret, project),
        version=ref.version,
        opts=pulumi.InvokeOptions(parent=parent),
    ).secret_data


def _target(source: BuiltSource) -> str:
    """Return the stage of the Dockerfile to build; empty for the last."""
    return "" if isinstance(source, Stdio | Registered) else source.target


def _prepare(source: BuiltSource, name: str, project: str, root: Path, parent: pulumi.Resource) -> _BuildInputs:
    match source:
        case Build(build=folder):
            _check_folder(folder, root)
            if not (root / folder).is_dir():
                return _BuildInputs(context=folder, args=source.args)
            layout = Layout.read(root / folder)
            layout.refuse_unsafe("Dockerfile", "Dockerfile.dockerignore", *IGNORE_FILES)
            return _BuildInputs(context=folder, args=source.args, reads=find_variables(layout))
        case Folder(folder=folder):
            _check_folder(folder, root)
            return _from_plan(_build_folder(source, folder, name, root), source.build_plan(root))
        case Git():
            return _prepare_git(source, name, project, root, parent)
        case Stdio():
            return _prepare_stdio(source.spec, source.build_args, name, root)
        case Registered():
            return _prepare(_resolve_registered(source, root), name, project, root, parent)


def _without_state_folder(plan: _BuildInputs, name: str, root: Path) -> _BuildInputs:
    """Keep the folder `.mcpfleet` out of the context: it has a local cloud's keys, and each deployment changes it.

    Raises:
        BuildPlanError: The Dockerfile or its ignore file is not a plain file of the source.
    """
    context = root / plan.context
    has_state = root.resolve().is_relative_to(context.resolve()) or (context / STATE_FOLDER).is_dir()
    location = "" if plan.inline else plan.location or "Dockerfile"
    # Without a Dockerfile, the builder's message is the better one.
    is_missing = bool(location) and not (context / location).is_file()
    if not has_state or is_missing or excludes_state_folder(context, location):
        return plan
    staged = f"{CHECKOUTS}/{name}.Dockerfile"
    stage_dockerfile(context, location, plan.inline, root / staged)
    return replace(plan, inline="", location=staged, is_staged=True)


def _resolve_registered(source: Registered, root: Path) -> Stdio:
    """Find the package of a registered server, for a fleet that was parsed without its root folder."""
    try:
        return source.resolve(root)
    except ValueError as error:
        raise BuildPlanError.of("registry", str(error)) from None


def _prepare_stdio(server: StdioServer, build_args: Mapping[str, str], name: str, root: Path) -> _BuildInputs:
    files = lock_for(server, build_args).read(root)
    build_plan = plan_stdio(server, files, read_newest_date(files))
    context = f"{CHECKOUTS}/bridge-{name}"
    stage_bridge(root / context)
    for file, content in files.items():
        (root / context / LOCK_FOLDER).mkdir(exist_ok=True)
        (root / context / LOCK_FOLDER / file).write_bytes(content)
    return _from_plan(context, build_plan)


def _check_folder(folder: str, root: Path) -> None:
    """Refuse a folder that has become a link to elsewhere since the config was parsed."""
    if problem := folder_problem(root, folder):
        raise BuildPlanError.of("", problem)


def _prepare_git(source: Git, name: str, project: str, root: Path, parent: pulumi.Resource) -> _BuildInputs:
    git = source.git
    token = None
    if git.token is not None:
        # Only git gets the token: it is no input of a resource, so it is not in the state.
        token = _read_secret(git.token, project, parent)
    repository = checkout(git.url, git.ref, root / CHECKOUTS, token, submodules=git.submodules, lfs=git.lfs == "pull")
    inner = find_folder(repository.folder, git.dir, "git.dir", f"{git.url} at {git.ref}")
    subfolder = inner.relative_to(repository.folder.resolve())
    folder = repository.folder / subfolder  # has no links, unlike git.dir
    if git.lfs != "pointers":
        refuse_pointers(folder, "git.lfs", "write lfs: pull, to fetch them with git-lfs")
    options = replace(source.build_options, version=version_of(git.ref, repository.commit))
    if (top := workspace_root(repository.folder, subfolder.as_posix())) is not None:
        # A member of a workspace is installed from the workspace's top.
        folder = repository.folder / top
        options = replace(options, package=subfolder.relative_to(top).as_posix())
    build_plan = plan_build(Layout.read(folder), options)
    labels = {"org.opencontainers.image.revision": repository.commit, "org.opencontainers.image.source": git.url}
    context = _build_folder(source, folder.relative_to(root).as_posix(), name, root)
    return _from_plan(
        context,
        build_plan,
        labels,
        [
            f"{git.url}: {repository.ref_description} {repository.commit}",
            *(f"{git.url}: {note}" for note in repository.notes),
        ],
    )


def _build_folder(source: Folder | Git, folder: str, name: str, root: Path) -> str:
    """Return the folder to build: the source's own, or a copy with the bridge."""
    if not is_bridged(source):
        return folder
    copy = f"{CHECKOUTS}/with-bridge-{name}"
    stage_source(root / folder, root / copy)
    return copy


def _from_plan(
    context: str, build_plan: BuildPlan, labels: Mapping[str, str] | None = None, decisions: Sequence[str] = ()
) -> _BuildInputs:
    return _BuildInputs(
        context=context,
        inline=build_plan.dockerfile or "",
        location=build_plan.dockerfile_path,
        labels=labels or {},
        args=build_plan.args,
        decisions=[*decisions, *build_plan.decisions],
        reads=build_plan.variables,
        shares=build_plan.shared_state,
    )

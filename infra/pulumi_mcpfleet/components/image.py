"""The image of a server that is built here: out of which folder, by which Dockerfile.

What a source without a Dockerfile comes to is `pulumi_mcpfleet.sources`' business; the user reads what was found out,
and which key would decide otherwise.
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
"""Where git repositories are fetched to, below the folder of Pulumi.yaml; git ignores it."""

IN_CLOUD: Final = {"dev.mcpfleet.builder": "cloud-build"}
"""A label by which the two builders never make the same digest of one source. Where a server's builder changes, the old
builder's image is deleted after the new one is deployed, and a registry deletes by digest."""

Built = Build | Folder | Git | Stdio | Registered


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the builder is told.

    Attributes:
        context: The folder that it gets, as seen from Pulumi.yaml: an absolute path would differ between two people's
            checkouts, and each of them would rebuild what the other has deployed.
        inline: The text of a Dockerfile that was made; empty: the folder has one.
        location: Where in the folder that one is; empty: the builder looks for `Dockerfile` itself.
        is_staged: Whether the Dockerfile is outside of the context, and `location` is seen from Pulumi.yaml.
        labels: Labels of the image.
        args: Arguments in place of the image's CMD.
        decided: What was found out.
        reads: Variables that the source is known to read.
        shares: State that its callers share.
    """

    context: str
    inline: str = ""
    location: str = ""
    is_staged: bool = False
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    args: Sequence[str] = ()
    decided: Sequence[str] = ()
    reads: frozenset[str] = frozenset()
    shares: str = ""


def built_image(
    name: str,
    source: Built,
    *,
    project: str,
    foundation: Foundation,
    parent: pulumi.Resource,
    section: str = "servers",
) -> Image:
    """Build and push the image of the server *name*, and give it by its digest.

    Args:
        name: The server's name.
        source: Where it comes from.
        project: The project that a git token's secret is in.
        foundation: Has the registry.
        parent: The server, or client.
        section: Where in the fleet it stands.

    Raises:
        pulumi.RunError: The source can't be built; the text has one line for each mistake, under its path.
    """
    try:
        plan = _plan(source, name, project, foundation.root, parent)
        if not builds_in_cloud(source):  # Cloud Build's archives never have the folder
            plan = _without_state_folder(plan, name, foundation.root)
        secrets = _secrets(source, project, parent)
    except BuildPlanError as error:
        path = f"fleet.{section}.{name}.source"
        lines = [f"{path}.{one.key}: {one.message}" if one.key else f"{path}: {one.message}" for one in error.mistakes]
        raise pulumi.RunError("\n".join(lines)) from None
    for sentence in plan.decided:
        pulumi.info(f"{name}: {inert(sentence)}", parent)
    if foundation.registry_uri is None or foundation.registry_login is None:
        raise pulumi.RunError(f"{name}: its foundation keeps no images, and its source is built")
    repository = foundation.registry_uri.apply(lambda uri: naming.image_repository(uri, name))
    if builds_in_cloud(source):
        digest = _in_cloud(name, plan, source.build_args, _target(source), repository, foundation, parent)
    else:
        digest = _by_docker(name, plan, source.build_args, _target(source), repository, foundation, parent, secrets)
    return Image(pulumi.Output.concat(repository, "@", digest), plan.args, plan.reads, plan.shares)


def login_image(server: str, source: Source, foundation: Foundation, parent: pulumi.Resource) -> pulumi.Output[str]:
    """Build and push the image of the container of `access: login` in front of a server, and give it by its digest.

    It is built as the server's own image is: with the same base image, and in the cloud if that one is.
    """
    name = naming.login_name(server)
    context = f"{CHECKOUTS}/login-{server}"  # its own: another server's build may still read it
    stage_login(foundation.root / context)
    plan = _Plan(context=context, inline=login_dockerfile())
    if foundation.registry_uri is None:
        raise pulumi.RunError(f"{server}: its foundation keeps no images, and access: login builds one")
    repository = foundation.registry_uri.apply(lambda uri: naming.image_repository(uri, name))
    own: Mapping[str, str] = {} if isinstance(source, ExistingImage) else source.build_args
    build_args = {arg: value for arg, value in own.items() if arg == "BASE_IMAGE"}
    if not isinstance(source, ExistingImage) and builds_in_cloud(source):
        digest = _in_cloud(name, plan, build_args, "", repository, foundation, parent)
    else:
        digest = _by_docker(name, plan, build_args, "", repository, foundation, parent, {})
    return pulumi.Output.concat(repository, "@", digest)


def _by_docker(
    name: str,
    plan: _Plan,
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
        # The tag shows people the newest version; nothing is deployed by it.
        tags=[pulumi.Output.concat(repository, ":latest")],
        registries=login and [{"address": login.host, "username": login.username, "password": login.password}],
        # The builder's own cache is used. None is kept in the registry: it would change the image's digest
        # with the builder that made it.
        build_on_preview=False,  # a preview needs no Docker, no registry and no time
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True),
    )
    return image.digest


def _in_cloud(
    name: str,
    plan: _Plan,
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
        labels={**plan.labels, **IN_CLOUD},
        target=target,
        opts=pulumi.ResourceOptions(parent=parent, delete_before_replace=True, depends_on=builder.grants),
    )
    return image.digest


def _secrets(source: Built, project: str, parent: pulumi.Resource) -> dict[str, pulumi.Output[str]]:
    """What the build finds in its variables, read when the program runs."""
    if not isinstance(source, Folder | Git):
        return {}
    return {name: pulumi.Output.secret(_read(ref, project, parent)) for name, ref in source.build_secrets.items()}


def _read(ref: SecretRef, project: str, parent: pulumi.Resource) -> str:
    return gcp.secretmanager.get_secret_version_access(
        secret=naming.secret_id(ref.secret),
        project=naming.secret_project(ref.secret, project),
        version=ref.version,
        opts=pulumi.InvokeOptions(parent=parent),
    ).secret_data


def _target(source: Built) -> str:
    """The stage of the Dockerfile that is the image; empty: the last."""
    return "" if isinstance(source, Stdio | Registered) else source.target


def _plan(source: Built, name: str, project: str, root: Path, parent: pulumi.Resource) -> _Plan:
    match source:
        case Build(build=folder):
            _own(folder, root)
            if not (root / folder).is_dir():
                return _Plan(context=folder, args=source.args)
            layout = Layout.read(root / folder)
            layout.refuse_unsafe("Dockerfile", "Dockerfile.dockerignore", *IGNORE_FILES)
            return _Plan(context=folder, args=source.args, reads=find_variables(layout))
        case Folder(folder=folder):
            _own(folder, root)
            return _made(_bridged(source, folder, name, root), source.build_plan(root))
        case Git():
            return _fetched(source, name, project, root, parent)
        case Stdio():
            return _packaged(source.spec, source.build_args, name, root)
        case Registered():
            return _plan(_looked_up(source, root), name, project, root, parent)


def _without_state_folder(plan: _Plan, name: str, root: Path) -> _Plan:
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


def _looked_up(source: Registered, root: Path) -> Stdio:
    """For a fleet that was read without its folder."""
    try:
        return source.resolve(root)
    except ValueError as error:
        raise BuildPlanError.of("registry", str(error)) from None


def _packaged(server: StdioServer, build_args: Mapping[str, str], name: str, root: Path) -> _Plan:
    files = lock_for(server, build_args).read(root)
    recipe = plan_stdio(server, files, read_newest_date(files))
    context = f"{CHECKOUTS}/bridge-{name}"
    stage_bridge(root / context)
    for file, content in files.items():
        (root / context / LOCK_FOLDER).mkdir(exist_ok=True)
        (root / context / LOCK_FOLDER / file).write_bytes(content)
    return _made(context, recipe)


def _own(folder: str, root: Path) -> None:
    """Refuse a folder that has become a link to elsewhere since the config was read."""
    if why := folder_problem(root, folder):
        raise BuildPlanError.of("", why)


def _fetched(source: Git, name: str, project: str, root: Path, parent: pulumi.Resource) -> _Plan:
    git = source.git
    token = None
    if git.token is not None:
        # Read when the program runs and given to git alone: it is no input of any resource, so no state has it.
        token = _read(git.token, project, parent)
    found = checkout(git.url, git.ref, root / CHECKOUTS, token, submodules=git.submodules, lfs=git.lfs == "pull")
    inner = find_folder(found.folder, git.dir, "git.dir", f"{git.url} at {git.ref}")
    place = found.folder / (
        within := inner.relative_to(found.folder.resolve())
    )  # without links, as seen from Pulumi.yaml
    if git.lfs != "pointers":
        refuse_pointers(place, "git.lfs", "write lfs: pull, to fetch them with git-lfs")
    wish = replace(source.build_options, version=version_of(git.ref, found.commit))
    if (top := workspace_root(found.folder, within.as_posix())) is not None:
        # What a workspace's member is installed from is at its top.
        place, wish = found.folder / top, replace(wish, package=within.relative_to(top).as_posix())
    recipe = plan_build(Layout.read(place), wish)
    labels = {"org.opencontainers.image.revision": found.commit, "org.opencontainers.image.source": git.url}
    context = _bridged(source, place.relative_to(root).as_posix(), name, root)
    return _made(
        context,
        recipe,
        labels,
        [f"{git.url}: {found.ref_description} {found.commit}", *(f"{git.url}: {note}" for note in found.notes)],
    )


def _bridged(source: Folder | Git, folder: str, name: str, root: Path) -> str:
    """The folder that the builder gets: the source's, or a copy of it with the bridge."""
    if not is_bridged(source):
        return folder
    copy = f"{CHECKOUTS}/with-bridge-{name}"
    stage_source(root / folder, root / copy)
    return copy


def _made(
    context: str, recipe: BuildPlan, labels: Mapping[str, str] | None = None, decided: Sequence[str] = ()
) -> _Plan:
    return _Plan(
        context=context,
        inline=recipe.dockerfile or "",
        location=recipe.dockerfile_path,
        labels=labels or {},
        args=recipe.args,
        decided=[*decided, *recipe.decisions],
        reads=recipe.variables,
        shares=recipe.shared_state,
    )

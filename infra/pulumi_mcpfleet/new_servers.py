"""A server that a user names in one word, as an entry of a fleet: which kind of source it is, and how it is built.

The words are those of `mcpfleet init --server`: a folder, the address of a git repository, `npm:NAME@VERSION`,
`pypi:NAME==VERSION`, or an image.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pulumi_mcpfleet.fleet import FleetError, parse_fleet
from pulumi_mcpfleet.sources import BuildOptions, BuildPlan, BuildPlanError, Layout, git, plan_build
from pulumi_mcpfleet.sources.build_requirements import needs_tag_version, version_from_description, version_of
from pulumi_mcpfleet.sources.checkout import checkout, refuse_pointers
from pulumi_mcpfleet.sources.layout import SKIPPED
from pulumi_mcpfleet.sources.safe_paths import folder_problem
from pulumi_mcpfleet.sources.stdio import npm_name, pypi_name

_NAME_LENGTH: Final = 26
_PACKAGE_WORDS: Final = re.compile(r"(?:^|-)(?:mcp|server)(?=-|$)")
"""What packages have in their names because they are MCP servers."""


class NewServerError(ValueError):
    """A server can't be deployed as it was named; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class NewServer:
    """A server for a fleet.

    Attributes:
        name: Its name in the fleet.
        source: Its source, as a fleet has it.
        is_generated: Whether its Dockerfile is generated, and so builds on the base image of choice.
        decisions: What was decided about it, a sentence each.
    """

    name: str
    source: Mapping[str, Any]
    is_generated: bool
    decisions: Sequence[str]


def plan_server(source: str, root: Path, name: str | None, cwd: Path) -> NewServer:
    """Find out how a server is built and started.

    Args:
        source: The server, as the user names it.
        root: The folder of Pulumi.yaml, which need not be there yet.
        name: Its name in the fleet; None: after its source.
        cwd: The folder that a relative path is seen from.

    Raises:
        NewServerError: It is none of the kinds, can't be fetched, or something about it can't be decided.
    """
    try:
        return _plan(source, root, name, cwd)
    except BuildPlanError as error:
        if all(one.key.startswith("git.") for one in error.mistakes):
            raise NewServerError("\n".join(one.message for one in error.mistakes)) from None
        keys = "\n".join(f"{f'source.{one.key}: ' if one.key else ''}{one.message}" for one in error.mistakes)
        raise NewServerError(
            f"{source} can't be deployed without a decision of yours:\n{keys}\nGive mcpfleet init another server, and"
            " then write this one into the fleet with those keys."
        ) from None


def _plan(source: str, root: Path, name: str | None, cwd: Path) -> NewServer:
    kind, _, rest = source.partition(":")
    if kind == "npm":
        return _plan_package("npm", rest, name)
    if kind == "pypi":
        return _plan_package("pypi", rest, name)
    address, _, ref = source.removeprefix("git+").partition("#")
    if source.startswith("git+") or re.match(r"(?:https?|ssh|git|file)://|[A-Za-z0-9_.-]+@[^/:]+:", source):
        return _plan_repository(address, ref, name)
    folder = cwd / Path(source).expanduser()
    if folder.is_dir():
        return _plan_folder(folder, root, name)
    if source.startswith((".", "/", "~", "\\")) or not re.search(r"[/:]", source):
        raise NewServerError(f"There is no folder {source}. {_KINDS}")
    image = source.removeprefix("image:")
    server = NewServer(
        name=name or _name_of(re.split(r"[:@]", image.rpartition("/")[2])[0]),
        source={"image": image, "port": 8080},
        is_generated=False,
        decisions=["the image as it is; it is expected to listen on port 8080 (`port`)"],
    )
    return _checked(server)


_KINDS: Final = (
    "Give a folder, the address of a git repository (with #REF for a tag or a commit), npm:NAME@VERSION,"
    " pypi:NAME==VERSION, or an image such as docker.io/acme/toolbox:1."
)


def _plan_package(kind: Literal["npm", "pypi"], package: str, name: str | None) -> NewServer:
    try:
        found = (npm_name if kind == "npm" else pypi_name)(package)
    except ValueError as error:
        raise NewServerError(f"{kind}:{package}: {error}.") from None
    sentence = f"{package} of {'npm' if kind == 'npm' else 'PyPI'} speaks stdio, behind the bridge"
    server = NewServer(
        name=name or _name_of(found.rpartition("/")[2]),
        source={"stdio": {kind: package}},
        is_generated=True,
        decisions=[sentence, "profile prod needs it locked: uv run mcpfleet packages lock"],
    )
    return _checked(server)


def _plan_folder(folder: Path, root: Path, name: str | None) -> NewServer:
    place, top = folder.resolve(), root.resolve()
    path = Path(os.path.relpath(place, top)).as_posix()
    written = path if path.startswith(".") else f"./{path}"
    # Its name before anything is read: a name that does not fit is the smaller correction.
    draft = NewServer(name=name or _name_of(place.name), source={"folder": written}, is_generated=True, decisions=())
    _checked(draft)
    if problem := folder_problem(top, path):
        raise NewServerError(problem)
    refuse_pointers(place, "lfs", f"run git lfs pull in {written}", SKIPPED)
    layout, options = Layout.read(place), BuildOptions()
    if needs_tag_version(layout):
        options = replace(options, version=version_from_description(git.describe(place)))
    plan, keys = _decide(layout, options)
    notes: list[str] = []
    if top.is_relative_to(place) and top != place:
        inner = top.relative_to(place).as_posix()
        notes.append(f"write {inner} into {place / '.dockerignore'}, so that a change of the project builds no image")
    elif not place.is_relative_to(top):
        notes.append(f"{place} is outside of the project: whoever deploys needs it there")
    return _with_plan(draft, plan, keys, notes)


def _plan_repository(url: str, ref: str, name: str | None) -> NewServer:
    # The commit takes the place of a ref that is not known yet, so that the name and the address are checked first.
    draft = NewServer(
        name=name or _name_of(re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git")),
        source={"git": {"url": url, "ref": ref or "HEAD"}},
        is_generated=True,
        decisions=(),
    )
    _checked(draft)
    notes: list[str] = []
    if not ref:
        ref, branch = _default_branch(url)
        notes.append(f"the commit that {branch} is today; write a tag, a branch or another commit as `git.ref`")
    with tempfile.TemporaryDirectory(prefix="mcpfleet-init-") as scratch:
        found = checkout(url, ref, Path(scratch))
        refuse_pointers(found.folder, "git.lfs", "write lfs: pull, to fetch them with git-lfs")
        options = BuildOptions(version=version_of(ref, found.commit))
        plan, keys = _decide(Layout.read(found.folder), options)
    draft = replace(draft, source={"git": {"url": url, "ref": ref}})
    return _with_plan(draft, plan, keys, [f"{found.ref_description} {found.commit}", *notes, *found.notes])


def _default_branch(url: str) -> tuple[str, str]:
    """The commit of a repository's default branch, and the branch's name."""
    lines = git.run_remote(url, ["ls-remote", "--symref", "--", url, "HEAD"], None).splitlines()
    branch = next((line.split()[1].removeprefix("refs/heads/") for line in lines if line.startswith("ref:")), "HEAD")
    commit = next((line.split()[0] for line in lines if re.match(r"[0-9a-f]{40}", line)), None)
    if commit is None:
        raise BuildPlanError.of("git.url", f"{url} has no default branch; add #REF, a tag or a branch of it")
    return commit, branch


def _decide(layout: Layout, options: BuildOptions) -> tuple[BuildPlan, dict[str, str]]:
    """How a source is built, and the keys that say so. One that speaks stdio is put behind the bridge."""
    try:
        return plan_build(layout, options), {}
    except BuildPlanError as error:
        if [one.key for one in error.mistakes] != ["speaks"]:
            raise
    return plan_build(layout, replace(options, speaks="stdio")), {"speaks": "stdio"}


def _with_plan(draft: NewServer, plan: BuildPlan, keys: Mapping[str, str], notes: Sequence[str]) -> NewServer:
    bridged = ["it speaks stdio, so it is put behind the bridge (`speaks`)"] if "speaks" in keys else []
    return replace(
        draft,
        source={**draft.source, **keys},
        is_generated=plan.dockerfile is not None,
        decisions=[*notes, *bridged, *plan.decisions],
    )


def _checked(server: NewServer) -> NewServer:
    """The *server*, if a fleet can have it.

    Raises:
        NewServerError: Its name or its source is not of the fleet's grammar.
    """
    try:
        parse_fleet({"region": "europe-west1", "servers": {server.name: {"source": server.source}}})
    except FleetError as error:
        raise NewServerError(
            "\n".join(line.removeprefix("fleet.servers.") for line in str(error).splitlines())
        ) from None
    return server


def _name_of(word: str) -> str:
    """A name for a fleet, from that of a package, a folder or a repository."""
    text = re.sub(r"[^a-z0-9]+", "-", word.lower())
    short = re.sub(r"-+", "-", _PACKAGE_WORDS.sub("", text)).strip("-") or text.strip("-")
    name = re.sub(r"^[^a-z]+", "", short)[:_NAME_LENGTH].strip("-")
    return name if len(name) > 1 else "server"

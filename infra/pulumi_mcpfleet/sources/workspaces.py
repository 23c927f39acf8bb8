"""A repository that holds several packages, of which one is the server: workspaces of npm, pnpm, yarn and uv."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text

PNPM: Final = "pnpm-workspace.yaml"
"""What makes a repository a workspace of pnpm, and holds settings of it."""
_FOLDER: Final = re.compile(r"(?:[A-Za-z0-9_@][A-Za-z0-9_.@-]*/)*[A-Za-z0-9_@][A-Za-z0-9_.@-]*")
"""A member's folder: it becomes a word of a shell's, and part of a path."""

_LOCKS: Final = ("package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "uv.lock", "Dockerfile")


@dataclass(frozen=True)
class Member:
    """One package of a workspace.

    Attributes:
        folder: Where it is, without a slash at its end; empty: the repository's top, which is no member.
        manifest: Its package.json or pyproject.toml.
    """

    folder: str
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it calls itself, else its folder."""
        return text(table(self.manifest, "project").get("name")) or text(self.manifest.get("name")) or self.folder

    @property
    def within(self) -> str:
        """What comes before the names of its files."""
        return f"{self.folder}/" if self.folder else ""


def node_members(layout: Layout, package: Mapping[str, Any]) -> tuple[Member, ...]:
    """The members of a Node.js workspace; none where it is none.

    Raises:
        BuildPlanError: A manifest can't be read.
    """
    said = package.get("workspaces")
    patterns = cast("Any", said).get("packages") if isinstance(said, dict) else said
    if layout.has(PNPM):
        patterns = layout.yaml(PNPM).get("packages") or patterns
    return _members(layout, _texts(patterns), (), "package.json")


def uv_members(layout: Layout, project: Mapping[str, Any]) -> tuple[Member, ...]:
    """The members of a workspace of uv; none where it is none.

    Raises:
        BuildPlanError: A manifest can't be read.
    """
    found = table(project, "tool", "uv", "workspace")
    return _members(layout, _texts(found.get("members")), _texts(found.get("exclude")), "pyproject.toml")


def chosen(top: Member, members: Sequence[Member], wanted: str | None, servers: Sequence[Member]) -> Member:
    """The package that is the server.

    Args:
        top: The repository's own.
        members: Those of its workspace.
        wanted: The user's choice, by name or folder.
        servers: Those that look like one, where the top does not.

    Raises:
        BuildPlanError: There is none of that name, or nothing says which one it is.
    """
    listed = ", ".join(sorted(one.name for one in members)[:10])
    if wanted is not None:
        folder = str(PurePosixPath(wanted))
        found = next((one for one in members if wanted == one.name or folder == one.folder), None)
        if found is None:
            there = f"its members are {listed}" if members else "the source is no workspace"
            raise BuildPlanError.of("package", f"there is no member {wanted}; {there}")
        return found
    if len(servers) > 1:
        names = ", ".join(sorted(one.name for one in servers)[:10])
        raise BuildPlanError.of(
            "package", f"any of the workspace's members {names} may be the server; write package: NAME"
        )
    return servers[0] if servers else top


def before(member: Member, members: Sequence[Member]) -> list[Member]:
    """The members that *member* depends on, each behind those that it depends on itself."""
    by_name = {one.name: one for one in members}
    found: list[Member] = []
    seen = {member.name}

    def visit(one: Member) -> None:
        for kind in ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies"):
            for name in table(one.manifest, kind):
                inner = by_name.get(name)
                if inner is not None and name not in seen:
                    seen.add(name)
                    visit(inner)
                    found.append(inner)

    visit(member)
    return found


def workspace_root(source: Path, folder: str) -> str | None:
    """The folder of the workspace of which *folder* is a member; None where it stands for itself.

    Args:
        source: A repository.
        folder: A folder within it.

    Raises:
        BuildPlanError: Something of it can't be read.
    """
    own = Layout.read(source / folder)
    if any(map(own.has, _LOCKS)):
        return None
    for place in PurePosixPath(folder).parents:
        layout = Layout.read(source / place)
        inner = str(PurePosixPath(folder).relative_to(place))
        found = [*node_members(layout, layout.json("package.json")), *uv_members(layout, layout.toml("pyproject.toml"))]
        if any(one.folder == inner for one in found):
            return str(place)
    return None


def _members(layout: Layout, patterns: Sequence[str], without: Sequence[str], manifest: str) -> tuple[Member, ...]:
    taken = [_glob(one) for one in patterns if not one.startswith("!")]
    left = [*map(_glob, without), *(_glob(one[1:]) for one in patterns if one.startswith("!"))]
    found: list[Member] = []
    for name in sorted(layout.texts):
        folder, _, file = name.rpartition("/")
        if file != manifest or not folder or not any(one.fullmatch(folder) for one in taken):
            continue
        if any(one.fullmatch(folder) for one in left):
            continue
        if not _FOLDER.fullmatch(folder):
            raise BuildPlanError.of("", f"the workspace's folder {folder[:100]!r} is no plain name; rename it")
        found.append(Member(folder, layout.toml(name) if manifest.endswith(".toml") else layout.json(name)))
    return tuple(found)


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern for folders: * is one part of a path or a piece of it, ** any number of parts."""
    parts = pattern.removeprefix("./").strip("/").split("/")
    return re.compile("/".join(".*" if one == "**" else _part(one) for one in parts))


def _part(pattern: str) -> str:
    return "[^/]*".join(map(re.escape, re.split(r"\*+", pattern)))


def _texts(value: Any) -> list[str]:
    return [*_each(value)]


def _each(value: Any) -> Iterator[str]:
    for one in cast("list[Any]", value)[:100] if isinstance(value, list) else []:
        if (said := text(one)) is not None:
            yield said[:200]

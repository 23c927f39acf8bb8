"""Finds the server among the packages of a repository: workspaces of npm, pnpm, yarn and uv."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text

PNPM: Final = "pnpm-workspace.yaml"
"""The file that makes a repository a workspace of pnpm, with its settings."""
_FOLDER: Final = re.compile(r"(?:[A-Za-z0-9_@][A-Za-z0-9_.@-]*/)*[A-Za-z0-9_@][A-Za-z0-9_.@-]*")
"""A member's folder: a path that needs no quotes in a shell."""

_LOCKS: Final = ("package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "uv.lock", "Dockerfile")


@dataclass(frozen=True)
class Member:
    """One package of a workspace.

    Attributes:
        folder: Its folder, without a slash at the end; empty for the repository's top, which is not a member.
        manifest: Its package.json or pyproject.toml.
    """

    folder: str
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name in its manifest, else its folder."""
        return text(table(self.manifest, "project").get("name")) or text(self.manifest.get("name")) or self.folder

    @property
    def prefix(self) -> str:
        """The prefix of its files' paths: the folder with a slash, or empty."""
        return f"{self.folder}/" if self.folder else ""


def node_members(layout: Layout, package: Mapping[str, Any]) -> tuple[Member, ...]:
    """Return the members of a Node.js workspace; empty if it is not a workspace.

    Raises:
        BuildPlanError: A manifest can't be read.
    """
    workspaces = package.get("workspaces")
    patterns = cast("Any", workspaces).get("packages") if isinstance(workspaces, dict) else workspaces
    if layout.has(PNPM):
        patterns = layout.yaml(PNPM).get("packages") or patterns
    return _find_members(layout, _read_texts(patterns), (), "package.json")


def uv_members(layout: Layout, project: Mapping[str, Any]) -> tuple[Member, ...]:
    """Return the members of a uv workspace; empty if it is not a workspace.

    Raises:
        BuildPlanError: A manifest can't be read.
    """
    workspace = table(project, "tool", "uv", "workspace")
    return _find_members(
        layout, _read_texts(workspace.get("members")), _read_texts(workspace.get("exclude")), "pyproject.toml"
    )


def choose_member(top: Member, members: Sequence[Member], choice: str | None, servers: Sequence[Member]) -> Member:
    """Choose the package that is the server.

    Args:
        top: The package at the repository's top.
        members: The members of its workspace.
        choice: The user's choice, a name or folder; None for none.
        servers: The members that look like a server; empty if the top does.

    Raises:
        BuildPlanError: There is no member of that name, or several members look like a server.
    """
    listed = ", ".join(sorted(member.name for member in members)[:10])
    if choice is not None:
        folder = str(PurePosixPath(choice))
        chosen = next((member for member in members if choice == member.name or folder == member.folder), None)
        if chosen is None:
            members_text = f"its members are {listed}" if members else "the source is not a workspace"
            raise BuildPlanError.of("package", f"there is no member {choice}; {members_text}")
        return chosen
    if len(servers) > 1:
        names = ", ".join(sorted(member.name for member in servers)[:10])
        raise BuildPlanError.of(
            "package", f"any of the workspace's members {names} may be the server; write package: NAME"
        )
    return servers[0] if servers else top


def member_dependencies(member: Member, members: Sequence[Member]) -> list[Member]:
    """Return the members that *member* depends on, each after its own dependencies."""
    by_name = {dependent.name: dependent for dependent in members}
    dependencies: list[Member] = []
    visited = {member.name}

    def visit(dependent: Member) -> None:
        for kind in ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies"):
            for name in table(dependent.manifest, kind):
                inner = by_name.get(name)
                if inner is not None and name not in visited:
                    visited.add(name)
                    visit(inner)
                    dependencies.append(inner)

    visit(member)
    return dependencies


def workspace_root(source: Path, folder: str) -> str | None:
    """Return the folder of the workspace of which *folder* is a member; None if it is not a member.

    Args:
        source: A repository.
        folder: A folder within it.

    Raises:
        BuildPlanError: A manifest can't be read.
    """
    own_layout = Layout.read(source / folder)
    if any(map(own_layout.has, _LOCKS)):
        return None
    for parent in PurePosixPath(folder).parents:
        layout = Layout.read(source / parent)
        inner = str(PurePosixPath(folder).relative_to(parent))
        members = [
            *node_members(layout, layout.json("package.json")),
            *uv_members(layout, layout.toml("pyproject.toml")),
        ]
        if any(member.folder == inner for member in members):
            return str(parent)
    return None


def _find_members(
    layout: Layout, patterns: Sequence[str], exclude_patterns: Sequence[str], manifest: str
) -> tuple[Member, ...]:
    included = [_compile_glob(pattern) for pattern in patterns if not pattern.startswith("!")]
    excluded = [
        *map(_compile_glob, exclude_patterns),
        *(_compile_glob(pattern[1:]) for pattern in patterns if pattern.startswith("!")),
    ]
    members: list[Member] = []
    for name in sorted(layout.texts):
        folder, _, file = name.rpartition("/")
        if file != manifest or not folder or not any(pattern.fullmatch(folder) for pattern in included):
            continue
        if any(pattern.fullmatch(folder) for pattern in excluded):
            continue
        if not _FOLDER.fullmatch(folder):
            raise BuildPlanError.of(
                "", f"the workspace's folder {folder[:100]!r} has characters that are not allowed; rename it"
            )
        members.append(Member(folder, layout.toml(name) if manifest.endswith(".toml") else layout.json(name)))
    return tuple(members)


def _compile_glob(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for folders: * matches within a part of a path, ** any number of parts."""
    parts = pattern.removeprefix("./").strip("/").split("/")
    return re.compile("/".join(".*" if part == "**" else _part_regex(part) for part in parts))


def _part_regex(pattern: str) -> str:
    return "[^/]*".join(map(re.escape, re.split(r"\*+", pattern)))


def _read_texts(value: Any) -> list[str]:
    return [*_iterate_texts(value)]


def _iterate_texts(value: Any) -> Iterator[str]:
    for item in cast("list[Any]", value)[:100] if isinstance(value, list) else []:
        if (item_text := text(item)) is not None:
            yield item_text[:200]

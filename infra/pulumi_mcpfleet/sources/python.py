"""How a Python repository becomes an image."""

from typing import Any, Final

from pulumi_mcpfleet.sources.build_needs import apt_for_python, version_line
from pulumi_mcpfleet.sources.build_plan import (
    LEFT_OUT,
    BuildOptions,
    BuildPlan,
    BuildPlanError,
    Mistake,
    built,
    with_apt,
)
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.python_install import PythonInstall, python_install, python_installer
from pulumi_mcpfleet.sources.python_start import PythonStart, python_start
from pulumi_mcpfleet.sources.python_version import broken_rules, given_way
from pulumi_mcpfleet.sources.workspaces import Member, chosen, uv_members

_MANIFESTS: Final = ("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "pylock.toml")


def is_python(layout: Layout) -> bool:
    """Whether the folder is a Python repository."""
    return any(map(layout.has, _MANIFESTS))


def python_recipe(layout: Layout, wish: BuildOptions) -> BuildPlan:
    """The Dockerfile of a Python repository.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    top = Member("", layout.toml("pyproject.toml"))
    members = uv_members(layout, top.manifest)
    member = chosen(top, members, wish.package, _servers(top, members))
    mistakes: list[Mistake] = list(broken_rules(layout, top.manifest, wish.build_args))
    if member.folder:
        mistakes += broken_rules(Layout.of({}), member.manifest, wish.build_args)
    installer, install, start = "", PythonInstall("", "", "", whole=True), PythonStart((), "")
    try:
        installer = wish.installer or python_installer(layout, top.manifest)
        install = python_install(layout, top.manifest, member, installer, wish)
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        start = python_start(layout, member, wish.start, installed=install.whole, stdio=wish.speaks == "stdio")
    except BuildPlanError as error:
        mistakes += error.mistakes
    versions, told = "", ()
    try:
        versions, told = version_line([top.manifest, member.manifest], wish.version)
    except BuildPlanError as error:
        mistakes += error.mistakes
    if mistakes:
        raise BuildPlanError(mistakes)
    needs, needed = apt_for_python(layout, top.manifest)
    dockerfile = built(
        # What only the project itself needs comes behind the layer of what it depends on: a version is new each time.
        install.early + versions + "COPY . .\n" + LEFT_OUT + install.late,
        "COPY --from=build /opt/venv /opt/venv\nCOPY --from=build /app /app\n",
        environment="PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1",
        start=(*start.words, *wish.args),
        wish=with_apt(wish, needs),
        place=member.folder,
    )
    served = f"{member.name} in {member.folder} is the member of the workspace that is served (`package`)"
    decided = [
        "Python (`language`)",
        *given_way(layout, wish.build_args),
        *([served] if member.folder else []),
        f"{installer}: {install.why} (`installer`)",
        f"{' '.join(start.words)}: {start.why} (`start`)",
        *install.notes,
        *told,
        *needed,
    ]
    return BuildPlan(dockerfile=dockerfile, decided=decided)


def _servers(top: Member, members: tuple[Member, ...]) -> list[Member]:
    """The members that look like a server, where the repository's own project is none."""
    if not members or _scripts(top):
        return []
    found = [one for one in members if _scripts(one)]
    return [one for one in found if _needs_mcp(one)] or found


def _scripts(member: Member) -> dict[str, Any]:
    return table(member.manifest, "project", "scripts")


def _needs_mcp(member: Member) -> bool:
    said = table(member.manifest, "project").get("dependencies")
    return isinstance(said, list) and any((text(one) or "").startswith(("mcp", "fastmcp")) for one in said)  # pyright: ignore[reportUnknownVariableType]

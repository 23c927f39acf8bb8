"""Plans the build of a Python repository."""

from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import (
    REMOVE_UNWANTED,
    BuildOptions,
    BuildPlan,
    BuildPlanError,
    SourceMistake,
    add_apt,
    generate_dockerfile,
)
from pulumi_mcpfleet.sources.build_requirements import apt_for_python, version_lines
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.python_install import PythonInstall, choose_python_installer, plan_python_install
from pulumi_mcpfleet.sources.python_start import PythonStart, find_python_start
from pulumi_mcpfleet.sources.python_version import find_broken_rules, find_ignored_preferences
from pulumi_mcpfleet.sources.workspaces import Member, choose_member, uv_members

_MANIFESTS: Final = ("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "pylock.toml")


def is_python(layout: Layout) -> bool:
    """Whether the folder is a Python repository."""
    return any(map(layout.has, _MANIFESTS))


def plan_python(layout: Layout, options: BuildOptions) -> BuildPlan:
    """Plan the build of a Python repository.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    top = Member("", layout.toml("pyproject.toml"))
    members = uv_members(layout, top.manifest)
    member = choose_member(top, members, options.package, _find_servers(top, members))
    mistakes: list[SourceMistake] = list(find_broken_rules(layout, top.manifest, options.build_args))
    if member.folder:
        mistakes += find_broken_rules(Layout.from_files({}), member.manifest, options.build_args)
    installer, install, start = "", PythonInstall("", "", "", installs_package=True), PythonStart((), "")
    try:
        installer = options.installer or choose_python_installer(layout, top.manifest)
        install = plan_python_install(layout, top.manifest, member, installer, options)
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        start = find_python_start(
            layout, member, options.start, installed=install.installs_package, stdio=options.speaks == "stdio"
        )
    except BuildPlanError as error:
        mistakes += error.mistakes
    version_args, version_notes = "", ()
    try:
        version_args, version_notes = version_lines([top.manifest, member.manifest], options.version)
    except BuildPlanError as error:
        mistakes += error.mistakes
    if mistakes:
        raise BuildPlanError(mistakes)
    apt, apt_notes = apt_for_python(layout, top.manifest)
    dockerfile = generate_dockerfile(
        # The version comes after the layer of the dependencies, because it is new each time.
        install.early_lines + version_args + "COPY . .\n" + REMOVE_UNWANTED + install.late_lines,
        "COPY --from=build /opt/venv /opt/venv\nCOPY --from=build /app /app\n",
        environment="PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1",
        start=(*start.command, *options.args),
        options=add_apt(options, apt),
        folder=member.folder,
    )
    member_note = f"{member.name} in {member.folder} is the member of the workspace that is served (`package`)"
    decisions = [
        "Python (`language`)",
        *find_ignored_preferences(layout, options.build_args),
        *([member_note] if member.folder else []),
        f"{installer}: {install.reason} (`installer`)",
        f"{' '.join(start.command)}: {start.reason} (`start`)",
        *install.notes,
        *version_notes,
        *apt_notes,
    ]
    return BuildPlan(dockerfile=dockerfile, decisions=decisions)


def _find_servers(top: Member, members: tuple[Member, ...]) -> list[Member]:
    """Return the members that look like a server; none if the top project looks like one."""
    if not members or _scripts(top):
        return []
    candidates = [member for member in members if _scripts(member)]
    return [member for member in candidates if _needs_mcp(member)] or candidates


def _scripts(member: Member) -> dict[str, Any]:
    return table(member.manifest, "project", "scripts")


def _needs_mcp(member: Member) -> bool:
    dependencies = table(member.manifest, "project").get("dependencies")
    items = cast("list[Any]", dependencies) if isinstance(dependencies, list) else []
    return any((text(item) or "").startswith(("mcp", "fastmcp")) for item in items)

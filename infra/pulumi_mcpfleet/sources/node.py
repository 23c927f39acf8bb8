"""Plans the build of a Node.js repository."""

from typing import Final

from pulumi_mcpfleet.sources.build_plan import (
    BuildOptions,
    BuildPlan,
    BuildPlanError,
    SourceMistake,
    add_apt,
    generate_dockerfile,
    strip_mark_line,
)
from pulumi_mcpfleet.sources.build_requirements import apt_for_node
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.node_install import (
    INSTALLERS,
    choose_node_installer,
    has_marked_manifest,
    plan_node_install,
)
from pulumi_mcpfleet.sources.node_start import NodeStart, find_node_start
from pulumi_mcpfleet.sources.node_version import NODE_VERSIONS, choose_node_version, install_node, node_packages
from pulumi_mcpfleet.sources.workspaces import Member, choose_member, member_dependencies, node_members

__all__ = ["INSTALLERS", "is_node", "plan_node"]

_BINS: Final = "node_modules/.bin"
_SDKS: Final = ("@modelcontextprotocol/sdk", "@modelcontextprotocol/server", "fastmcp", "mcp-framework")


def is_node(layout: Layout) -> bool:
    """Whether the folder is a Node.js repository."""
    return layout.has("package.json")


def plan_node(layout: Layout, options: BuildOptions) -> BuildPlan:
    """Plan the build of a Node.js repository.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    top = Member("", layout.json("package.json"))
    members = node_members(layout, top.manifest)
    member = choose_member(top, members, options.package, _find_servers(top, members))
    mistakes: list[SourceMistake] = []
    (version, reason), start, installer = ("", ""), NodeStart((), ""), ""
    try:
        version, reason = choose_node_version(layout, top.manifest, member)
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        start = find_node_start(layout, member, options.start, stdio=options.speaks == "stdio")
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        installer = options.installer or choose_node_installer(layout, top.manifest)
        install = plan_node_install(layout, top.manifest, installer, start, member, members)
    except BuildPlanError as error:
        raise BuildPlanError([*mistakes, *error.mistakes]) from None
    if mistakes:
        raise BuildPlanError(mistakes)
    apt, apt_notes = apt_for_node(layout)
    node_apt = node_packages(version)
    node_lines = (
        f"RUN {install_node(version, 'uv')}\n"
        # These link to npm's own scripts, because the wheel's `npm` needs its Python.
        "RUN cd /opt/node/bin && rm -f npm npx corepack"
        " && ln -s ../lib/node_modules/npm/bin/npm-cli.js npm && ln -s ../lib/node_modules/npm/bin/npx-cli.js npx"
        " && chmod +x node ../lib/node_modules/npm/bin/*.js\n"
        "ENV PATH=/opt/node/bin:$PATH NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=1"
        " npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false"
        # Native modules are compiled against these headers; the releases from npm have no headers of their own.
        f"{' npm_config_nodedir=/opt/node' if version in NODE_VERSIONS.values() else ''}\n"
    )
    lines = install.lines
    if has_marked_manifest(layout):
        lines = lines.replace("COPY . .\n", f"COPY . .\n{strip_mark_line('package.json')}", 1)
    bin_folders = [f"/app/{member.prefix}{_BINS}", *([f"/app/{_BINS}"] if member.folder else [])]
    dockerfile = generate_dockerfile(
        node_lines + install.tool_lines + lines,
        "COPY --from=build /opt/node/bin/node /usr/bin/node\nCOPY --from=build /app /app\n",
        environment="NODE_ENV=production"
        + (f" PATH={':'.join(bin_folders)}:$PATH" if start.is_dependency_program else ""),
        start=(*start.command, *options.args),
        options=add_apt(options, ((*node_apt, *apt.build), (*node_apt, *apt.run))),
        folder=member.folder,
    )
    decisions = [
        f"Node.js {version}{reason} (`language`)",
        *(
            [f"{member.name} in {member.folder} is the member of the workspace that is served (`package`)"]
            if member.folder
            else []
        ),
        f"{installer} (`installer`)",
        f"{' '.join(start.command)}: {start.reason} (`start`)",
        *start.notes,
        *install.notes,
        *apt_notes,
    ]
    return BuildPlan(dockerfile=dockerfile, decisions=decisions)


def _find_servers(top: Member, members: tuple[Member, ...]) -> list[Member]:
    """Return the members that look like a server; none if the top package looks like one."""
    scripts = table(top.manifest, "scripts")
    if not members or text(scripts.get("start")) or top.manifest.get("bin") or text(top.manifest.get("main")):
        return []
    startable = [
        member
        for member in members
        if text(table(member.manifest, "scripts").get("start")) or member.manifest.get("bin")
    ]
    candidates = startable or [member for member in members if text(member.manifest.get("main"))]
    libraries = {inner.folder for member in members for inner in member_dependencies(member, members)}
    candidates = [member for member in candidates if member.folder not in libraries]
    using_mcp = [
        member for member in candidates if any(name in table(member.manifest, "dependencies") for name in _SDKS)
    ]
    return using_mcp or candidates

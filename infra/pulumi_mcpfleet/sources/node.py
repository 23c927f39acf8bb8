"""How a Node.js repository becomes an image."""

from typing import Final

from pulumi_mcpfleet.sources.build_needs import apt_for_node
from pulumi_mcpfleet.sources.build_plan import (
    BuildOptions,
    BuildPlan,
    BuildPlanError,
    Mistake,
    built,
    unmarked,
    with_apt,
)
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.node_install import INSTALLERS, node_install, node_installer, package_marked
from pulumi_mcpfleet.sources.node_start import NodeStart, node_start
from pulumi_mcpfleet.sources.node_version import NODE_VERSIONS, install_node, node_needs, node_version
from pulumi_mcpfleet.sources.workspaces import Member, before, chosen, node_members

__all__ = ["INSTALLERS", "is_node", "node_recipe"]

_BINS: Final = "node_modules/.bin"
_SDKS: Final = ("@modelcontextprotocol/sdk", "@modelcontextprotocol/server", "fastmcp", "mcp-framework")


def is_node(layout: Layout) -> bool:
    """Whether the folder is a Node.js repository."""
    return layout.has("package.json")


def node_recipe(layout: Layout, wish: BuildOptions) -> BuildPlan:
    """The Dockerfile of a Node.js repository.

    Raises:
        BuildPlanError: Something can't be decided, or is not supported.
    """
    top = Member("", layout.json("package.json"))
    members = node_members(layout, top.manifest)
    member = chosen(top, members, wish.package, _servers(top, members))
    mistakes: list[Mistake] = []
    (version, why), start, installer = ("", ""), NodeStart((), ""), ""
    try:
        version, why = node_version(layout, top.manifest, member)
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        start = node_start(layout, member, wish.start, stdio=wish.speaks == "stdio")
    except BuildPlanError as error:
        mistakes += error.mistakes
    try:
        installer = wish.installer or node_installer(layout, top.manifest)
        install = node_install(layout, top.manifest, installer, start, member, members)
    except BuildPlanError as error:
        raise BuildPlanError([*mistakes, *error.mistakes]) from None
    if mistakes:
        raise BuildPlanError(mistakes)
    needs, needed = apt_for_node(layout)
    linked = node_needs(version)
    node = (
        f"RUN {install_node(version, 'uv')}\n"
        # Each of these is a script beside npm's own; the wheel's own `npm` wants its Python.
        "RUN cd /opt/node/bin && rm -f npm npx corepack"
        " && ln -s ../lib/node_modules/npm/bin/npm-cli.js npm && ln -s ../lib/node_modules/npm/bin/npx-cli.js npx"
        " && chmod +x node ../lib/node_modules/npm/bin/*.js\n"
        "ENV PATH=/opt/node/bin:$PATH NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=1"
        " npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false"
        # What is compiled is compiled against these headers; a release of npm's comes without its own.
        f"{' npm_config_nodedir=/opt/node' if version in NODE_VERSIONS.values() else ''}\n"
    )
    lines = install.lines
    if package_marked(layout):
        lines = lines.replace("COPY . .\n", f"COPY . .\n{unmarked('package.json')}", 1)
    found = [f"/app/{member.within}{_BINS}", *([f"/app/{_BINS}"] if member.folder else [])]
    dockerfile = built(
        node + install.tool + lines,
        "COPY --from=build /opt/node/bin/node /usr/bin/node\nCOPY --from=build /app /app\n",
        environment="NODE_ENV=production" + (f" PATH={':'.join(found)}:$PATH" if start.bins else ""),
        start=(*start.words, *wish.args),
        wish=with_apt(wish, ((*linked, *needs.build), (*linked, *needs.run))),
        place=member.folder,
    )
    decided = [
        f"Node.js {version}{why} (`language`)",
        *(
            [f"{member.name} in {member.folder} is the member of the workspace that is served (`package`)"]
            if member.folder
            else []
        ),
        f"{installer} (`installer`)",
        f"{' '.join(start.words)}: {start.why} (`start`)",
        *start.notes,
        *install.notes,
        *needed,
    ]
    return BuildPlan(dockerfile=dockerfile, decided=decided)


def _servers(top: Member, members: tuple[Member, ...]) -> list[Member]:
    """The members that look like a server, where the repository's own package is none."""
    scripts = table(top.manifest, "scripts")
    if not members or text(scripts.get("start")) or top.manifest.get("bin") or text(top.manifest.get("main")):
        return []
    started = [one for one in members if text(table(one.manifest, "scripts").get("start")) or one.manifest.get("bin")]
    found = started or [one for one in members if text(one.manifest.get("main"))]
    libraries = {inner.folder for one in members for inner in before(one, members)}
    found = [one for one in found if one.folder not in libraries]
    of_mcp = [one for one in found if any(name in table(one.manifest, "dependencies") for name in _SDKS)]
    return of_mcp or found

"""Plans the installation of a Node.js package's dependencies: the tool, the layers, and what stays in the image."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import REMOVE_UNWANTED, BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.node_start import NodeStart
from pulumi_mcpfleet.sources.node_version import in_range
from pulumi_mcpfleet.sources.workspaces import PNPM, Member, member_dependencies

INSTALLERS: Final = ("npm", "pnpm", "yarn")
"""The values of `installer` for Node.js."""

_LOCKS: Final = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
}
_FOREIGN: Final = {"bun.lock": "Bun's lock file", "bun.lockb": "Bun's lock file", "deno.lock": "Deno's lock file"}
_SETTINGS: Final = (".npmrc", ".yarnrc.yml", ".yarnrc")
"""Settings that an installation reads. They are copied before the code, into the layer of the dependencies."""

# By the format of the lock file, if package.json has no packageManager; the newest first.
_PNPM: Final = {"5": ("7.33.7",), "6": ("8.15.9",), "9": ("10.18.3", "9.15.9")}
_YARN_CLASSIC: Final = "1.22.22"
_YARN_BERRY: Final = {"4": "2.4.2", "5": "3.1.1", "6": "3.8.7", "8": "4.10.3"}

_MANAGER: Final = re.compile(
    r"(?P<name>[a-z]{2,20})@(?P<version>[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}(?:-[0-9A-Za-z.-]{1,60})?)(?:\+[0-9A-Za-z.-]{1,200})?"
)
"""The format of `packageManager` (Node.js, Corepack): a name, a version, and optionally a hash."""

_LOCAL: Final = re.compile(r"(?:file|link|portal|workspace|patch|exec):|\.{0,2}/|~/")
"""The beginning of a dependency that is a file or folder of the repository."""


@dataclass(frozen=True)
class NodeInstall:
    """The lines of a Dockerfile that install a package.

    Attributes:
        installer: The tool.
        tool_lines: The lines that install the tool.
        lines: The lines that install dependencies, build, and remove what only the build needed.
        notes: Further decisions.
    """

    installer: str
    tool_lines: str
    lines: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tool:
    get: str
    install: str
    run: str
    prune: str
    notes: tuple[str, ...] = ()


def choose_node_installer(layout: Layout, package: Mapping[str, Any]) -> str:
    """Choose the tool that installs a package's dependencies.

    Raises:
        BuildPlanError: Nothing determines the tool, or it is not supported.
    """
    package_manager, _ = _read_package_manager(package)
    locks = sorted({installer for name, installer in _LOCKS.items() if layout.has(name)})
    foreign = [f"{name} is {problem}" for name, problem in _FOREIGN.items() if layout.has(name)]
    if package_manager in INSTALLERS:
        return package_manager
    if len(locks) == 1:
        return locks[0]
    if locks:
        raise BuildPlanError.of(
            "installer", f"there are lock files of {' and '.join(locks)}; write installer: {locks[0]}"
        )
    if foreign or package_manager:
        problem = foreign[0] if foreign else f"packageManager is {package_manager}"
        raise BuildPlanError.of(
            "installer", f"{problem}, which is not supported; add a package-lock.json (npm install)"
        )
    raise BuildPlanError.of(
        "installer",
        "there is no package-lock.json, pnpm-lock.yaml or yarn.lock, so the installed versions would be unknown;"
        " add one (npm install --package-lock-only), or a Dockerfile",
    )


def plan_node_install(
    layout: Layout,
    package: Mapping[str, Any],
    installer: str,
    start: NodeStart,
    member: Member,
    members: Sequence[Member],
) -> NodeInstall:
    """Plan how the dependencies are installed and the server is built.

    Args:
        layout: The source.
        package: The package.json at its top.
        installer: The tool.
        start: How the server starts.
        member: The package that is the server.
        members: The members of its workspace; empty if there is none.

    Raises:
        BuildPlanError: The tool can't install it.
    """
    locks = [name for name, tool in _LOCKS.items() if tool == installer and layout.has(name)]
    if installer not in INSTALLERS:
        raise BuildPlanError.of("installer", f"{installer!r} is no installer of Node.js; write npm, pnpm or yarn")
    if not locks:
        missing = next(name for name, tool in _LOCKS.items() if tool == installer)
        raise BuildPlanError.of("installer", f"{installer} needs {missing}, and there is none")
    tool = _choose_tool(layout, package, installer, locks[0], workspace=bool(members))
    build = "".join(_build_lines(package, tool.run, start, member, members))
    prune, notes = ("", ()) if start.kept_packages else (tool.prune, tool.notes)
    reason = next(_late_install_reasons(layout, package, members), None)
    if reason is not None:
        note = f"the dependencies are installed behind the code, whose every change installs them anew: {reason}"
        return NodeInstall(
            installer,
            tool.get,
            f"COPY . .\n{REMOVE_UNWANTED}RUN {tool.install}\n{build}{prune}",
            (*notes, f"{note} (`installer`)"),
        )
    files = " ".join(sorted({"package.json", *locks, *(name for name in _SETTINGS if layout.has(name))}))
    code = f"COPY . .\n{REMOVE_UNWANTED.replace(' node_modules', '')}"
    return NodeInstall(installer, tool.get, f"COPY {files} ./\nRUN {tool.install}\n{code}{build}{prune}", notes)


def _late_install_reasons(layout: Layout, package: Mapping[str, Any], members: Sequence[Member]) -> Iterator[str]:
    """Yield the reasons why the installation needs more files than package.json, lock and settings."""
    scripts = table(package, "scripts")
    if install_scripts := [name for name in ("preinstall", "install", "postinstall", "prepare") if name in scripts]:
        yield f"the script {install_scripts[0]} runs then"
    if members or "workspaces" in package or layout.has(PNPM):
        yield "it is a workspace"
    if "patchedDependencies" in {**table(package, "pnpm"), **layout.yaml(PNPM)}:
        yield "it has patches"
    for kind in ("dependencies", "devDependencies", "optionalDependencies", "overrides", "resolutions"):
        for name, version in table(package, kind).items():
            if isinstance(version, str) and _LOCAL.match(version):
                yield f"{name} is of the repository's own"
    if any(
        name.startswith((".yarn/patches/", ".yarn/plugins/", ".yarn/cache/", ".yarn/versions/"))
        for name in layout.names
    ):
        yield "it has files of yarn's"
    if layout.has(".pnpmfile.cjs"):
        yield "it has a .pnpmfile.cjs"
    if has_marked_manifest(layout):
        yield "its package.json begins with a byte-order mark"


def has_marked_manifest(layout: Layout) -> bool:
    """Whether package.json begins with a byte-order mark."""
    return layout.texts.get("package.json", "").startswith("\ufeff")


def _build_lines(
    package: Mapping[str, Any], run: str, start: NodeStart, member: Member, members: Sequence[Member]
) -> Iterator[str]:
    """Yield the lines that build the workspace members that the server depends on, and then the server."""
    change_folder = f"cd {shlex.quote(member.folder)} && " if member.folder else ""
    if member.folder and text(table(package, "scripts").get("build")):
        yield f"RUN {run} build\n"  # the repository's own script decides what is built, and in which order
    else:
        for dependency in member_dependencies(member, members):
            if dependency.folder and text(table(dependency.manifest, "scripts").get("build")):
                yield f"RUN cd {shlex.quote(dependency.folder)} && {run} build\n"
        for name in start.build_scripts:
            yield f"RUN {change_folder}{run} {shlex.quote(name)}\n"
    if start.build_tool:
        yield f"RUN {change_folder}PATH=node_modules/.bin:/app/node_modules/.bin:$PATH {shlex.join(start.build_tool)}\n"


# --- the tools ----------------------------------------------------------------------------------------------


def _read_package_manager(package: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and version of `packageManager`, or only the name in devEngines; empty texts if there is none."""
    value = text(package.get("packageManager"))
    if value is None:
        return text(table(package, "devEngines", "packageManager").get("name")) or "", ""
    match = _MANAGER.fullmatch(value)
    if match is None:
        message = (
            f"packageManager {value[:100]!r} of package.json is not of the form NAME@VERSION, such as"
            f" pnpm@10.18.3; correct it"
        )
        raise BuildPlanError.of("installer", message)
    return match["name"], match["version"]


def _choose_tool(layout: Layout, package: Mapping[str, Any], installer: str, lock: str, *, workspace: bool) -> _Tool:
    name, pinned = _read_package_manager(package)
    pinned = pinned if name == installer else ""
    if installer == "npm":
        return _Tool("", "npm ci", "npm run", "RUN npm prune --omit=dev --ignore-scripts\n")
    if installer == "pnpm":
        version = pinned or _choose_pnpm_version(layout, package, lock)
        # pnpm prune would remove the dependencies of a workspace's members.
        reinstall = (
            "install --prod --frozen-lockfile --ignore-scripts --prefer-offline --config.confirm-modules-purge=false"
        )
        prune = f"RUN pnpm {reinstall}\n" if workspace else "RUN pnpm prune --prod --ignore-scripts\n"
        return _Tool(_global_install_line(f"pnpm@{version}"), "pnpm install --frozen-lockfile", "pnpm run", prune)
    settings = "\n".join(layout.texts.get(name_or_path, "") for name_or_path in (".yarnrc.yml", ".yarnrc"))
    # The release in the repository is installed from the registry, because the layer of the dependencies has no code.
    release = re.search(r"yarn-(?:berry-)?([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})\.c?js", settings)
    pinned = pinned or (release[1] if release else "")
    metadata = re.search(r"^__metadata:\n\s+version: ['\"]?([0-9]{1,3})", layout.texts.get(lock, ""), re.MULTILINE)
    if "__metadata:" not in layout.texts.get(lock, "") and (not pinned or pinned.startswith("1.")):
        production = "RUN yarn install --frozen-lockfile --production --ignore-scripts --prefer-offline\n"
        get = f"{_global_install_line(f'yarn@{pinned or _YARN_CLASSIC}')}ENV YARN_IGNORE_PATH=1\n"
        return _Tool(get, "yarn install --frozen-lockfile", "yarn run", production)
    version = (
        pinned
        if pinned and not pinned.startswith("1.")
        else _YARN_BERRY.get(metadata[1] if metadata else "8", "4.10.3")
    )
    # Plug'n'Play needs a loader that the last stage doesn't have.
    get = (
        f"{_global_install_line(f'@yarnpkg/cli-dist@{version}')}ENV YARN_NODE_LINKER=node-modules"
        f" YARN_ENABLE_TELEMETRY=0"
        " YARN_ENABLE_GLOBAL_CACHE=0 YARN_IGNORE_PATH=1\n"
    )
    if int(version.partition(".")[0]) < 4 and not any(
        "plugin-workspace-tools" in name_or_path for name_or_path in layout.names
    ):
        note = f"development dependencies stay in the image: yarn {version} takes none away without its plugin"
        return _Tool(get, "yarn install --immutable", "yarn run", "", (f"{note} (`installer`)",))
    prune = "RUN yarn workspaces focus --production --all && rm -rf .yarn\n"
    return _Tool(get, "yarn install --immutable", "yarn run", prune)


def _choose_pnpm_version(layout: Layout, package: Mapping[str, Any], lock: str) -> str:
    format_ = re.search(r"^lockfileVersion:\s*['\"]?(\d+)", layout.texts.get(lock, ""), re.MULTILINE)
    known_versions = _PNPM.get(format_[1] if format_ else "", ())
    if not known_versions:
        message = f"{lock} is of a format that is not known; write packageManager into package.json"
        raise BuildPlanError.of("installer", message)
    range_ = text(table(package, "engines").get("pnpm")) or "*"
    chosen = next((version for version in known_versions if in_range(range_, version)), None)
    if chosen is None:
        message = (
            f"package.json wants pnpm {range_}, and {known_versions[0]} is known for {lock}; write"
            f" packageManager into it"
        )
        raise BuildPlanError.of("installer", message)
    return chosen


def _global_install_line(package: str) -> str:
    return f"RUN npm install --loglevel=error --global {package}\n"

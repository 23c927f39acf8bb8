"""How a Node.js package's dependencies are installed: by which tool, in which layer, and what of them stays."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pulumi_mcpfleet.sources.build_plan import LEFT_OUT, BuildPlanError
from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.node_start import NodeStart
from pulumi_mcpfleet.sources.node_version import in_range
from pulumi_mcpfleet.sources.workspaces import PNPM, Member, before

INSTALLERS: Final = ("npm", "pnpm", "yarn")
"""What `installer` may say for Node.js."""

_LOCKS: Final = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
}
_FOREIGN: Final = {"bun.lock": "Bun's lock file", "bun.lockb": "Bun's lock file", "deno.lock": "Deno's lock file"}
_SETTINGS: Final = (".npmrc", ".yarnrc.yml", ".yarnrc")
"""What else an installation reads, which the layer of the dependencies can have before the code."""

# By the format of the lock file, where package.json has no packageManager; the newest first.
_PNPM: Final = {"5": ("7.33.7",), "6": ("8.15.9",), "9": ("10.18.3", "9.15.9")}
_YARN_CLASSIC: Final = "1.22.22"
_YARN_BERRY: Final = {"4": "2.4.2", "5": "3.1.1", "6": "3.8.7", "8": "4.10.3"}

_MANAGER: Final = re.compile(
    r"(?P<name>[a-z]{2,20})@(?P<version>[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}(?:-[0-9A-Za-z.-]{1,60})?)(?:\+[0-9A-Za-z.-]{1,200})?"
)
"""`packageManager` as Node.js' Corepack has it: a name, one version, and perhaps a hash."""

_LOCAL: Final = re.compile(r"(?:file|link|portal|workspace|patch|exec):|\.{0,2}/|~/")
"""What a dependency begins with that is a file or folder of the repository."""


@dataclass(frozen=True)
class NodeInstall:
    """Lines of a Dockerfile.

    Attributes:
        installer: The tool.
        tool: What gets it.
        lines: What installs, builds, and takes away what only that needed.
        notes: What else was decided.
    """

    installer: str
    tool: str
    lines: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tool:
    get: str
    install: str
    run: str
    prune: str
    notes: tuple[str, ...] = ()


def node_installer(layout: Layout, package: Mapping[str, Any]) -> str:
    """Which tool installs a package's dependencies.

    Raises:
        BuildPlanError: Nothing says so, or something else than these tools.
    """
    said, _ = _manager(package)
    locks = sorted({installer for name, installer in _LOCKS.items() if layout.has(name)})
    foreign = [f"{name} is {what}" for name, what in _FOREIGN.items() if layout.has(name)]
    if said in INSTALLERS:
        return said
    if len(locks) == 1:
        return locks[0]
    if locks:
        raise BuildPlanError.of(
            "installer", f"there are lock files of {' and '.join(locks)}; write installer: {locks[0]}"
        )
    if foreign or said:
        what = foreign[0] if foreign else f"packageManager is {said}"
        raise BuildPlanError.of("installer", f"{what}, which is not supported; add a package-lock.json (npm install)")
    raise BuildPlanError.of(
        "installer",
        "there is no package-lock.json, pnpm-lock.yaml or yarn.lock, so nobody can say what would be installed;"
        " add one (npm install --package-lock-only), or a Dockerfile",
    )


def node_install(
    layout: Layout,
    package: Mapping[str, Any],
    installer: str,
    start: NodeStart,
    member: Member,
    members: Sequence[Member],
) -> NodeInstall:
    """How the dependencies are installed, and the server is built.

    Args:
        layout: The source.
        package: The package.json at its top.
        installer: The tool.
        start: How the server starts.
        member: The package that it is.
        members: Those of its workspace, if it is one.

    Raises:
        BuildPlanError: The tool can't install it.
    """
    locks = [name for name, tool in _LOCKS.items() if tool == installer and layout.has(name)]
    if installer not in INSTALLERS:
        raise BuildPlanError.of("installer", f"{installer!r} is no installer of Node.js; write npm, pnpm or yarn")
    if not locks:
        missing = next(name for name, tool in _LOCKS.items() if tool == installer)
        raise BuildPlanError.of("installer", f"{installer} needs {missing}, and there is none")
    tool = _tool(layout, package, installer, locks[0], workspace=bool(members))
    build = "".join(_builds(package, tool.run, start, member, members))
    prune, notes = ("", ()) if start.keeps else (tool.prune, tool.notes)
    why = next(_why_late(layout, package, members), None)
    if why is not None:
        late = f"the dependencies are installed behind the code, whose every change installs them anew: {why}"
        return NodeInstall(
            installer,
            tool.get,
            f"COPY . .\n{LEFT_OUT}RUN {tool.install}\n{build}{prune}",
            (*notes, f"{late} (`installer`)"),
        )
    files = " ".join(sorted({"package.json", *locks, *(name for name in _SETTINGS if layout.has(name))}))
    code = f"COPY . .\n{LEFT_OUT.replace(' node_modules', '')}"
    return NodeInstall(installer, tool.get, f"COPY {files} ./\nRUN {tool.install}\n{code}{build}{prune}", notes)


def _why_late(layout: Layout, package: Mapping[str, Any], members: Sequence[Member]) -> Iterator[str]:
    """Why the installation needs more than package.json, lock and settings."""
    scripts = table(package, "scripts")
    if ran := [name for name in ("preinstall", "install", "postinstall", "prepare") if name in scripts]:
        yield f"the script {ran[0]} runs then"
    if members or "workspaces" in package or layout.has(PNPM):
        yield "it is a workspace"
    if "patchedDependencies" in {**table(package, "pnpm"), **layout.yaml(PNPM)}:
        yield "it has patches"
    for kind in ("dependencies", "devDependencies", "optionalDependencies", "overrides", "resolutions"):
        for name, said in table(package, kind).items():
            if isinstance(said, str) and _LOCAL.match(said):
                yield f"{name} is of the repository's own"
    if any(
        name.startswith((".yarn/patches/", ".yarn/plugins/", ".yarn/cache/", ".yarn/versions/"))
        for name in layout.names
    ):
        yield "it has files of yarn's"
    if layout.has(".pnpmfile.cjs"):
        yield "it has a .pnpmfile.cjs"
    if package_marked(layout):
        yield "its package.json begins with a byte-order mark"


def package_marked(layout: Layout) -> bool:
    """Whether package.json begins with a byte-order mark."""
    return layout.texts.get("package.json", "").startswith("\ufeff")


def _builds(
    package: Mapping[str, Any], run: str, start: NodeStart, member: Member, members: Sequence[Member]
) -> Iterator[str]:
    """Lines that build the server, and first what of its workspace it needs."""
    place = f"cd {shlex.quote(member.folder)} && " if member.folder else ""
    if member.folder and text(table(package, "scripts").get("build")):
        yield f"RUN {run} build\n"  # the repository's own word on what is built, and in which order
    else:
        for one in before(member, members):
            if one.folder and text(table(one.manifest, "scripts").get("build")):
                yield f"RUN cd {shlex.quote(one.folder)} && {run} build\n"
        for name in start.build:
            yield f"RUN {place}{run} {shlex.quote(name)}\n"
    if start.tool:
        yield f"RUN {place}PATH=node_modules/.bin:/app/node_modules/.bin:$PATH {shlex.join(start.tool)}\n"


# --- the tools ----------------------------------------------------------------------------------------------


def _manager(package: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version of `packageManager`, or the name alone of devEngines; empty where there is none."""
    said = text(package.get("packageManager"))
    if said is None:
        return text(table(package, "devEngines", "packageManager").get("name")) or "", ""
    found = _MANAGER.fullmatch(said)
    if found is None:
        sentence = f"packageManager {said[:100]!r} of package.json is no NAME@VERSION, such as pnpm@10.18.3; mend it"
        raise BuildPlanError.of("installer", sentence)
    return found["name"], found["version"]


def _tool(layout: Layout, package: Mapping[str, Any], installer: str, lock: str, *, workspace: bool) -> _Tool:
    name, pinned = _manager(package)
    pinned = pinned if name == installer else ""
    if installer == "npm":
        return _Tool("", "npm ci", "npm run", "RUN npm prune --omit=dev --ignore-scripts\n")
    if installer == "pnpm":
        version = pinned or _pnpm(layout, package, lock)
        # pnpm prune takes the dependencies of a workspace's members away.
        again = (
            "install --prod --frozen-lockfile --ignore-scripts --prefer-offline --config.confirm-modules-purge=false"
        )
        prune = f"RUN pnpm {again}\n" if workspace else "RUN pnpm prune --prod --ignore-scripts\n"
        return _Tool(_got(f"pnpm@{version}"), "pnpm install --frozen-lockfile", "pnpm run", prune)
    settings = "\n".join(layout.texts.get(one, "") for one in (".yarnrc.yml", ".yarnrc"))
    # The release that is in the repository, but from the registry: the layer of the dependencies has no code.
    release = re.search(r"yarn-(?:berry-)?([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})\.c?js", settings)
    pinned = pinned or (release[1] if release else "")
    metadata = re.search(r"^__metadata:\n\s+version: ['\"]?([0-9]{1,3})", layout.texts.get(lock, ""), re.MULTILINE)
    if "__metadata:" not in layout.texts.get(lock, "") and (not pinned or pinned.startswith("1.")):
        production = "RUN yarn install --frozen-lockfile --production --ignore-scripts --prefer-offline\n"
        got = f"{_got(f'yarn@{pinned or _YARN_CLASSIC}')}ENV YARN_IGNORE_PATH=1\n"
        return _Tool(got, "yarn install --frozen-lockfile", "yarn run", production)
    version = (
        pinned
        if pinned and not pinned.startswith("1.")
        else _YARN_BERRY.get(metadata[1] if metadata else "8", "4.10.3")
    )
    # Plug'n'Play wants a loader that the last stage has not.
    got = (
        f"{_got(f'@yarnpkg/cli-dist@{version}')}ENV YARN_NODE_LINKER=node-modules YARN_ENABLE_TELEMETRY=0"
        " YARN_ENABLE_GLOBAL_CACHE=0 YARN_IGNORE_PATH=1\n"
    )
    if int(version.partition(".")[0]) < 4 and not any("plugin-workspace-tools" in one for one in layout.names):
        note = f"development dependencies stay in the image: yarn {version} takes none away without its plugin"
        return _Tool(got, "yarn install --immutable", "yarn run", "", (f"{note} (`installer`)",))
    prune = "RUN yarn workspaces focus --production --all && rm -rf .yarn\n"
    return _Tool(got, "yarn install --immutable", "yarn run", prune)


def _pnpm(layout: Layout, package: Mapping[str, Any], lock: str) -> str:
    format_ = re.search(r"^lockfileVersion:\s*['\"]?(\d+)", layout.texts.get(lock, ""), re.MULTILINE)
    there = _PNPM.get(format_[1] if format_ else "", ())
    if not there:
        sentence = f"{lock} is of a format that is not known; write packageManager into package.json"
        raise BuildPlanError.of("installer", sentence)
    wanted = text(table(package, "engines").get("pnpm")) or "*"
    found = next((version for version in there if in_range(wanted, version)), None)
    if found is None:
        sentence = f"package.json wants pnpm {wanted}, and {there[0]} is known for {lock}; write packageManager into it"
        raise BuildPlanError.of("installer", sentence)
    return found


def _got(package: str) -> str:
    return f"RUN npm install --loglevel=error --global {package}\n"

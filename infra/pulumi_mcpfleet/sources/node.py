"""How a Node.js repository is installed and started."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.node_version import install_node, node_needs, node_version
from pulumi_mcpfleet.sources.recipe import LEFT_OUT, Mistake, Recipe, RecipeError, Wish, built, packages

INSTALLERS: Final = ("npm", "pnpm", "yarn")
"""What `installer` may say for Node.js."""

_LOCKS: Final = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
}
_FOREIGN: Final = {"bun.lock": "Bun's lock file", "bun.lockb": "Bun's lock file", "deno.lock": "Deno's lock file"}

# By the format of the lock file, where package.json has no packageManager.
_PNPM: Final = {"5": "7.33.7", "6": "8.15.9", "9": "10.18.3"}
_YARN_CLASSIC: Final = "1.22.22"
_YARN_BERRY: Final = "4.10.3"


_MANAGER: Final = re.compile(
    r"(?P<name>[a-z]{2,20})@(?P<version>[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}(?:-[0-9A-Za-z.-]{1,60})?)(?:\+[0-9A-Za-z.-]{1,200})?"
)
"""`packageManager` as Node.js' Corepack has it: a name, one version, and perhaps a hash."""


def is_node(layout: Layout) -> bool:
    """Whether the folder is a Node.js repository."""
    return layout.has("package.json")


def node_recipe(layout: Layout, wish: Wish) -> Recipe:
    """The Dockerfile of a Node.js repository.

    Raises:
        RecipeError: Something can't be decided, or is not supported.
    """
    package = layout.json("package.json")
    mistakes: list[Mistake] = []
    (version, why), install, start = ("", ""), ("", "", ""), (tuple(wish.start), "as `start` says")
    try:
        version, why = node_version(layout, package)
    except RecipeError as error:
        mistakes += error.mistakes
    try:
        installer = wish.installer or _installer(layout, package)
        install = (installer, *_install(layout, package, installer))
    except RecipeError as error:
        mistakes += error.mistakes
    try:
        start = start if wish.start else _start(layout, package)
    except RecipeError as error:
        mistakes += error.mistakes
    if mistakes:
        raise RecipeError(mistakes)
    installer, tool, lines = install
    node = (
        f"{packages(node_needs(version))}RUN {install_node(version, 'uv')}\n"
        # Each of these is a script beside npm's own; the wheel's own `npm` wants its Python.
        "RUN cd /opt/node/bin && rm -f npm npx corepack"
        " && ln -s ../lib/node_modules/npm/bin/npm-cli.js npm && ln -s ../lib/node_modules/npm/bin/npx-cli.js npx"
        " && chmod +x node ../lib/node_modules/npm/bin/*.js\n"
        "ENV PATH=/opt/node/bin:$PATH NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=1"
        " npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false\n"
    )
    dockerfile = built(
        node + tool + lines,
        "COPY --from=build /opt/node/bin/node /usr/bin/node\nCOPY --from=build /app /app\n",
        environment="NODE_ENV=production",
        start=start[0],
        wish=replace(wish, apt=(*wish.apt, *node_needs(version))),
    )
    decided = [
        f"Node.js {version}{why} (`language`)",
        f"{installer} (`installer`)",
        f"{' '.join(start[0])}: {start[1]} (`start`)",
    ]
    return Recipe(dockerfile=dockerfile, decided=decided)


# --- what it needs ----------------------------------------------------------------------------------------


def _installer(layout: Layout, package: Mapping[str, Any]) -> str:
    said, _ = _manager(package)
    locks = sorted({installer for name, installer in _LOCKS.items() if layout.has(name)})
    foreign = [f"{name} is {what}" for name, what in _FOREIGN.items() if layout.has(name)]
    if said in INSTALLERS:
        return said
    if len(locks) == 1:
        return locks[0]
    if locks:
        raise RecipeError.of("installer", f"there are lock files of {' and '.join(locks)}; write installer: {locks[0]}")
    if foreign or said:
        what = foreign[0] if foreign else f"packageManager is {said}"
        raise RecipeError.of("installer", f"{what}, which is not supported; add a package-lock.json (npm install)")
    raise RecipeError.of(
        "installer",
        "there is no package-lock.json, pnpm-lock.yaml or yarn.lock, so nobody can say what would be installed;"
        " add one (npm install --package-lock-only), or a Dockerfile",
    )


def _manager(package: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version of `packageManager`; empty where there is none."""
    said = text(package.get("packageManager"))
    if said is None:
        return "", ""
    found = _MANAGER.fullmatch(said)
    if found is None:
        sentence = f"packageManager {said[:100]!r} of package.json is no NAME@VERSION, such as pnpm@10.18.3; mend it"
        raise RecipeError.of("installer", sentence)
    return found["name"], found["version"]


def _install(layout: Layout, package: Mapping[str, Any], installer: str) -> tuple[str, str]:
    """Lines that get the installer, and lines that install and build."""
    locks = [name for name, tool in _LOCKS.items() if tool == installer and layout.has(name)]
    if installer not in INSTALLERS:
        raise RecipeError.of("installer", f"{installer!r} is no installer of Node.js; write npm, pnpm or yarn")
    if not locks:
        missing = next(name for name, tool in _LOCKS.items() if tool == installer)
        raise RecipeError.of("installer", f"{installer} needs {missing}, and there is none")
    name, pinned = _manager(package)
    pinned = pinned if name == installer else ""
    scripts = table(package, "scripts")
    # Scripts that run at the installation need the code; so does a workspace, whose parts are packages of their own.
    early = not ({"preinstall", "install", "postinstall", "prepare"} & set(scripts)) and "workspaces" not in package
    files = " ".join(
        sorted({"package.json", *locks, *(name for name in (".npmrc", ".yarnrc.yml") if layout.has(name))})
    )
    tool, install, run, prune = _commands(layout, locks[0], installer, pinned)
    build = f"RUN {run} build\n" if "build" in scripts else ""
    code = f"COPY . .\n{LEFT_OUT.replace(' node_modules', '')}"
    if layout.has("pnpm-workspace.yaml"):
        early = False
    if early:
        return tool, f"COPY {files} ./\nRUN {install}\n{code}{build}{prune}"
    return tool, f"COPY . .\n{LEFT_OUT}RUN {install}\n{build}{prune}"


def _commands(layout: Layout, lock: str, installer: str, pinned: str) -> tuple[str, str, str, str]:
    if installer == "npm":
        return "", "npm ci", "npm run", "RUN npm prune --omit=dev --ignore-scripts\n"
    if installer == "pnpm":
        format_ = re.search(r"^lockfileVersion:\s*'?(\d+)", layout.texts.get(lock, ""), re.MULTILINE)
        version = pinned or _PNPM.get(format_[1] if format_ else "")
        if version is None:
            raise RecipeError.of(
                "installer", f"{lock} is of a format that is not known; write packageManager into package.json"
            )
        tool = f"RUN npm install --silent --global pnpm@{version}\n"
        return tool, "pnpm install --frozen-lockfile", "pnpm run", "RUN pnpm prune --prod --ignore-scripts\n"
    berry = "__metadata:" in layout.texts.get(lock, "") or (pinned and not pinned.startswith("1."))
    if berry:
        # Plug'n'Play wants a loader that the last stage has not.
        tool = (
            f"RUN npm install --silent --global @yarnpkg/cli-dist@{pinned or _YARN_BERRY}\n"
            "ENV YARN_NODE_LINKER=node-modules YARN_ENABLE_TELEMETRY=0 YARN_ENABLE_GLOBAL_CACHE=0\n"
        )
        return (
            tool,
            "yarn install --immutable",
            "yarn run",
            "RUN yarn workspaces focus --production --all && rm -rf .yarn\n",
        )
    tool = f"RUN npm install --silent --global yarn@{pinned or _YARN_CLASSIC}\n"
    production = "RUN yarn install --frozen-lockfile --production --ignore-scripts --prefer-offline\n"
    return tool, "yarn install --frozen-lockfile", "yarn run", production


# --- how it starts ----------------------------------------------------------------------------------------


def _start(layout: Layout, package: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    script = text(table(package, "scripts").get("start"))
    if script is not None:
        words = _words(script)
        if words is None:
            raise _undecided(
                f"the start script is {script!r}, which needs a shell or a tool that is not in the image;"
                " write start: [node, FILE.js]"
            )
        return words, "the start script of package.json, without npm around it"
    bin_ = package.get("bin")
    programs = {text(package.get("name")) or "": bin_} if isinstance(bin_, str) else table(package, "bin")
    files = {name: path for name, said in programs.items() if (path := text(said))}
    if len(set(files.values())) == 1:
        (path, *_) = files.values()
        return ("node", _file(path)), "the program in bin of package.json"
    if files:
        raise _undecided(f"package.json has the programs {', '.join(sorted(files))}; write start: [node, FILE.js]")
    main = text(package.get("main"))
    if main is not None:
        return ("node", _file(main)), "main of package.json"
    found = [name for name in ("server.js", "index.js", "server.mjs", "index.mjs") if layout.has(name)]
    if len(found) == 1:
        return ("node", found[0]), f"{found[0]} is where it begins, by its name"
    raise _undecided(
        "nothing says how the server starts: package.json has no start script, no bin and no main;"
        " write start: [node, FILE.js]"
    )


def _file(said: str) -> str:
    """A file that package.json names: inside of the repository, and no option of node."""
    path = PurePosixPath(said)
    if said.startswith("-") or path.is_absolute() or ".." in path.parts:
        raise _undecided(f"{said[:100]!r} in package.json is no file of the repository; write start: [node, FILE.js]")
    return said.removeprefix("./")


def _words(script: str) -> tuple[str, ...] | None:
    """A start script that is a plain call of node; None for one that only a shell or npm could run."""
    try:
        words = shlex.split(script)
    except ValueError:
        return None
    if not words or words[0] != "node" or re.search(r"[&|;<>$`*]", script):
        return None
    return tuple(words)


def _undecided(sentence: str) -> RecipeError:
    return RecipeError.of("start", sentence)

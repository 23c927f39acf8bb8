"""A stdio server with the bridge beside it: a stage for each, and an image that holds both.

Everything is installed when the image is built; nothing is fetched when it starts.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pulumi_mcpfleet.sources.build_plan import (
    BRIDGE_PTH,
    INSTALL_UV,
    START_BRIDGE,
    TOOLS_STAGE,
    Besides,
    BuildPlan,
    BuildPlanError,
    FromImage,
    bridge_stage,
    hashed,
    last_stage,
    packages,
    running,
    stdio_variable,
)
from pulumi_mcpfleet.sources.node_version import NODE_VERSIONS, install_node
from pulumi_mcpfleet.sources.shared_state import shared_by_package

PROGRAM: Final = "/opt/server/mcp-server"
"""Where the image has the server's program, whatever it is called in its package."""

LOCK_FOLDER: Final = "lock"
"""Where the files of a package's lock are, within the folder that the image is built in."""

# npm's own rule for names, but for a - at the beginning, which would be an option; and semantic versions: a range would
# be another server tomorrow.
_NPM: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*)@(?P<version>[0-9][0-9A-Za-z.+-]*)"
)
_PYPI: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[A-Za-z0-9._,-]+\])?"
    r"==(?P<version>[0-9][0-9A-Za-z.!+-]*)"
)


_LABELS: Final = """\
LABEL org.opencontainers.image.title="mcpfleet stdio bridge" \\
      org.opencontainers.image.description="An MCP server that speaks stdio, over streamable HTTP at /mcp" \\
      org.opencontainers.image.licenses="Apache-2.0"
"""

_COPY: Final = "COPY --from=server /opt/server /opt/server\n"


@dataclass(frozen=True, kw_only=True)
class Stdio:
    """A stdio server.

    Attributes:
        npm: A package of npm, `NAME@VERSION`.
        pypi: A package of PyPI, `NAME==VERSION`.
        image: An image that holds the server, and Python 3.11 or newer for the bridge.
        command: How the server is started; needed with `image`, else only where a package has several programs.
        args: Arguments for it.
        apt: Debian packages that it needs while it runs.
        apt_build: Debian packages that it needs while it is installed.
        bounds: Requirements beside a package of PyPI, to hold what it depends on.
        overrides: Versions of what a package of npm depends on, by name.
        before: The date of the newest packages that are installed; empty: none.
        install_scripts: Packages of npm whose installation scripts run.
        environment: Variables that it finds; those of the service come before.
        copy_from: Files of other images that it needs.
        writable: Folders of its image in which it may write.
    """

    npm: str | None = None
    pypi: str | None = None
    image: str | None = None
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    apt: Sequence[str] = ()
    apt_build: Sequence[str] = ()
    bounds: Sequence[str] = ()
    overrides: Mapping[str, str] = field(default_factory=dict[str, str])
    before: str = ""
    install_scripts: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    copy_from: Mapping[str, FromImage] = field(default_factory=dict[str, FromImage])
    writable: Sequence[str] = ()

    @property
    def besides(self) -> Besides:
        """What its image holds besides the server."""
        return Besides(apt=self.apt, copy_from=self.copy_from, writable=self.writable)


def npm_name(package: str) -> str:
    """The name in `NAME@VERSION`.

    Raises:
        ValueError: It is not of that form.
    """
    found = _NPM.fullmatch(package)
    if found is None or len(package) > 300:
        raise ValueError(
            f"{package[:100]!r} is no version of a package; write NAME@VERSION, such as"
            " @modelcontextprotocol/server-everything@2026.8.31 (npm view NAME version shows the newest)"
        )
    return found["name"]


def pypi_name(package: str) -> str:
    """The name in `NAME==VERSION`.

    Raises:
        ValueError: It is not of that form.
    """
    found = _PYPI.fullmatch(package)
    if found is None or len(package) > 300:
        raise ValueError(
            f"{package[:100]!r} is no version of a package; write NAME==VERSION, such as mcp-server-time==2026.10.19"
            " (pip index versions NAME shows the newest)"
        )
    return found["name"]


def stdio_recipe(server: Stdio, locked: Mapping[str, bytes] | None = None, newest: str = "") -> BuildPlan:
    """The Dockerfile of a stdio server behind the bridge, to be built in a folder with the bridge's files.

    Args:
        server: What the image is to hold.
        locked: The files of its lock, which lie in LOCK_FOLDER of that folder; none: its registry chooses what it
            depends on.
        newest: With a lock of PyPI: the date of the newest package that may be needed to build others.

    Raises:
        BuildPlanError: The server is not described as it has to be.
    """
    name = ""
    try:
        if server.npm is not None:
            name = npm_name(server.npm)
            stages, what = _npm(server, name, locked=bool(locked)), f"{server.npm} of npm"
        elif server.pypi is not None:
            name = pypi_name(server.pypi)
            stages = _pypi(server, name, locked=bool(locked), newest=newest)
            what = f"{server.pypi} of PyPI"
        else:
            stages, what = _image(server), f"{' '.join(server.command)} in {server.image}"
    except ValueError as mistake:
        raise BuildPlanError.of("npm" if server.npm is not None else "pypi", str(mistake)) from None
    arguments = stdio_variable("ARGS", server.args) if server.args else ""
    arguments += "".join(f"ENV {key}={_quoted(value)}\n" for key, value in server.environment.items())
    decided = [f"{what}, behind the stdio bridge"]
    if server.image is None:
        free = "its registry chooses what it depends on (`mcpfleet packages lock` locks that)"
        decided.append("what it depends on is locked" if locked else free)
    return BuildPlan(
        dockerfile=f"{TOOLS_STAGE}{bridge_stage()}\n{stages}{arguments}",
        decided=decided,
        shares=shared_by_package(name),
    )


def _quoted(value: str) -> str:
    """A value as ENV has it: one line, nothing in it expanded."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def _end(server: Stdio, copies: str, environment: str) -> str:
    """The image with the bridge, to which the server is added."""
    start = server.command or (PROGRAM,)
    besides = server.besides
    return last_stage(copies, environment=environment, start=start, besides=besides, labels=_LABELS, bridged=True)


def _pypi(server: Stdio, name: str, *, locked: bool, newest: str) -> str:
    link = "" if server.command else f" && python3 /src/installed.py pypi {name} {PROGRAM}"
    if locked:
        copied = f" {LOCK_FOLDER}/requirements.txt"
        dated = f" --exclude-newer {shlex.quote(newest)}" if newest else ""
        install = f"uv pip sync --quiet --require-hashes --python /opt/server/bin/python requirements.txt{dated}"
    else:
        copied = ""
        held = "".join(f" {shlex.quote(one)}" for one in server.bounds)
        held += f" --exclude-newer {shlex.quote(server.before)}" if server.before else ""
        install = f'uv pip install --quiet --python /opt/server/bin/python "{server.pypi}"{held}'
    return f"""\
FROM tools AS server
WORKDIR /src
COPY mcpfleet_bridge/installed.py{copied} ./
{packages(server.apt_build)}RUN uv venv --quiet /opt/server \\
    && {install}{link}
{_end(server, _COPY, "PATH=/opt/server/bin:$PATH")}"""


NPM: Final = "node /opt/node/lib/node_modules/npm/bin/npm-cli.js"
"""npm, in a stage that begins with `node_stage`."""


def node_stage() -> str:
    """Lines of a stage that install Node.js."""
    return f"""\
# Node.js from PyPI: a registry that is reachable wherever this image can be built.
RUN {install_node(next(iter(NODE_VERSIONS.values())), "uv")} && chmod +x /opt/node/bin/node
ENV PATH=/opt/node/bin:$PATH NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=1
"""


def _npm(server: Stdio, name: str, *, locked: bool) -> str:
    link = "" if server.command else f" && python3 /src/installed.py npm {name} {PROGRAM}"
    copies = f"COPY --from=server /opt/node/bin/node /usr/bin/node\n{_COPY}"
    environment = "PATH=/opt/server/node_modules/.bin:$PATH NODE_ENV=production"
    options = "--prefix /opt/server --omit=dev \\\n"
    options += "    --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error"
    if locked:
        files = f"COPY {LOCK_FOLDER}/package.json {LOCK_FOLDER}/package-lock.json /opt/server/\n"
        install = f"{NPM} ci {options}"
    else:
        # npm reads overrides of the folder that it installs into.
        held = shlex.quote(json.dumps({"overrides": dict(server.overrides)}))
        manifest = f" && printf '%s' {held} > /opt/server/package.json" if server.overrides else ""
        before = f" --before={shlex.quote(server.before)}" if server.before else ""
        files = ""
        install = f'mkdir -p /opt/server{manifest} \\\n    && {NPM} install {options}{before} -- "{server.npm}"'
    return f"""\
FROM tools AS server
WORKDIR /src
COPY mcpfleet_bridge/installed.py ./
{node_stage()}# No installation script of its packages runs but for those that the user names: each could do anything.
{packages(server.apt_build)}{files}RUN {install}{link}
{_run_scripts(server.install_scripts)}{_end(server, copies, environment)}"""


_SETUPTOOLS: Final = "062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922"
"""sha256 of that version's wheel, which brings distutils to a Python that has none any more."""


def _run_scripts(names: Sequence[str]) -> str:
    """The lines that run the installation scripts of these packages of npm."""
    if not names:
        return ""
    words = " ".join(map(shlex.quote, names))
    # npm says nothing of a name that it does not find.
    missing = "install_scripts: $name is not among the packages that were installed"
    tools = f"uv venv --quiet /opt/gyp && {hashed('setuptools==80.9.0', [_SETUPTOOLS])} > /tmp/gyp.txt"
    tools += " && uv pip install --quiet --no-deps --require-hashes --python /opt/gyp/bin/python -r /tmp/gyp.txt"
    return f"""\
# What they compile, they compile against the headers of this Node.js; older releases of node-gyp want distutils.
RUN {tools} \\
    && export npm_config_nodedir=/opt/node npm_config_python=/opt/gyp/bin/python && cd /opt/server \\
    && for name in {words}; do {NPM} ls --all "$name" > /dev/null || {{ echo "{missing}" >&2; exit 1; }}; done \\
    && {NPM} rebuild --foreground-scripts --loglevel=error {words}
"""


def _image(server: Stdio) -> str:
    if not server.command:
        raise BuildPlanError.of("command", "missing; say how the server in the image is started: [my-server, --stdio]")
    # The bridge's own environment is made anew there: another system has another Python.
    return f"""\
FROM {server.image}
USER 0:0
COPY requirements.txt /tmp/bridge/
RUN python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the image has Python older than 3.11: add one")' \\
    && {INSTALL_UV} \\
    && export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 \\
    && /opt/uv/bin/uv venv --quiet /opt/bridge \\
    && /opt/uv/bin/uv pip sync --quiet --require-hashes --python /opt/bridge/bin/python /tmp/bridge/requirements.txt \\
    && {BRIDGE_PTH} \\
    && rm -rf /opt/uv /tmp/bridge
COPY --from=bridge /opt/bridge-code /opt/bridge-code
{server.besides.lines}{stdio_variable("COMMAND", server.command)}ENTRYPOINT []
{running("", START_BRIDGE, server.besides)}"""

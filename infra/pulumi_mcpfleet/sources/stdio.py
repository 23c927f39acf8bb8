"""Plans the image of a stdio server with the bridge: a stage for each, and an image with both.

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
    Additions,
    BuildPlan,
    BuildPlanError,
    FromImage,
    apt_line,
    bridge_stage,
    last_stage,
    print_requirement,
    run_lines,
    stdio_variable,
)
from pulumi_mcpfleet.sources.node_version import NODE_VERSIONS, install_node
from pulumi_mcpfleet.sources.shared_state import find_package_state

PROGRAM: Final = "/opt/server/mcp-server"
"""The path of the server's program in the image, whatever its name in the package."""

LOCK_FOLDER: Final = "lock"
"""The folder of a package's lock files in the build context."""

# npm's rule for names, but without a - at the beginning, which would be an option; and exact versions, because a range
# would be another server tomorrow.
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
class StdioSpec:
    """The description of a stdio server's image.

    Attributes:
        npm: A package of npm, `NAME@VERSION`.
        pypi: A package of PyPI, `NAME==VERSION`.
        image: An image with the server, and with Python 3.11 or newer for the bridge.
        command: The command that starts the server; required with `image`, or if a package has several programs.
        args: Arguments of the command.
        apt: Debian packages that the server needs at run time.
        apt_build: Debian packages that the installation needs.
        bounds: Further requirements of a package of PyPI, to limit its dependencies.
        overrides: Versions of the dependencies of a package of npm, by name.
        before: The date after which no package is taken; empty for no limit.
        install_scripts: Packages of npm whose installation scripts run.
        environment: Environment variables; those of the service take precedence.
        copy_from: Files of other images that the server needs.
        writable: Folders of the image in which the server can write.
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
    def additions(self) -> Additions:
        """The parts of the image besides the server."""
        return Additions(apt=self.apt, copy_from=self.copy_from, writable=self.writable)


def npm_name(package: str) -> str:
    """Return the name in `NAME@VERSION`.

    Raises:
        ValueError: The text is not of that form.
    """
    match = _NPM.fullmatch(package)
    if match is None or len(package) > 300:
        raise ValueError(
            f"{package[:100]!r} is not a package with a version; write NAME@VERSION, such as"
            " @modelcontextprotocol/server-everything@2026.8.31 (npm view NAME version shows the newest)"
        )
    return match["name"]


def pypi_name(package: str) -> str:
    """Return the name in `NAME==VERSION`.

    Raises:
        ValueError: The text is not of that form.
    """
    match = _PYPI.fullmatch(package)
    if match is None or len(package) > 300:
        raise ValueError(
            f"{package[:100]!r} is not a package with a version; write NAME==VERSION, such as"
            f" mcp-server-time==2026.10.19"
            " (pip index versions NAME shows the newest)"
        )
    return match["name"]


def plan_stdio(server: StdioSpec, lock_files: Mapping[str, bytes] | None = None, newest_date: str = "") -> BuildPlan:
    """Plan the build of a stdio server behind the bridge, in a build context with the bridge's files.

    Args:
        server: The server.
        lock_files: The files of its lock, which the context has in `LOCK_FOLDER`; empty if there is no lock, so that
            the registry chooses its dependencies.
        newest_date: With a lock of PyPI: the date after which no package is taken to build others.

    Raises:
        BuildPlanError: The description of the server is not valid.
    """
    name = ""
    try:
        if server.npm is not None:
            name = npm_name(server.npm)
            stages, description = _npm_stages(server, name, locked=bool(lock_files)), f"{server.npm} of npm"
        elif server.pypi is not None:
            name = pypi_name(server.pypi)
            stages = _pypi_stages(server, name, locked=bool(lock_files), newest_date=newest_date)
            description = f"{server.pypi} of PyPI"
        else:
            stages, description = _image_stages(server), f"{' '.join(server.command)} in {server.image}"
    except ValueError as mistake:
        raise BuildPlanError.of("npm" if server.npm is not None else "pypi", str(mistake)) from None
    arguments = stdio_variable("ARGS", server.args) if server.args else ""
    arguments += "".join(f"ENV {key}={_quote_value(value)}\n" for key, value in server.environment.items())
    decisions = [f"{description}, behind the stdio bridge"]
    if server.image is None:
        unlocked_note = "its registry chooses what it depends on (`mcpfleet packages lock` locks that)"
        decisions.append("what it depends on is locked" if lock_files else unlocked_note)
    return BuildPlan(
        dockerfile=f"{TOOLS_STAGE}{bridge_stage()}\n{stages}{arguments}",
        decisions=decisions,
        shared_state=find_package_state(name),
    )


def _quote_value(value: str) -> str:
    """Format a value for ENV so that nothing in it is expanded."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def _add_server(server: StdioSpec, copies: str, environment: str) -> str:
    """Return the last stage: the image with the bridge and the server."""
    start = server.command or (PROGRAM,)
    additions = server.additions
    return last_stage(copies, environment=environment, start=start, additions=additions, labels=_LABELS, bridged=True)


def _pypi_stages(server: StdioSpec, name: str, *, locked: bool, newest_date: str) -> str:
    link = "" if server.command else f" && python3 /src/installed.py pypi {name} {PROGRAM}"
    if locked:
        copied = f" {LOCK_FOLDER}/requirements.txt"
        date_option = f" --exclude-newer {shlex.quote(newest_date)}" if newest_date else ""
        install = f"uv pip sync --quiet --require-hashes --python /opt/server/bin/python requirements.txt{date_option}"
    else:
        copied = ""
        constraints = "".join(f" {shlex.quote(bound)}" for bound in server.bounds)
        constraints += f" --exclude-newer {shlex.quote(server.before)}" if server.before else ""
        install = f'uv pip install --quiet --python /opt/server/bin/python "{server.pypi}"{constraints}'
    return f"""\
FROM tools AS server
WORKDIR /src
COPY mcpfleet_bridge/installed.py{copied} ./
{apt_line(server.apt_build)}RUN uv venv --quiet /opt/server \\
    && {install}{link}
{_add_server(server, _COPY, "PATH=/opt/server/bin:$PATH")}"""


NPM: Final = "node /opt/node/lib/node_modules/npm/bin/npm-cli.js"
"""The command that runs npm, in a stage that begins with `node_stage`."""


def node_stage() -> str:
    """Return the lines of a stage that install Node.js."""
    return f"""\
# Node.js from PyPI: a registry that is reachable wherever this image can be built.
RUN {install_node(next(iter(NODE_VERSIONS.values())), "uv")} && chmod +x /opt/node/bin/node
ENV PATH=/opt/node/bin:$PATH NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=1
"""


def _npm_stages(server: StdioSpec, name: str, *, locked: bool) -> str:
    link = "" if server.command else f" && python3 /src/installed.py npm {name} {PROGRAM}"
    copies = f"COPY --from=server /opt/node/bin/node /usr/bin/node\n{_COPY}"
    environment = "PATH=/opt/server/node_modules/.bin:$PATH NODE_ENV=production"
    options = "--prefix /opt/server --omit=dev \\\n"
    options += "    --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error"
    if locked:
        files = f"COPY {LOCK_FOLDER}/package.json {LOCK_FOLDER}/package-lock.json /opt/server/\n"
        install = f"{NPM} ci {options}"
    else:
        # npm reads the overrides in the folder into which it installs.
        overrides = shlex.quote(json.dumps({"overrides": dict(server.overrides)}))
        manifest = f" && printf '%s' {overrides} > /opt/server/package.json" if server.overrides else ""
        date_option = f" --before={shlex.quote(server.before)}" if server.before else ""
        files = ""
        install = f'mkdir -p /opt/server{manifest} \\\n    && {NPM} install {options}{date_option} -- "{server.npm}"'
    return f"""\
FROM tools AS server
WORKDIR /src
COPY mcpfleet_bridge/installed.py ./
{node_stage()}# No installation script of its packages runs but for those that the user names: each could do anything.
{apt_line(server.apt_build)}{files}RUN {install}{link}
{_run_scripts(server.install_scripts)}{_add_server(server, copies, environment)}"""


_SETUPTOOLS: Final = "062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922"
"""The SHA-256 hash of the setuptools wheel, which has the module distutils that newer Pythons lack."""


def _run_scripts(names: Sequence[str]) -> str:
    """Return the lines that run the installation scripts of these packages of npm."""
    if not names:
        return ""
    words = " ".join(map(shlex.quote, names))
    # npm doesn't report a name that it doesn't find.
    missing = "install_scripts: $name is not among the packages that were installed"
    tools = f"uv venv --quiet /opt/gyp && {print_requirement('setuptools==80.9.0', [_SETUPTOOLS])} > /tmp/gyp.txt"
    tools += " && uv pip install --quiet --no-deps --require-hashes --python /opt/gyp/bin/python -r /tmp/gyp.txt"
    return f"""\
# What they compile, they compile against the headers of this Node.js; older releases of node-gyp want distutils.
RUN {tools} \\
    && export npm_config_nodedir=/opt/node npm_config_python=/opt/gyp/bin/python && cd /opt/server \\
    && for name in {words}; do {NPM} ls --all "$name" > /dev/null || {{ echo "{missing}" >&2; exit 1; }}; done \\
    && {NPM} rebuild --foreground-scripts --loglevel=error {words}
"""


def _image_stages(server: StdioSpec) -> str:
    if not server.command:
        raise BuildPlanError.of(
            "command", "missing; add the command that starts the server in the image: [my-server, --stdio]"
        )
    # The bridge's environment is created again in this image, because another system has another Python.
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
{server.additions.install_lines}{stdio_variable("COMMAND", server.command)}ENTRYPOINT []
{run_lines("", START_BRIDGE, server.additions)}"""

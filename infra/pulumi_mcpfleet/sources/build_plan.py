"""The options and the plan of a build, and the parts that generated Dockerfiles share."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

Language = Literal["python", "node"]

# The same image as the reference server's; mcpfleet_local_cloud.commands.setup.base_image keeps the two in step.
BASE_IMAGE: Final = "python:3.13-slim@sha256:8d9d0b8bcf6506481eae4907c18f5e3e7902e629f5f6d684f9e7c32e85e3ddf0"
BASE_PYTHON: Final = "3.13"
UV_VERSION: Final = "0.13.9"
_UV_HASHES: Final = (
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
)
"""SHA-256 hashes of that version's wheels for Linux: on x86-64, which Cloud Run runs, for glibc and musl; on arm64,
which other machines build for themselves, for glibc 2.28 and for older glibc and musl."""

USER: Final = "65532:65532"
"""A number, so that a runtime can prove it isn't root without reading /etc/passwd."""


def inert(text: str) -> str:
    """Escape *text* for display, so that neither a terminal nor Pulumi interprets it.

    Messages quote names and values from repositories, which can have escape sequences, line ends and Pulumi's markup.
    """
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape", "replace").decode()
        for character in text
    )
    return printable.replace("<{%", "< {%")


class SourceMistake(NamedTuple):
    """A reason why a source can't be built: the key of the source that it concerns, and a message."""

    key: str
    message: str


class FromImage(NamedTuple):
    """A file or folder of another image."""

    image: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Additions:
    """The parts of an image besides the server.

    Attributes:
        apt: Debian packages.
        copy_from: Files and folders of other images, by their path in this image.
        writable: Folders in which the server can write. Each is mounted in memory, and filled when the server starts.
    """

    apt: Sequence[str] = ()
    copy_from: Mapping[str, FromImage] = field(default_factory=dict[str, FromImage])
    writable: Sequence[str] = ()

    @property
    def install_lines(self) -> str:
        """The lines that add the packages and files, before the server."""
        copies = (f"COPY --from={file.image} {file.path} {path}\n" for path, file in self.copy_from.items())
        return apt_line(self.apt) + "".join(copies)

    @property
    def save_line(self) -> str:
        """The line that saves the content of the writable folders, after the server: the mounts hide it."""
        if not self.writable:
            return ""
        # In some runtimes a mount has the mode of the folder that it hides.
        command = f'mkdir -p "$each" "{_INITIAL}$each" && cp -a "$each/." "{_INITIAL}$each/"'
        command += ' && chmod 1777 "$each" || exit 1'
        return f"RUN for each in {' '.join(self.writable)}; do {command}; done && chmod -R a+rX {_INITIAL}\n"

    def wrap_command(self, command: Sequence[str]) -> Sequence[str]:
        """Return *command*, preceded by one that fills the writable folders."""
        return ("sh", "-c", f'cp -r {_INITIAL}/. / && exec "$@"', "sh", *command) if self.writable else command


_INITIAL: Final = "/opt/initial"


class BuildPlanError(Exception):
    """A source can't be built as it is; the text has one line for each mistake."""

    def __init__(self, mistakes: Iterable[SourceMistake]) -> None:
        self.mistakes = tuple(SourceMistake(key, inert(message)) for key, message in mistakes)
        super().__init__("\n".join(f"{key}: {message}" if key else message for key, message in self.mistakes))

    @classmethod
    def of(cls, key: str, message: str) -> "BuildPlanError":
        """Return an error with one mistake."""
        return cls([SourceMistake(key, message)])


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The options of a build. Options that the user doesn't set are detected.

    Attributes:
        language: python or node.
        installer: The tool that installs the dependencies.
        start: The command that starts the server.
        dockerfile: The source's own Dockerfile; empty to generate one.
        apt: Debian packages that the server needs while it runs.
        apt_build: Debian packages that the build needs.
        args: Arguments of the command that starts the server.
        speaks: http, or stdio for a server behind the bridge; None for http, unless its files show stdio.
        build_args: Values of the Dockerfile's ARGs.
        build_secrets: Variables that have secrets during the build, and are in no layer.
        package: The name or folder of the workspace member that is the server.
        extras: Extras of a Python package; None for none, or for the one that has the MCP library.
        groups: Groups of a Python project's dependencies.
        bounds: Further requirements of a project without a lock file.
        before: The date after which no package is taken, for a project without a lock file.
        target: The stage of the source's own Dockerfile that becomes the image.
        version: The version of the source, for tools that read it from git's tags; empty if unknown.
        copy_from: Files of other images that the server needs.
        writable: Folders of the image in which the server can write.
    """

    language: Language | None = None
    installer: str | None = None
    start: Sequence[str] = ()
    dockerfile: str | None = None
    apt: Sequence[str] = ()
    apt_build: Sequence[str] = ()
    args: Sequence[str] = ()
    speaks: Literal["http", "stdio"] | None = None
    build_args: Mapping[str, str] = field(default_factory=dict[str, str])
    build_secrets: Sequence[str] = ()
    package: str | None = None
    extras: Sequence[str] | None = None
    groups: Sequence[str] = ()
    bounds: Sequence[str] = ()
    before: str = ""
    target: str = ""
    version: str = ""
    copy_from: Mapping[str, FromImage] = field(default_factory=dict[str, FromImage])
    writable: Sequence[str] = ()

    @property
    def additions(self) -> Additions:
        """The parts of the image besides the server."""
        return Additions(apt=self.apt, copy_from=self.copy_from, writable=self.writable)


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """How a source is built.

    Attributes:
        dockerfile: The text of the generated Dockerfile; None if the source has its own.
        dockerfile_path: The path of the source's own Dockerfile; empty if it is generated.
        args: Arguments that replace the CMD of the source's own Dockerfile.
        decisions: What was detected: a sentence each, with the key that overrides it.
        variables: Environment variables that the source is known to read (`environment_use.py`).
        shared_state: State that the server's callers share (`shared_state.py`); empty if none is known.
    """

    dockerfile: str | None
    dockerfile_path: str = ""
    args: Sequence[str] = ()
    decisions: Sequence[str] = field(default_factory=tuple[str, ...])
    variables: frozenset[str] = frozenset()
    shared_state: str = ""


def cmd_list(arguments: Sequence[str]) -> str:
    """Format a command for a Dockerfile's CMD."""
    return json.dumps(list(arguments))  # in ASCII, so that no character ends a line


def quote_list(arguments: Sequence[str]) -> str:
    """Format a JSON list for a Dockerfile's ENV, which interprets quotes, backslashes and variables."""
    text = json.dumps(list(arguments))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def print_requirement(package: str, hashes: Sequence[str]) -> str:
    """Return the shell command that prints a line of a requirements file: a package with its allowed hashes."""
    return f"printf '%s' '{package} {' '.join(f'--hash=sha256:{digest}' for digest in hashes)}'"


INSTALL_UV: Final = (
    "python3 -m venv /opt/uv"
    f" && {print_requirement(f'uv=={UV_VERSION}', _UV_HASHES)} > /tmp/uv.txt"
    " && /opt/uv/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r /tmp/uv.txt && rm /tmp/uv.txt"
)
"""The shell command that installs one version of uv, and checks its hash."""


TOOLS_STAGE: Final = f"""\
ARG BASE_IMAGE={BASE_IMAGE}

FROM ${{BASE_IMAGE}} AS tools
# UV_SYSTEM_CERTS: uv brings its own list of authorities; the base image's list is the one that knows a
# company's proxy. UV_PYTHON: the base image's Python, whichever a file of the source prefers.
ENV PIP_NO_CACHE_DIR=1 \\
    PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    PIP_ROOT_USER_ACTION=ignore \\
    UV_SYSTEM_CERTS=1 \\
    UV_PYTHON=python3 \\
    UV_PYTHON_DOWNLOADS=never \\
    UV_PROJECT_ENVIRONMENT=/opt/venv \\
    UV_COMPILE_BYTECODE=1 \\
    UV_LINK_MODE=copy \\
    UV_NO_CACHE=1 \\
    PATH=/opt/uv/bin:$PATH
RUN {INSTALL_UV}
"""
"""The beginning of every generated Dockerfile: the stage `tools`, with uv."""


def generate_dockerfile(
    lines: str, copies: str, *, environment: str, start: Sequence[str], options: BuildOptions, folder: str = ""
) -> str:
    """Generate the Dockerfile of a source: the stages `tools` and `build`, and the last stage.

    Args:
        lines: The lines of the stage `build` that install the source.
        copies: The lines of the last stage that copy from the stage `build`.
        environment: Environment variables, in the format of ENV.
        start: The command that starts the server.
        options: The build options.
        folder: The folder within the source in which the server starts.
    """
    bridged = options.speaks == "stdio"
    bridge = bridge_stage(f"{BRIDGE_FOLDER}/") if bridged else ""
    last = last_stage(
        copies, environment=environment, start=start, additions=options.additions, bridged=bridged, folder=folder
    )
    arg_names = [name for name in options.build_args if name != "BASE_IMAGE" and f"\nARG {name}=" not in f"\n{lines}"]
    arg_lines = "".join(f"ARG {name}\n" for name in arg_names)
    return f"""\
{TOOLS_STAGE}
FROM tools AS build
WORKDIR /app
{apt_line(options.apt_build)}{arg_lines}{_mount_secrets(lines, options.build_secrets)}{bridge}{last}"""


def _mount_secrets(lines: str, names: Sequence[str]) -> str:
    """Give the RUN commands in *lines* secrets as environment variables, by BuildKit's mounts, which no layer has."""
    if not names:
        return lines
    mounts = "".join(f"--mount=type=secret,id={name},required=true " for name in names)
    exports = "".join(f'export {name}="$(cat /run/secrets/{name})" && ' for name in names)
    return re.sub(r"^RUN ", lambda _: f"RUN {mounts}{exports}", lines, flags=re.MULTILINE)


def add_apt(options: BuildOptions, apt: tuple[Sequence[str], Sequence[str]]) -> BuildOptions:
    """Return *options* with further Debian packages: for the build, and for running the image."""
    build, run = (
        tuple(dict.fromkeys((*configured, *added)))
        for configured, added in zip((options.apt_build, options.apt), apt, strict=True)
    )
    return replace(options, apt_build=build, apt=run)


def last_stage(
    copies: str,
    *,
    environment: str,
    start: Sequence[str],
    additions: Additions,
    labels: str = "",
    bridged: bool = False,
    folder: str = "",
) -> str:
    """Return the last stage of a generated Dockerfile, which becomes the image.

    Args:
        copies: The lines that copy the server from the stage that installed it.
        environment: Environment variables, in the format of ENV.
        start: The command that starts the server.
        additions: The parts of the image besides the server.
        labels: A LABEL line.
        bridged: Whether the server runs behind the bridge, which has a stage of its own.
        folder: The folder within /app in which the server starts.
    """
    if bridged:
        # The bridge comes first, because it is the same in all these images.
        copies = f"{COPY_BRIDGE}{copies}{stdio_variable('COMMAND', start)}"
        start = START_BRIDGE
    return f"""
FROM ${{BASE_IMAGE}}
{labels}{additions.install_lines}WORKDIR {f"/app/{folder}".rstrip("/")}
{copies}{run_lines(environment, start, additions)}"""


def apt_line(apt: Sequence[str]) -> str:
    """Return the line that installs Debian packages; empty for no packages."""
    if not apt:
        return ""
    install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(apt)}"
    return f"RUN {install} && rm -rf /var/lib/apt/lists/*\n"


def run_lines(environment: str, start: Sequence[str], additions: Additions) -> str:
    """Return the lines that configure how an image runs: unprivileged, with *environment* and the command *start*."""
    return f"""\
{additions.save_line}# On Cloud Run only memory can be written to; programs look for their caches at home.
ENV {f"HOME=/tmp {environment}".rstrip()}
USER {USER}
EXPOSE 8080
CMD {cmd_list(additions.wrap_command(start))}
"""


def stdio_variable(name: str, arguments: Sequence[str]) -> str:
    """Return the line that sets a list for the bridge: the server's COMMAND, or its ARGS."""
    return f"ENV MCP_STDIO_{name}={quote_list(arguments)}\n"


BRIDGE_FOLDER: Final = ".mcpfleet-bridge"
"""The folder of the bridge's files within a source that runs behind the bridge."""

BRIDGE_PTH: Final = """/opt/bridge/bin/python -c "import pathlib, site; \\
pathlib.Path(site.getsitepackages()[0], 'bridge.pth').write_text('/opt/bridge-code')\""""
"""The shell command that makes the bridge importable in its own Python environment, and not in the server's."""

COPY_BRIDGE: Final = """\
COPY --from=bridge /opt/bridge /opt/bridge
COPY --from=bridge /opt/bridge-code /opt/bridge-code
"""
START_BRIDGE: Final = ("/opt/bridge/bin/python", "-m", "mcpfleet_bridge")


def bridge_stage(folder: str = "") -> str:
    """Return the stage `bridge`.

    Args:
        folder: The folder of the build context with the files of `staging.stage_bridge`, with a slash at its end.
    """
    return f"""
FROM tools AS bridge
WORKDIR /src
COPY {folder}requirements.txt ./
RUN uv venv --quiet /opt/bridge \\
    && uv pip sync --quiet --require-hashes --python /opt/bridge/bin/python requirements.txt \\
    && {BRIDGE_PTH}
COPY {folder}mcpfleet_bridge /opt/bridge-code/mcpfleet_bridge/
COPY {folder}mcpfleet_server /opt/bridge-code/mcpfleet_server/
# unchecked-hash: the bytecode depends on the text of the files alone, never on their dates.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/bridge-code
"""


REMOVE_UNWANTED: Final = (
    f"RUN rm -rf .git .venv venv node_modules .env {BRIDGE_FOLDER}"
    # The keys of a local cloud: a project can be within the source.
    " && find . -depth -name .mcpfleet -exec rm -rf {} +\n"
)
"""Removes files and folders that must not be in an image, in case the .dockerignore does not exclude them."""


def strip_mark_line(file: str) -> str:
    """Return the line that removes a file's byte-order mark, which most tools can't read."""
    return f"RUN sed -i '1s/^\\xEF\\xBB\\xBF//' {file}\n"

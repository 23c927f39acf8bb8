"""What a user may decide about a build, what was decided, and what could not be."""

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
"""sha256 of that version's wheels for Linux: on x86-64, which Cloud Run runs, of glibc and of musl, and on arm64 (of
glibc 2.28; of an older one and of musl), which other machines build for themselves."""

USER: Final = "65532:65532"
"""A number, so that a runtime can prove it isn't root without reading /etc/passwd."""


def inert(text: str) -> str:
    """*text* as it may be shown: what a terminal or Pulumi would act on is written out.

    Sentences quote names and values of repositories, which may hold escape sequences, line ends and Pulumi's markup.
    """
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape", "replace").decode() for sign in text)
    return shown.replace("<{%", "< {%")


class Mistake(NamedTuple):
    """Something that keeps a source from being built: the key of the source it is about, and a sentence."""

    key: str
    sentence: str


class FromImage(NamedTuple):
    """A file or folder of another image."""

    image: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Besides:
    """What an image holds besides the server.

    Attributes:
        apt: Debian packages.
        copy_from: Files and folders of other images, by where they are in this one.
        writable: Folders in which the server may write: each is mounted in memory, and filled when it starts.
    """

    apt: Sequence[str] = ()
    copy_from: Mapping[str, FromImage] = field(default_factory=dict[str, FromImage])
    writable: Sequence[str] = ()

    @property
    def lines(self) -> str:
        """What brings them in, before the server."""
        copies = (f"COPY --from={one.image} {one.path} {place}\n" for place, one in self.copy_from.items())
        return packages(self.apt) + "".join(copies)

    @property
    def kept(self) -> str:
        """The line that keeps what is in those folders, behind the server: a mount hides it."""
        if not self.writable:
            return ""
        # Some runtimes give a mount the mode of the folder that it hides.
        each = f'mkdir -p "$each" "{_INITIAL}$each" && cp -a "$each/." "{_INITIAL}$each/"'
        each += ' && chmod 1777 "$each" || exit 1'
        return f"RUN for each in {' '.join(self.writable)}; do {each}; done && chmod -R a+rX {_INITIAL}\n"

    def start(self, words: Sequence[str]) -> Sequence[str]:
        """The command *words*, before which those folders are filled."""
        return ("sh", "-c", f'cp -r {_INITIAL}/. / && exec "$@"', "sh", *words) if self.writable else words


_INITIAL: Final = "/opt/initial"


class BuildPlanError(Exception):
    """A source can't be built as it is; the text has one line for each mistake."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(Mistake(key, inert(sentence)) for key, sentence in mistakes)
        super().__init__("\n".join(f"{key}: {sentence}" if key else sentence for key, sentence in self.mistakes))

    @classmethod
    def of(cls, key: str, sentence: str) -> "BuildPlanError":
        """With one mistake."""
        return cls([Mistake(key, sentence)])


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What the user decides; what is left out is found out.

    Attributes:
        language: python or node.
        installer: Which tool installs the dependencies.
        start: The command that starts the server.
        dockerfile: Which Dockerfile of the source's own builds it; empty: none, one is made.
        apt: Debian packages that the server needs while it runs.
        apt_build: Debian packages that it needs while it is built.
        args: Arguments behind the command that starts it.
        speaks: http, or stdio for a server that is put behind the bridge; None: http, unless its files say otherwise.
        build_args: Values for the ARGs of the Dockerfile.
        build_secrets: Variables that hold secrets while it is built, and in no layer.
        package: Which member of a workspace is the server, by its name or folder.
        extras: Extras of a Python package; None: none, or the one that brings the MCP library.
        groups: Groups of a Python project's dependencies.
        bounds: Requirements beside those of a project without a lock file.
        before: The date of the newest packages of a project without a lock file.
        target: The stage of its own Dockerfile that is the image.
        version: Which version the source is, where it is known: for what would ask git's tags.
        copy_from: Files of other images that it needs.
        writable: Folders of its image in which it may write.
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
    def besides(self) -> Besides:
        """What its image holds besides the server."""
        return Besides(apt=self.apt, copy_from=self.copy_from, writable=self.writable)


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """How a source is built.

    Attributes:
        dockerfile: The text of the Dockerfile; None where the source has one of its own.
        location: The path of that one within the source, else empty.
        args: Arguments in place of the CMD of that one.
        decided: What was found out, a sentence each, with the key that would decide otherwise.
        reads: Variables that the source is known to read (`reads.py`).
        shares: State that its callers share (`shared_state.py`); empty where none is known.
    """

    dockerfile: str | None
    location: str = ""
    args: Sequence[str] = ()
    decided: Sequence[str] = field(default_factory=tuple[str, ...])
    reads: frozenset[str] = frozenset()
    shares: str = ""


def command(words: Sequence[str]) -> str:
    """A command as a Dockerfile's CMD takes it."""
    return json.dumps(list(words))  # in ASCII: no sign in it ends a line, for whoever reads the file


def quoted(words: Sequence[str]) -> str:
    """A JSON list as the value of a Dockerfile's ENV, which undoes quotes, backslashes and variables."""
    text = json.dumps(list(words))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def hashed(package: str, hashes: Sequence[str]) -> str:
    """A shell's words that print one line of a requirements file: a package that has to have one of these hashes."""
    return f"printf '%s' '{package} {' '.join(f'--hash=sha256:{one}' for one in hashes)}'"


INSTALL_UV: Final = (
    "python3 -m venv /opt/uv"
    f" && {hashed(f'uv=={UV_VERSION}', _UV_HASHES)} > /tmp/uv.txt"
    " && /opt/uv/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r /tmp/uv.txt && rm /tmp/uv.txt"
)
"""What a RUN line installs uv with: one version, of which what is installed is checked."""


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
"""The beginning of every Dockerfile that is made: the stage `tools`, with uv."""


def built(
    lines: str, copies: str, *, environment: str, start: Sequence[str], wish: BuildOptions, place: str = ""
) -> str:
    """The Dockerfile of a source: the stages `tools`, `build`, in which *lines* install it, and the last one.

    Args:
        lines: What installs the source.
        copies: What of it the last stage has.
        environment: Its variables, as ENV has them.
        start: The command that starts it.
        wish: Debian packages, and whether it speaks stdio.
        place: The folder within the source in which it starts.
    """
    bridged = wish.speaks == "stdio"
    bridge = bridge_stage(f"{BRIDGE_FOLDER}/") if bridged else ""
    end = last_stage(copies, environment=environment, start=start, besides=wish.besides, bridged=bridged, place=place)
    told = [name for name in wish.build_args if name != "BASE_IMAGE" and f"\nARG {name}=" not in f"\n{lines}"]
    given = "".join(f"ARG {name}\n" for name in told)
    return f"""\
{TOOLS_STAGE}
FROM tools AS build
WORKDIR /app
{packages(wish.apt_build)}{given}{_with_secrets(lines, wish.build_secrets)}{bridge}{end}"""


def _with_secrets(lines: str, names: Sequence[str]) -> str:
    """*lines* whose commands find secrets in their environment: by BuildKit's mounts, which no layer holds."""
    if not names:
        return lines
    mounts = "".join(f"--mount=type=secret,id={name},required=true " for name in names)
    exports = "".join(f'export {name}="$(cat /run/secrets/{name})" && ' for name in names)
    return re.sub(r"^RUN ", lambda _: f"RUN {mounts}{exports}", lines, flags=re.MULTILINE)


def with_apt(wish: BuildOptions, apt: tuple[Sequence[str], Sequence[str]]) -> BuildOptions:
    """*wish* with further Debian packages: while it is built, and while it runs."""
    build, run = (
        tuple(dict.fromkeys((*said, *more))) for said, more in zip((wish.apt_build, wish.apt), apt, strict=True)
    )
    return replace(wish, apt_build=build, apt=run)


def last_stage(
    copies: str,
    *,
    environment: str,
    start: Sequence[str],
    besides: Besides,
    labels: str = "",
    bridged: bool = False,
    place: str = "",
) -> str:
    """The end of a Dockerfile that is made: what runs.

    Args:
        copies: Lines that bring the server in from the stage that installed it.
        environment: Its variables, as ENV has them.
        start: The command that starts it.
        besides: What else it needs.
        labels: A LABEL line.
        bridged: Whether it is put behind the bridge, of which there is a stage.
        place: The folder within /app in which it starts.
    """
    if bridged:
        # First the bridge, which is the same in each such image.
        copies = f"{COPY_BRIDGE}{copies}{stdio_variable('COMMAND', start)}"
        start = START_BRIDGE
    return f"""
FROM ${{BASE_IMAGE}}
{labels}{besides.lines}WORKDIR {f"/app/{place}".rstrip("/")}
{copies}{running(environment, start, besides)}"""


def packages(apt: Sequence[str]) -> str:
    """The line that installs Debian packages; nothing for none."""
    if not apt:
        return ""
    install = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(apt)}"
    return f"RUN {install} && rm -rf /var/lib/apt/lists/*\n"


def running(environment: str, start: Sequence[str], besides: Besides) -> str:
    """The lines that say how an image runs: as nobody, with *environment* besides, by the command *start*."""
    return f"""\
{besides.kept}# On Cloud Run only memory can be written to; programs look for their caches at home.
ENV {f"HOME=/tmp {environment}".rstrip()}
USER {USER}
EXPOSE 8080
CMD {command(besides.start(start))}
"""


def stdio_variable(name: str, words: Sequence[str]) -> str:
    """The line that tells the bridge a list of words: the server's COMMAND, or its ARGS."""
    return f"ENV MCP_STDIO_{name}={quoted(words)}\n"


BRIDGE_FOLDER: Final = ".mcpfleet-bridge"
"""Where the bridge is within a source that is put behind it."""

BRIDGE_PTH: Final = """/opt/bridge/bin/python -c "import pathlib, site; \\
pathlib.Path(site.getsitepackages()[0], 'bridge.pth').write_text('/opt/bridge-code')\""""
"""Makes the bridge importable in its own environment from any folder, and in the server's in none."""

COPY_BRIDGE: Final = """\
COPY --from=bridge /opt/bridge /opt/bridge
COPY --from=bridge /opt/bridge-code /opt/bridge-code
"""
START_BRIDGE: Final = ("/opt/bridge/bin/python", "-m", "mcpfleet_bridge")


def bridge_stage(folder: str = "") -> str:
    """The stage `bridge`.

    Args:
        folder: Where in the context the files of `staging.stage_bridge` are, with a slash at its end.
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


LEFT_OUT: Final = (
    f"RUN rm -rf .git .venv venv node_modules .env {BRIDGE_FOLDER}"
    # The keys of a local cloud: a project may be within the source.
    " && find . -depth -name .mcpfleet -exec rm -rf {} +\n"
)
"""What a folder often holds that must not get into an image, should its .dockerignore not say so."""


def unmarked(file: str) -> str:
    """The line that takes a file's byte-order mark away, which most tools that read it do not know."""
    return f"RUN sed -i '1s/^\\xEF\\xBB\\xBF//' {file}\n"

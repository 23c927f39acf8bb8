"""Finds the Pulumi CLI: the machine's own, else the cached one, else the official archive, else a build from source."""

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.go_toolchain import find_go
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock, replace, scratch_folder
from mcpfleet_local_cloud.commands.setup.versions import Version, parse_version

# The oldest CLI that is supported with the Automation API of the pulumi package in uv.lock.
OLDEST_CLI = Version(3, 200)
# The version that setup installs; pulumi_module/go.mod requires the same module version (a test compares them).
PINNED_CLI = Version(3, 256, 0)

_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
_VERSION_VARIABLE = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"
_ARCHIVE = "https://get.pulumi.com/releases/sdk/pulumi-v{version}-{system}-{machine}.tar.gz"
_SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}
_MACHINES = {"x86_64": "x64", "amd64": "x64", "arm64": "arm64", "aarch64": "arm64"}
# An unreachable archive must fail soon: the build that follows takes minutes.
_ARCHIVE_SECONDS = 10.0


@dataclass(frozen=True)
class PulumiCli:
    """A Pulumi CLI that answered `pulumi version`.

    Attributes:
        path: The program.
        version: Its version.
        source: Its origin, for messages.
    """

    path: Path
    version: Version
    source: str


def find_pulumi(host: Host, paths: Paths, step: Step) -> PulumiCli:
    """Return a supported Pulumi CLI, from the cheapest source; only one clone at a time installs one.

    Raises:
        SetupError: There is none, and none can be installed or built.
    """
    system_cli = host.which("pulumi")
    version = read_cli_version(host, system_cli)
    if system_cli is not None and version is not None and is_supported(version):
        return PulumiCli(system_cli, version, "on PATH")
    folder = paths.cache / "pulumi" / f"v{PINNED_CLI}"
    cached = folder / "pulumi"

    def find_cached(source: str) -> PulumiCli | None:
        cached_version = read_cli_version(host, cached)
        return PulumiCli(cached, PINNED_CLI, source) if cached_version == PINNED_CLI else None

    if cached_cli := find_cached("in cache"):
        return cached_cli
    with cache_lock(paths.cache, "pulumi", lambda: step.progress("waiting for another setup that installs it")):
        if cached_cli := find_cached("in cache"):
            return cached_cli
        if _from_archive(host, folder, step) and (cached_cli := find_cached("official archive")):
            return cached_cli
        _build(host, paths, folder, step)
        if cached_cli := find_cached("built from its Go module"):
            return cached_cli
    raise SetupError(
        f"the Pulumi CLI that was installed at {cached} does not run.",
        f"remove that folder and run {PROGRAM} again, or install the Pulumi CLI (https://www.pulumi.com/docs/install).",
    )


def is_supported(version: Version) -> bool:
    """Return whether this version is supported: `OLDEST_CLI` or newer, of the same major version."""
    return version >= OLDEST_CLI and version.major == OLDEST_CLI.major


def read_cli_version(host: Host, program: Path | None) -> Version | None:
    """Return the version that `pulumi version` prints; None if it does not run."""
    if program is None:
        return None
    done = host.run([program, "version"], env={"PULUMI_SKIP_UPDATE_CHECK": "true"}, timeout=30)
    return parse_version(done.output) if done.code == 0 else None


def archive_url(system: str, machine: str) -> str | None:
    """Return the URL of the official archive for a platform; None if there is no archive."""
    if system not in _SYSTEMS or machine not in _MACHINES:
        return None
    return _ARCHIVE.format(version=PINNED_CLI, system=_SYSTEMS[system], machine=_MACHINES[machine])


def _from_archive(host: Host, folder: Path, step: Step) -> bool:
    url = archive_url(*host.platform())
    if url is None:
        return False
    step.progress("downloading the official archive")
    with scratch_folder(folder.parent, folder.name) as scratch:
        archive = scratch / "archive.tar.gz"
        try:
            host.download(url, archive, timeout=_ARCHIVE_SECONDS)
            with tarfile.open(archive) as tar:
                _extract(tar, scratch)
        except (OSError, tarfile.TarError):
            return False  # unreachable from here; the Go module is the alternative
        unpacked = scratch / "pulumi"  # the CLI and its language hosts
        if read_cli_version(host, unpacked / "pulumi") != PINNED_CLI:
            return False
        replace(unpacked, folder)
    return True


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    # Python 3.11.2, which Debian 12 has, lacks filters; the archive came over TLS from its vendor.
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
    else:
        tar.extractall(folder)  # noqa: S202


def _build(host: Host, paths: Paths, folder: Path, step: Step) -> None:
    go = find_go(host, paths, step)
    tools = Path(__file__).with_name("pulumi_module")
    # The build must not use a C compiler, and must follow this go.mod, not the user's flags.
    env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    count_fetched = _Counter(lambda count: step.progress(f"fetching Go modules: {count}"), "go: downloading")
    listing = host.run([go, "list", "-deps", _PACKAGE], cwd=tools, env=env, on_line=count_fetched)
    if listing.code != 0:
        raise SetupError(
            f"the Pulumi CLI's Go modules could not be fetched:\n{listing.tail()}",
            "check the network and proxy settings (HTTPS_PROXY, GOPROXY), or install the Pulumi CLI "
            "(https://www.pulumi.com/docs/install).",
        )
    packages = sum(not line.startswith("go: ") for line in listing.output.splitlines())
    count_compiled = _Counter(lambda count: step.progress(f"compiling, once: package {count} of {packages}"))
    with scratch_folder(folder.parent, folder.name) as scratch:
        program = scratch / "pulumi"
        flags = f"-s -w -X {_VERSION_VARIABLE}=v{PINNED_CLI}"
        argv = [go, "build", "-v", "-trimpath", "-ldflags", flags, "-o", program, _PACKAGE]
        build = host.run(argv, cwd=tools, env=env, on_line=count_compiled)
        if build.code != 0 or not program.exists():
            raise SetupError(
                f"the Pulumi CLI could not be built from its Go module:\n{build.tail()}",
                "it needs about 2.5 GB of memory and 3 GB of disk; or install the Pulumi CLI "
                "(https://www.pulumi.com/docs/install).",
            )
        shutil.rmtree(folder, ignore_errors=True)
        replace(program, folder / "pulumi")


class _Counter:
    """Counts the lines that a program prints, while it runs."""

    def __init__(self, show: Callable[[int], None], prefix: str = "") -> None:
        self._show = show
        self._prefix = prefix
        self._count = 0

    def __call__(self, line: str) -> None:
        if line.startswith(self._prefix):
            self._count += 1
            self._show(self._count)

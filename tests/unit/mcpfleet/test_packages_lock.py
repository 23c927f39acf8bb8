"""`mcpfleet packages lock`, with a fake Docker."""

import datetime
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mcpfleet import packages
from mcpfleet.errors import McpfleetError

TODAY = datetime.date(2026, 11, 30)


@dataclass
class Package:
    """A package of a fleet that takes over whatever was made."""

    name: str = "a==1"
    build_args: dict[str, str] = field(default_factory=dict)
    lock_folder: Path = Path("packages.lock/pypi/a-1-0")
    is_locked: bool = False
    kept: dict[str, str] = field(default_factory=dict)
    refuses: str = ""

    def dockerfile(self, today, days):
        return f"FROM scratch\n# {today} {days}\n"

    def save_lock(self, built):
        if self.refuses:
            raise ValueError(self.refuses)
        self.kept = {file.name: file.read_text() for file in built.iterdir()}


@dataclass
class Docker:
    """Makes a lock of any Dockerfile; fails at the command *fails*."""

    fails: str = ""
    error: Exception | None = None
    calls: list[list[str]] = field(default_factory=list)
    built: str = ""

    def __call__(self, text, seconds):
        assert text[0] == "docker"
        assert seconds > 0
        self.calls.append(text)
        if self.error is not None:
            raise self.error
        command, message = text[1], ""
        if command == self.fails:
            return subprocess.CompletedProcess(text, 1, "", "#1 a step\nNo solution found\n")
        if command == "build":
            self.built = (Path(text[-1]) / "Dockerfile").read_text()
            message = "a warning\nsha256:abc\n"
        elif command == "create":
            message = "c0ffee\n"
        elif command == "cp":
            Path(text[-1]).mkdir()
            (Path(text[-1]) / "requirements.txt").write_text("a==1")
        return subprocess.CompletedProcess(text, 0, message, "")


def test_docker_creates_each_lock_and_no_container_remains():
    package, docker = Package(build_args={"BASE_IMAGE": "b"}), Docker()
    assert [*packages.lock_packages([package], TODAY, 7, docker)] == [package]
    assert package.kept == {"requirements.txt": "a==1"}
    assert docker.built == "FROM scratch\n# 2026-11-30 7\n"
    assert [text[1] for text in docker.calls] == ["build", "create", "cp", "rm"]
    assert docker.calls[0][2:5] == ["--quiet", "--build-arg", "BASE_IMAGE=b"]
    assert docker.calls[1][2] == "sha256:abc"
    assert docker.calls[2][2] == "c0ffee:/lock"
    assert docker.calls[3][2] == "c0ffee"


def test_a_failure_shows_dockers_output_and_the_option_to_try():
    with pytest.raises(
        McpfleetError, match=r"^a==1 can't be locked:\n  #1 a step\n  No solution found\n.*--min-age\.$"
    ):
        [*packages.lock_packages([Package()], TODAY, 7, Docker(fails="build"))]


def test_a_container_whose_files_cannot_be_read_is_removed():
    docker = Docker(fails="cp")
    with pytest.raises(McpfleetError):
        [*packages.lock_packages([Package()], TODAY, 7, docker)]
    assert docker.calls[-1][1:] == ["rm", "c0ffee"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("docker"), "Install Docker"),
        (subprocess.TimeoutExpired("docker", 1), "timed out"),
        (PermissionError("no"), "can't be locked: no"),
    ],
)
def test_a_stopped_docker_is_one_message(error, message):
    with pytest.raises(McpfleetError, match=message):
        [*packages.lock_packages([Package()], TODAY, 7, Docker(error=error))]


def test_a_refused_lock_is_one_message():
    with pytest.raises(McpfleetError, match=r"^a==1 can't be locked: c has no hash$"):
        [*packages.lock_packages([Package(refuses="c has no hash")], TODAY, 7, Docker())]


def test_a_failing_package_does_not_stop_the_others_and_all_failures_are_listed():
    ones = [Package("a==1", refuses="a has no hash"), Package("b==1"), Package("c==1", refuses="d is missing")]
    with pytest.raises(McpfleetError) as failed:
        [*packages.lock_packages([*ones, Package("e==1")], TODAY, 7, Docker())]
    assert [bool(item.kept) for item in ones] == [False, True, False]
    assert str(failed.value).splitlines() == [
        "a==1 can't be locked: a has no hash",
        "c==1 can't be locked: d is missing",
        "2 of 4 packages can't be locked: a==1, c==1. The others are locked.",
    ]


def test_without_docker_no_other_package_is_tried():
    docker = Docker(error=FileNotFoundError("docker"))
    with pytest.raises(McpfleetError, match=r"Install Docker"):
        [*packages.lock_packages([Package(), Package("b==1")], TODAY, 7, docker)]
    assert len(docker.calls) == 1


class Point:
    """An entry point that loads a module which answers as the fleet's distribution does."""

    def __init__(self, answer):
        self.answer = answer

    def load(self):
        return self

    def look_up(self, folder, stack, *, renew):
        return ["io.github.acme/weather@1.2.0"] if renew else []

    def find_packages(self, folder, stack):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_packages_come_from_the_fleets_distribution():
    package = Package()
    assert packages.find_packages(Path(), None, readers=[Point([package])]) == ([], [package])
    requests, _ = packages.find_packages(Path(), None, renew=True, readers=[Point([])])
    assert requests == ["io.github.acme/weather@1.2.0"]
    with pytest.raises(McpfleetError, match=r"^Pulumi\.prod\.yaml:"):
        packages.find_packages(Path(), None, readers=[Point(ValueError("Pulumi.prod.yaml: …"))])
    with pytest.raises(McpfleetError, match=r"pulumi-mcpfleet, which reads the fleet, is not installed in this"):
        packages.find_packages(Path(), None, readers=[])

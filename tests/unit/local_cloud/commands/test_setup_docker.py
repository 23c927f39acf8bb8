import errno
from pathlib import Path

import pytest

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup.disk import NEEDED_BYTES, check_disk_space
from mcpfleet_local_cloud.commands.setup.docker_install import START_SECONDS, find_docker, report_engine
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts, Limits, NoEngineError

APT = ("apt-get", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=2")
DEBIAN = {Path("/etc/os-release"): 'PRETTY_NAME="Debian"\nID=debian\n'}
UBUNTU = {Path("/etc/os-release"): "ID=ubuntu\nID_LIKE=debian\n"}
ROCKY = {Path("/etc/os-release"): 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'}


@pytest.fixture
def nobody_listens():
    def connect(address):
        raise FileNotFoundError(errno.ENOENT, address)

    return connect


@pytest.fixture
def after_start(host, engine):
    """Docker answers from two seconds after the daemon was started."""

    def connect(address):
        if host.started and host.now >= 2:
            return engine
        raise ConnectionRefusedError(errno.ECONNREFUSED, address)

    return connect


def failing(error):
    def connect(_address):
        raise error

    return connect


def test_a_running_docker_is_used(host, paths, step, engine):
    assert find_docker(host, paths, step, lambda _: engine) is engine
    assert host.calls == []


def test_a_dead_docker_host_is_named_and_nothing_is_installed(host, paths, step, nobody_listens):
    host.environ = {"DOCKER_HOST": "unix:///gone.sock"}
    host.files = DEBIAN
    with pytest.raises(SetupError, match=r"No Docker Engine answers at unix:///gone\.sock \(DOCKER_HOST\)") as failure:
        find_docker(host, paths, step, nobody_listens)
    assert "unset DOCKER_HOST" in failure.value.next_step
    assert host.calls == []


def test_a_permission_error_names_the_docker_group(host, paths, step):
    with pytest.raises(SetupError, match="this user has no access to it") as failure:
        find_docker(host, paths, step, failing(PermissionError(errno.EACCES, "docker.sock")))
    assert "usermod -aG docker" in failure.value.next_step


def test_the_engine_is_printed_with_its_missing_features(plain):
    facts = EngineFacts(
        version="28.0.1", is_rootless=True, architecture="arm64", limits=Limits(memory=False, processes=False)
    )
    with plain.phase("Docker") as step:
        report_engine(facts, EngineAddress(host="unix:///run/user/1000/docker.sock"), step)
    printed = plain.console.file.getvalue()
    assert "Docker Engine 28.0.1 (rootless) at unix:///run/user/1000/docker.sock, linux/arm64" in printed
    assert "it cannot limit containers' memory and processes" in printed


def test_an_engine_with_every_feature_is_printed_without_notes(plain):
    with plain.phase("Docker") as step:
        report_engine(EngineFacts(version="28.0.1"), EngineAddress(host="unix:///var/run/docker.sock"), step)
    assert len(plain.console.file.getvalue().splitlines()) == 1


def test_an_engine_with_invalid_responses_is_not_replaced_by_an_installation(host, paths, step):
    with pytest.raises(SetupError, match=r"client version 1\.12 is too old"):
        find_docker(host, paths, step, failing(NoEngineError("client version 1.12 is too old")))
    assert host.calls == []


@pytest.mark.parametrize("release", [DEBIAN, UBUNTU])
def test_root_on_debian_and_ubuntu_gets_docker_installed_and_started(host, paths, step, engine, after_start, release):
    host.files = release
    host.answers[(*APT, "update")] = CompletedProgram(0, "")

    def install(_words):
        host.programs["dockerd"] = Path("/usr/sbin/dockerd")
        return CompletedProgram(0, "")

    host.answers[(*APT, "install")] = install
    assert find_docker(host, paths, step, after_start) is engine
    assert host.calls[-1][-3:] == ["install", "-y", "docker.io"]
    assert host.started == [["/usr/sbin/dockerd"]]
    assert (paths.cache / "docker" / "dockerd.pid").read_text() == "4242\n"


def test_a_failing_third_party_package_source_does_not_stop_the_installation(host, paths, step, engine, after_start):
    host.files = DEBIAN
    host.answers[(*APT, "update")] = CompletedProgram(100, "E: foreign.example: 403 Forbidden")
    host.answers[(*APT, "install")] = CompletedProgram(0, "")
    assert find_docker(host, paths, step, after_start) is engine


def test_an_installed_docker_is_only_started(host, paths, step, engine, after_start):
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    assert find_docker(host, paths, step, after_start) is engine
    assert host.calls == []
    assert host.started == [["/usr/bin/dockerd"]]


def test_docker_is_started_by_the_running_service_manager(host, paths, step, engine):
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    host.files = {Path("/proc/1/comm"): "systemd\n"}
    host.answers["systemctl", "start", "docker"] = CompletedProgram(0, "")

    def connect(address):
        if ["systemctl", "start", "docker"] in host.calls:
            return engine
        raise FileNotFoundError(errno.ENOENT, address)

    assert find_docker(host, paths, step, connect) is engine
    assert host.started == []


def test_the_service_managers_error_is_shown(host, paths, step, nobody_listens):
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    host.files = {Path("/proc/1/comm"): "systemd\n"}
    host.answers["systemctl", "start", "docker"] = CompletedProgram(1, "Unit docker.service is masked.")
    with pytest.raises(SetupError, match=r"Unit docker\.service is masked") as failure:
        find_docker(host, paths, step, nobody_listens)
    assert failure.value.next_step == "type: journalctl -u docker -n 50"


def test_without_root_the_error_says_what_to_install(host, paths, step, nobody_listens):
    host.root, host.files = False, DEBIAN
    with pytest.raises(SetupError, match="may not install it") as failure:
        find_docker(host, paths, step, nobody_listens)
    assert "https://docs.docker.com/engine/install" in failure.value.next_step
    assert host.calls == []


def test_without_root_the_error_says_how_to_start_an_installed_docker(host, paths, step, nobody_listens):
    host.root = False
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    with pytest.raises(SetupError, match="installed, but not running") as failure:
        find_docker(host, paths, step, nobody_listens)
    assert failure.value.next_step == "type: sudo systemctl start docker"


def test_on_another_system_the_error_says_what_to_install(host, paths, step, nobody_listens):
    host.files = ROCKY
    with pytest.raises(SetupError, match=r"docker\.io is missing, and \./dev installs only on Debian and Ubuntu"):
        find_docker(host, paths, step, nobody_listens)
    assert host.calls == []


def test_on_macos_the_error_says_to_start_docker_desktop(host, paths, step, nobody_listens):
    host.system = ("Darwin", "arm64")
    with pytest.raises(SetupError) as failure:
        find_docker(host, paths, step, nobody_listens)
    assert "Docker Desktop" in failure.value.next_step


def test_a_failed_apt_shows_its_last_output(host, paths, step, nobody_listens):
    host.files = DEBIAN
    host.answers[(*APT, "update")] = CompletedProgram(0, "")
    host.answers[(*APT, "install")] = CompletedProgram(100, "E: Unable to locate package docker.io")
    with pytest.raises(SetupError, match=r"E: Unable to locate package docker\.io"):
        find_docker(host, paths, step, nobody_listens)


def test_a_daemon_that_exits_at_once_is_reported_with_its_output(host, paths, step, nobody_listens, process):
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    host.process = process(code=1)
    log = paths.cache / "docker" / "dockerd.log"
    host.files[log] = "Starting up\nfailed to start daemon: Devices cgroup isn't mounted\n"
    with pytest.raises(SetupError, match=r"ended with code 1:\n.*\nfailed to start daemon: Devices cgroup") as failure:
        find_docker(host, paths, step, nobody_listens)
    assert str(log) in failure.value.next_step
    assert host.now == 0


def test_waiting_for_the_daemon_is_limited(host, paths, step, nobody_listens):
    host.programs["dockerd"] = Path("/usr/bin/dockerd")
    with pytest.raises(SetupError, match="did not answer within 90 s"):
        find_docker(host, paths, step, nobody_listens)
    assert START_SECONDS <= host.now < START_SECONDS + 1


def test_a_full_disk_is_an_error_with_path_bytes_and_next_step(host):
    path = Path("/var/lib/docker")
    host.free[path] = 2_999_999_999
    with pytest.raises(
        SetupError, match=r"/var/lib/docker is full: 2,999,999,999 bytes are free, 3,000,000,000"
    ) as full:
        check_disk_space(host, path, "type: docker system prune --all")
    assert full.value.next_step == "type: docker system prune --all"


@pytest.mark.parametrize("free", [NEEDED_BYTES, None])
def test_enough_space_and_a_remote_disk_pass(host, free):
    host.free[Path("/var/lib/docker")] = free
    check_disk_space(host, Path("/var/lib/docker"), "")

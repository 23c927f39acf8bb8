import os
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from devtools import cli
from devtools.check import Check, check
from devtools.example_image import TOOLBOX_IMAGE
from mcpfleet_local_cloud.commands.cli import record_environment
from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import SetupError, SeveralErrors
from mcpfleet_local_cloud.commands.setup import prepare
from mcpfleet_local_cloud.commands.setup.base_image import BASE_IMAGE
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram
from mcpfleet_local_cloud.commands.stack_state import StackState

COMMANDS = ["up", "down", "test", "check", "env", "logs", "status", "bench", "proxy", "setup", "verify"]


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["./dev", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture
def setup_fails_with(monkeypatch):
    def arrange(error):
        def fail(_phases):
            raise error

        monkeypatch.setattr("mcpfleet_local_cloud.commands.setup.prepare", fail)

    return arrange


def test_without_a_command_every_command_is_listed(run):
    code, out, _ = run()
    assert code == 0
    assert [name for name in COMMANDS if f"│ {name} " not in out] == []


def test_an_unknown_command_is_named_and_the_known_ones_are_listed(run):
    code, out, err = run("upp")
    assert code == 2
    assert "there is no command 'upp'" in err
    assert "│ up " in out


def test_a_failure_of_the_environment_is_one_message_without_a_traceback(run, setup_fails_with):
    setup_fails_with(SetupError("Docker is missing.", "install it."))
    code, out, err = run("setup")
    assert code == 1
    assert out == ""
    assert err.splitlines()[-2:] == ["error: Docker is missing.", "next:  install it."]


def test_every_failure_is_reported(run, setup_fails_with):
    setup_fails_with(SeveralErrors([SetupError("no Docker", "a"), SetupError("no Pulumi", "b")]))
    code, _, err = run("setup")
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("error")] == ["error: no Docker", "error: no Pulumi"]


def test_ctrl_c_ends_without_a_traceback(run, setup_fails_with):
    setup_fails_with(KeyboardInterrupt())
    code, _, err = run("setup")
    assert code == 130
    assert err.splitlines()[-1] == "Stopped. Finished work is kept for the next run."


def test_a_bug_keeps_its_traceback(monkeypatch, setup_fails_with):
    setup_fails_with(ZeroDivisionError())
    monkeypatch.setattr("sys.argv", ["./dev", "setup"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("arguments", [["-k", "a or b", "--help", "tests/unit", "-x"], []])
def test_passes_its_arguments_to_pytest_and_runs_in_parallel_without_any(monkeypatch, tmp_path, arguments):
    class Prepared:
        def environment(self):
            return {"DOCKER_HOST": "unix:///here.sock"}

    ran = []
    monkeypatch.setattr("mcpfleet_local_cloud.commands.setup.prepare", lambda _phases: Prepared())
    monkeypatch.setattr("sys.argv", ["./dev", "test", *arguments])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.execve", lambda *call: ran.append(call))
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(SystemExit):
        cli.main()
    ((program, argv, environ),) = ran
    assert argv[:3] == [program, "-m", "pytest"]
    if arguments:
        assert argv[3:] == arguments
    else:
        assert "--dist=loadfile" in argv
        assert any(re.fullmatch("--numprocesses=[2-4]", argument) for argument in argv)
    assert environ == {"DOCKER_HOST": "unix:///here.sock"}
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("arguments", "ordinary", "of_root"),
    [
        (
            [],
            "not root and not engines and not corpus and not languages",
            "root and not engines and not corpus and not languages",
        ),
        (["tests/unit", "-x"], "tests/unit -x", None),
        (["--as-root", "tests/unit"], None, "tests/unit"),
        (["--engines"], None, "-m engines"),
    ],
)
def test_as_root_tests_run_as_an_ordinary_user_except_those_marked_root(
    monkeypatch, tmp_path, run, arguments, ordinary, of_root
):
    class Prepared:
        def environment(self):
            return {"DOCKER_HOST": "unix:///here.sock", "PATH": "/bin", "SECRET": "of root"}

    class User:
        name = "mcpfleet-1"
        home = Path("/home/ada")

        def environment(self):
            return {"HOME": "/home/ada", "PATH": "/usr/bin"}

        def command(self, argv, folder):
            return ["as", "ada", *argv]

    ran = []

    def start(argv, *, env, check):
        ran.append((" ".join(argv), env))
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr("mcpfleet_local_cloud.commands.setup.prepare", lambda _phases: Prepared())
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("subprocess.run", start)
    monkeypatch.setattr("tests.integration.engines.ordinary_user", lambda _group: nullcontext(User()))
    monkeypatch.chdir(tmp_path)
    assert run("test", *arguments)[0] == 3
    by_user = [(output, env) for output, env in ran if output.startswith("as ada")]
    by_root = [output for output, _ in ran if not output.startswith("as ada")]
    assert [ordinary in output for output, _ in by_user] == ([True] if ordinary else [])
    assert [of_root in output for output in by_root] == ([True] if of_root else [])
    for _, env in by_user:
        user_command = {"HOME": "/home/ada", "PYTHONPYCACHEPREFIX": "/home/ada/bytecode"}
        assert env == {**user_command, "PATH": "/bin", "DOCKER_HOST": "unix:///here.sock"}


@pytest.mark.parametrize(
    ("started", "seconds"), [("1795390400.5", 2.5), ("1795390400,5", 2.5), ("", None), ("garbage", None)]
)
def test_the_seconds_of_the_dev_script_are_the_first_phase(plain, started, seconds):
    environ = {"MCPFLEET_ENVIRONMENT": "in step with uv.lock", "MCPFLEET_STARTED": started}
    record_environment(plain, environ, now=1795390403.0)
    (result,) = plain.results
    assert (result.title, result.seconds, result.detail) == ("Python environment", seconds, "in step with uv.lock")
    assert environ == {}, "a command that this one starts would count from its beginning"


def test_without_the_dev_script_there_is_no_first_phase_for_it(plain):
    record_environment(plain, {}, now=0)
    assert plain.results == []


@pytest.fixture
def ready(host, engine, paths):
    """A machine on which everything but the images is there."""
    pulumi = Path("/opt/pulumi/pulumi")
    host.programs["pulumi"] = pulumi
    host.answers[str(pulumi), "version"] = CompletedProgram(0, "v3.272.0")
    for folder in ("mcp_server", "examples/toolbox"):
        (paths.root / folder).mkdir(parents=True)
        (paths.root / folder / "Dockerfile").write_text(f"ARG BASE_IMAGE=python:3.13-slim@sha256:{'a' * 64}\n")
    return host


def test_setup_installs_everything_and_prints_where_it_is(ready, engine, paths, plain):
    prepared = prepare(plain, ready, paths, lambda _: engine)
    assert {BASE_IMAGE, TOOLBOX_IMAGE} <= engine.images.keys()
    assert {result.title for result in plain.results} == {"Pulumi CLI", "Docker", "Base image", "Example image"}
    environ = prepared.environment({"PATH": "/usr/bin", "LANG": "C"})
    assert environ["PATH"] == f"/opt/pulumi{os.pathsep}/usr/bin"
    assert (environ["DOCKER_HOST"], environ["LANG"]) == ("unix:///var/run/docker.sock", "C")


def test_a_second_setup_creates_nothing(ready, engine, paths, plain):
    prepare(plain, ready, paths, lambda _: engine)
    done = list(engine.did)
    prepare(plain, ready, paths, lambda _: engine)
    assert engine.did == done


def test_missing_pulumi_and_missing_docker_are_both_reported(ready, paths, plain):
    ready.programs.clear()

    def nobody(address):
        raise FileNotFoundError(2, address)

    with pytest.raises(SeveralErrors) as failure:
        prepare(plain, ready, paths, nobody)
    messages = [error.message for error in failure.value.errors]
    assert "Go 1.26.0 is missing" in messages[0]
    assert "docker.io is missing" in messages[1]


def test_an_unusable_engine_is_reported_before_a_cli_is_compiled(ready, paths, plain):
    ready.programs.clear()
    ready.root = False

    def denied(_address):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(SetupError, match="this user has no access to it") as failure:
        prepare(plain, ready, paths, denied)
    assert "usermod -aG docker" in failure.value.next_step
    assert ready.calls == ready.downloads == []


def test_a_missing_docker_is_reported_before_a_cli_is_compiled(ready, paths, plain):
    ready.programs.clear()
    ready.root = False

    def nobody(address):
        raise FileNotFoundError(2, str(address))

    with pytest.raises(SetupError, match="this user may not install it"):
        prepare(plain, ready, paths, nobody)
    assert ready.calls == ready.downloads == []


def test_a_full_cache_disk_stops_setup_before_anything_is_created(ready, engine, paths, plain):
    ready.free[paths.cache] = 100
    with pytest.raises(SetupError, match="is full: 100 bytes"):
        prepare(plain, ready, paths, lambda _: engine)
    assert engine.did == ready.calls == []


def test_a_full_docker_disk_stops_setup_before_an_image_is_built(ready, engine, paths, plain):
    ready.free[Path("/var/lib/docker")] = 100
    with pytest.raises(SetupError, match="/var/lib/docker is full"):
        prepare(plain, ready, paths, lambda _: engine)
    assert engine.did == []


def test_the_users_base_image_replaces_the_pinned_one(ready, engine, paths, plain):
    ready.environ = {"MCPFLEET_BASE_IMAGE": "corp/python:3.13"}
    prepare(plain, ready, paths, lambda _: engine)
    assert engine.did[0] == "pull corp/python:3.13"


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.cache/mcpfleet"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "/big disk"}, "/big disk/mcpfleet"),
        ({"HOME": "/home/ada", "XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/mcpfleet"),
    ],
)
def test_the_cache_folder_can_be_configured(environ, cache):
    assert Paths.from_environ(environ).cache == Path(cache)


def test_only_the_output_of_failing_checks_is_shown(host, plain):
    checks = [Check(name, (name,), f"mend {name}") for name in ("good", "bad", "worse")]

    def answer(output):
        name = Path(output[0]).name
        return CompletedProgram(0 if name == "good" else 1, f"output of {name}")

    host.run = lambda argv, **_: answer(argv)
    with pytest.raises(SeveralErrors):
        check(plain, host, checks)
    printed = plain.console.file.getvalue()
    assert "output of bad" in printed
    assert "output of worse" in printed
    assert "output of good" not in printed
    assert "next:  mend bad" in printed


def test_verify_before_a_deployment_says_that_nothing_is_deployed(run, monkeypatch, tmp_path):
    monkeypatch.setattr("mcpfleet_local_cloud.commands.stack.find_cloud_folder", lambda _environ: tmp_path)
    monkeypatch.setattr("mcpfleet_local_cloud.commands.stack.read_stack_state", lambda _place: StackState([], {}))
    code, _, err = run("verify")
    assert code == 1
    assert "next:  deploy the stack with ./dev up." in err


def test_down_removes_everything_only_with_force(run, monkeypatch):
    forced = []
    monkeypatch.setattr("mcpfleet_local_cloud.commands.stack.down", lambda _phases, *, force: forced.append(force))
    run("down")
    run("down", "--force")
    assert forced == [False, True]

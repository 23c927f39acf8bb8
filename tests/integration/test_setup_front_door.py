"""`./dev` itself, with a PATH of only the programs that each test provides. No network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
# What ./dev may ask of any system; python and uv are not among it.
TOOLS = ("bash", "basename", "cat", "cksum", "dirname", "id", "mkdir", "mv", "readlink", "rm", "tail")

# Makes the virtual environment: a `python` that prints what it was started with.
UV = """#!/bin/bash
if [ "$1" = --version ]; then echo "uv {version} (test)"; exit; fi
echo "$@" >> "{log}"
mkdir -p .venv/bin
printf '#!/bin/bash\\necho "started: $*"; echo "environment: $MCPFLEET_ENVIRONMENT"\\n' > .venv/bin/python
chmod +x .venv/bin/python
exit {code}
"""


@pytest.fixture
def machine(tmp_path):
    """A checkout in a folder with a space, and an empty PATH to fill."""
    checkout, programs = tmp_path / "my checkout", tmp_path / "bin"
    checkout.mkdir()
    programs.mkdir()
    for name in ("dev", "uv.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, checkout / name)
    for name in (*TOOLS, "chmod"):
        (programs / name).symlink_to(shutil.which(name))
    return checkout, programs


@pytest.fixture
def dev(machine, tmp_path):
    def run(*arguments, checkout=machine[0], **environ):
        return subprocess.run(
            [str(checkout / "dev"), *arguments],
            cwd=tmp_path,
            env={"PATH": str(machine[1]), "HOME": str(tmp_path / "home"), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def with_uv(machine, tmp_path):
    def install(version="0.13.9", code=0):
        log = tmp_path / "uv.log"
        program = machine[1] / "uv"
        program.write_text(UV.format(version=version, log=log, code=code))
        program.chmod(0o755)
        return log

    return install


def test_without_python_and_uv_the_message_says_what_to_install(dev):
    done = dev("up")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: no supported Python found: mcpfleet needs Python 3.11 to 3.14.",
        "next:  install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv), then run ./dev again.",
    ]


def test_an_old_python_is_treated_as_missing(dev, machine):
    (machine[1] / "python3").write_text("#!/bin/bash\nexit 1\n")  # it says no to the version question
    (machine[1] / "python3").chmod(0o755)
    assert "no supported Python found" in dev("up").stderr


def test_a_command_and_its_arguments_are_passed_on_from_any_folder(dev, with_uv):
    with_uv()
    done = dev("test", "-k", "a or b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "started: -m devtools test -k a or b",
        "environment: installed from uv.lock",
    ]


def test_an_installed_python_is_preferred_to_a_download_by_uv(dev, with_uv, machine):
    log = with_uv()
    (machine[1] / "python3").symlink_to(sys.executable)
    dev("up")
    assert log.read_text().split() == ["sync", "--frozen", "--quiet", "--python", str(machine[1] / "python3")]


def test_an_up_to_date_environment_is_not_synchronized_again(dev, with_uv):
    log = with_uv()
    dev("up")
    done = dev("up")
    assert "environment: in step with uv.lock" in done.stdout
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize("file", ["uv.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_file_synchronizes_the_environment(dev, with_uv, machine, file):
    log = with_uv()
    dev("up")
    with (machine[0] / file).open("a") as text:
        text.write("\n")
    dev("up")
    assert len(log.read_text().splitlines()) == 2


def test_a_moved_checkout_synchronizes_the_environment(dev, with_uv, machine):
    log = with_uv()
    dev("up")
    moved = machine[0].rename(machine[0].with_name("elsewhere"))
    dev("up", checkout=moved)
    assert len(log.read_text().splitlines()) == 2


def test_an_unreachable_package_index_is_one_message_and_the_next_run_tries_again(dev, with_uv):
    log = with_uv(code=2)
    for _ in range(2):
        done = dev("up")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-2].startswith("error: uv could not install the packages of uv.lock")
        assert "HTTPS_PROXY" in done.stderr.splitlines()[-1]
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("version", ["0.8.24", "0.4.0"])
def test_an_old_uv_is_not_used(dev, with_uv, version):
    log = with_uv(version)
    assert dev("up").returncode == 1
    assert not log.exists()


def test_an_unset_home_is_read_from_the_user_database(machine, with_uv, tmp_path):
    with_uv()
    done = subprocess.run(
        [str(machine[0] / "dev")],
        env={"PATH": str(machine[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (machine[0] / ".venv").is_dir()

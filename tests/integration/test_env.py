"""`./dev env`: with its exports alone, plain `pulumi` works on the deployed stack, and the checkout stays unchanged.

`pulumi preview` and `pulumi up` need Pulumi's Python language host, which is found in Pulumi's own archives only: where
it is missing, this proves the way up to it.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess

import pytest

from mcpfleet_local_cloud.commands.background import DEFAULT_STACK as STACK
from mcpfleet_local_cloud.commands.leftovers import inventory
from tests.integration.attached import ENGINE
from tests.integration.checkout import eventually

pytestmark = pytest.mark.integration

TRACKED = ("__main__.py", "Pulumi.yaml", "Pulumi.local.yaml", "Pulumi.dev.yaml")


@pytest.fixture(scope="module")
def checkout(make_checkout):
    # Pulumi reads the state's folder from a URL, where each of these means something.
    checkout = make_checkout("env 100%25 #1?&")
    checkout.ok("up")
    return checkout


@pytest.fixture(scope="module")
def pulumi(checkout, tmp_path_factory):
    """`pulumi(*words)`: the command in a shell of a user who has nothing set but what `./dev env` prints."""
    home = tmp_path_factory.mktemp("home")
    command = shutil.which("pulumi") or str(ENGINE / "pulumi")
    path = os.pathsep.join([os.path.dirname(command), "/usr/bin", "/bin"])  # noqa: PTH120

    def run(*words, **variables):
        exports = checkout.ok("env")
        changed = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
        return subprocess.run(
            ["/bin/sh", "-c", f'{exports}\n{changed}exec pulumi "$@"', "sh", *words, "--non-interactive"],
            cwd=checkout.place.root,
            env={"PATH": path, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def succeeds(pulumi):
    def run(*words, **variables):
        done = pulumi(*words, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def untouched(checkout):
    """Whatever a test does, the files that git tracks stay byte for byte as they are."""
    before = {name: (checkout.place.root / name).read_bytes() for name in TRACKED}
    files = {path.name for path in checkout.place.root.glob("Pulumi*")}
    yield
    assert {name: (checkout.place.root / name).read_bytes() for name in TRACKED} == before
    assert {path.name for path in checkout.place.root.glob("Pulumi*")} == files


def test_pulumi_reads_the_same_outputs_as_dev_up(succeeds, checkout):
    assert json.loads(succeeds("stack", "output", "servers", "--json", "-s", STACK)) == checkout.servers


def test_the_exported_state_can_be_imported_again(succeeds, checkout, tmp_path):
    exported = succeeds("stack", "export", "-s", STACK)
    state = json.loads(exported)["deployment"]
    urns = [item["urn"] for item in state["resources"] if item["type"] != "pulumi:pulumi:Stack"]
    assert urns == [item["urn"] for item in checkout.state.resources]
    file = tmp_path / "state.json"
    file.write_text(exported)
    succeeds("stack", "import", "--file", str(file), "-s", STACK)


def test_a_refresh_reads_every_resource_and_finds_no_change(succeeds, checkout):
    output = succeeds("refresh", "--yes", "-s", STACK)
    providers = [item for item in checkout.state.resources if item["type"].startswith("pulumi:providers:")]
    unchanged = len(checkout.state.resources) - len(providers) + 1  # and the stack itself
    assert f"{unchanged} unchanged" in output, output
    assert "No changes" in checkout.ok("up")


def test_the_users_google_credentials_are_not_used(checkout):
    own = {"GOOGLE_CREDENTIALS": '{"type": "service_account"}', "GOOGLE_OAUTH_ACCESS_TOKEN": "ya29.mine"}
    lines = checkout.ok("env", **own).splitlines()
    assert "export GOOGLE_CREDENTIALS=''" in lines
    assert "export GOOGLE_OAUTH_ACCESS_TOKEN=''" in lines
    assert "No changes" in checkout.ok("up", **own)


def test_a_preview_starts_the_language_host(pulumi):
    done = pulumi("preview", "-s", STACK)
    if done.returncode:
        assert "no language plugin 'pulumi-language-python' found" in done.stdout + done.stderr
    else:
        assert "unchanged" in done.stdout


def test_the_exported_passphrase_matches_the_salt_in_the_stack_file(pulumi, succeeds):
    encrypted = json.loads(succeeds("stack", "export", "-s", STACK))["deployment"]["secrets_providers"]
    assert encrypted["type"] == "passphrase"
    wrong = pulumi("stack", "export", "--show-secrets", "-s", STACK, PULUMI_CONFIG_PASSPHRASE="another")
    assert wrong.returncode != 0
    assert "incorrect passphrase" in wrong.stdout + wrong.stderr


def test_an_up_succeeds_after_a_down_that_was_stopped_by_ctrl_c(checkout):
    process = checkout.begin("down")
    eventually(lambda: len(inventory(checkout.place)["services"]) < 2 or process.poll() is not None, "one is deleted")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that run in its foreground
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Stopped. Finished work is kept for the next run." in output
    assert "Traceback" not in output
    assert "12 checks of 2 servers passed" in checkout.ok("up")


def test_down_force_removes_a_broken_state(checkout):
    file = checkout.place.state / "pulumi" / ".pulumi" / "stacks" / "mcpfleet" / "local.json"
    file.write_text('{"version": 3, "checkpoi')
    for command in ("status", "up", "down"):
        code, output = checkout.dev(command)
        assert code == 1
        assert "./dev down --force" in output
        assert "Traceback" not in output
    assert "Nothing is left" in checkout.ok("down", "--force")

"""`pulumi preview` of a new stack needs only the engine and its plugins, and no cloud."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from mcpfleet_local_cloud.commands import background
from mcpfleet_local_cloud.commands.environment import exports
from tests.integration.attached import ENGINE
from tests.integration.checkout import ROOT

pytestmark = pytest.mark.integration


# Background programs are meant to outlive who started them.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_preview_of_a_new_stack_plans_everything_while_the_cloud_is_down(make_checkout):
    checkout = make_checkout("offline")
    place = checkout.place
    source = "folder: .\n"
    checkout.edit("Pulumi.local.yaml", source, f"{source}          builder: cloud-build\n")
    background.ensure_cloud(place, {**os.environ, **exports(place, None)})  # it writes the deployer's key
    plugins = background.ensure_plugins(place, {**os.environ, **exports(place, None)})
    checkout.kill_cloud()
    environment = {**os.environ, **exports(place, str(plugins.facts["PULUMI_DEBUG_PROVIDERS"]))}
    # In a process of its own: the engine's program leaves an event loop behind in the one that runs it.
    command = [sys.executable, "-m", "devtools.bench.preview", str(place.root), str(place.state), str(place.port)]
    command.append(shutil.which("pulumi") or str(ENGINE / "pulumi"))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["resources"] >= 15
    assert not background.is_cloud_answering(place.url)

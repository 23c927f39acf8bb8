"""`pulumi preview` of a new stack asks no cloud: nothing but the engine and its plugins has to be there."""

import io
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.integration.attached import ENGINE
from workbench import background
from workbench.engine import Engine
from workbench.environment import exports
from workbench.phases import Phases

pytestmark = pytest.mark.integration


# Background programs are meant to outlive who started them.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_preview_of_a_new_stack_plans_everything_while_the_cloud_is_down(make_checkout):
    checkout = make_checkout("offline")
    place = checkout.place
    background.ensure_cloud(place, {**os.environ, **exports(place, None)})  # it writes the deployer's key
    plugins = background.ensure_plugins(place, {**os.environ, **exports(place, None)})
    checkout.kill_cloud()
    environment = {**os.environ, **exports(place, str(plugins.facts["PULUMI_DEBUG_PROVIDERS"]))}
    engine = Engine(place, Path(shutil.which("pulumi") or ENGINE / "pulumi"), environment)
    with Phases(Console(file=io.StringIO())).phase("preview") as step:
        outcome = engine.preview(step)
    assert outcome.changes["create"] >= 15
    assert not background.cloud_answers(place.url)

"""Deprecated keys: they work, and each is named under its path by `mcpfleet check` and by `pulumi up`."""

import json
import logging

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet import Fleet, McpServer, projects
from pulumi_mcpfleet.fleet import deprecated, find_deprecated_keys

SERVER = {"source": {"image": "docker.io/acme/toolbox:1"}}
OLD_SERVER = {**SERVER, "max_instances": 3, "access": {"iam": {"invokers": ["user:ada@acme.dev"]}}}
FLEET = {"region": "europe-west1", "servers": {"toolbox": OLD_SERVER, "other": SERVER}}
LINES = (
    "fleet.servers.toolbox.max_instances: is deprecated; write instances; 0.3.0 removes it",
    "fleet.servers.toolbox.access.iam.invokers[0]: is deprecated; write nobody",
)


@pytest.fixture(autouse=True)
def _made_up_keys(monkeypatch):
    keys = {
        "servers.*.max_instances": "write instances; 0.3.0 removes it",
        "servers.*.access.iam.invokers.*": "write nobody",
    }
    monkeypatch.setattr(deprecated, "DEPRECATED_KEYS", keys)


@pytest.fixture
def check(tmp_path):
    """Check a project with one stack file that has this fleet."""

    def check(fleet):
        (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\n")
        content = {"config": {"gcp:project": "acme", "mcpfleet:fleet": fleet}}
        (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump(content))
        (file,) = projects.check_files(tmp_path)
        return file

    return check


def test_a_stack_file_with_deprecated_keys_is_right_and_has_a_warning_for_each(check):
    file = check(FLEET)
    assert (file.mistakes, file.warnings) == ((), LINES)
    assert file.fleet.servers["toolbox"].max_instances == 3


def test_a_stack_file_with_mistakes_has_its_warnings_too(check):
    file = check({**FLEET, "regin": "x"})
    assert [line.partition(":")[0] for line in file.mistakes] == ["fleet.regin"]
    assert file.warnings == LINES


def test_a_stack_file_without_such_keys_has_no_warning(check):
    assert check({"region": "europe-west1", "servers": {"other": SERVER}}).warnings == ()


def test_an_update_warns_under_the_keys_paths_and_deploys(deploy, caplog):
    with caplog.at_level(logging.WARNING):
        plan = deploy(Fleet.from_config, config={"gcp:project": "p", "mcpfleet:fleet": json.dumps(FLEET)})
    assert [record.message for record in caplog.records] == list(LINES)
    assert plan.service("toolbox").inputs["template"]["scaling"]["maxInstanceCount"] == 3


def test_a_server_without_a_fleet_warns_under_its_own_name(deploy, caplog):
    with caplog.at_level(logging.WARNING):
        deploy(lambda: McpServer("toolbox", {"project": "p", "region": "europe-west1", **SERVER, "max_instances": 3}))
    assert [record.message for record in caplog.records] == [
        "toolbox.max_instances: is deprecated; write instances; 0.3.0 removes it"
    ]


KEYS = st.sampled_from(["servers", "toolbox", "max_instances", "access", "iam", "invokers", "a\nb"]) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=4),
    max_leaves=20,
)


@given(VALUES, VALUES)
def test_whatever_a_file_has_each_line_names_one_key_and_stays_a_line(raw, spec):
    servers = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    for value in (raw, {"servers": spec}, {"servers": {"a": spec}}):
        lines = list(find_deprecated_keys(value))
        assert all(line.startswith("fleet.servers") and "\n" not in line for line in lines)
    expected = sum(isinstance(server, dict) and "max_instances" in server for server in servers)
    assert sum("write instances" in line for line in find_deprecated_keys({"servers": spec})) == expected

"""`mcpfleet check`: the config file of every stack of a folder, all mistakes of all files, and no cloud."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet import projects

SERVERS = {"toolbox": {"source": {"image": "docker.io/acme/toolbox:1"}}}
CONFIG = {"gcp:project": "acme", "mcpfleet:fleet": {"region": "europe-west1", "servers": SERVERS}}
ALIASES = "".join(f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 9)}]\n" for level in range(9))
ALIASES = f"a0: &a0 [x]\n{ALIASES}config: {{gcp:project: p, mcpfleet:fleet: *a9}}\n"
"""Each list has the one before nine times: 9 to the power of 9 values in half a kilobyte."""


@pytest.fixture
def write(tmp_path):
    """Writes the config file of a stack: a text, or what stands under config."""
    (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\n")

    def write(stack, content=CONFIG):
        text = content if isinstance(content, str | bytes) else yaml.safe_dump({"config": content})
        (tmp_path / f"Pulumi.{stack}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def mistakes(folder):
    return {file.name: list(file.mistakes) for file in projects.check_files(folder)}


def test_every_file_is_checked_and_says_what_it_has(write, tmp_path):
    write("dev")
    clients = {"caller": {"source": {"image": "docker.io/acme/caller:1"}, "calls": ["toolbox"]}}
    two = {**SERVERS, "other": SERVERS["toolbox"]}
    write("local", {**CONFIG, "mcpfleet:fleet": {"region": "europe-west1", "servers": two, "clients": clients}})
    files = projects.check_files(tmp_path)
    assert [(file.name, file.contents) for file in files] == [
        ("Pulumi.dev.yaml", "1 server"),
        ("Pulumi.local.yaml", "2 servers, 1 client"),
    ]
    assert not any(file.mistakes for file in files)


def test_all_mistakes_of_all_files_are_named_with_their_paths(write, tmp_path):
    wrong = {"region": "europe-west1", "servers": {"toolbox": {**SERVERS["toolbox"], "max_instnces": 3, "cpu": "x"}}}
    write("dev", {"mcpfleet:fleet": wrong})
    write("prod", {"gcp:project": "acme"})
    lines = mistakes(tmp_path)
    assert [line.partition(": ")[0] for line in lines["Pulumi.dev.yaml"]] == [
        "gcp:project",
        "fleet.servers.toolbox.cpu",
        "fleet.servers.toolbox.max_instnces",
    ]
    assert "did you mean max_instances?" in lines["Pulumi.dev.yaml"][2]
    assert lines["Pulumi.prod.yaml"] == ["fleet: missing; add mcpfleet:fleet under config, as docs/fleet.md shows"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("config: {a: 1\n", "line 2, column 1: "),
        ("config:\n  a: 1\n  b: 2\n  a: 3\n", "line 4: the key 'a' is there twice; keep one"),
        ("- a\n", "is not a mapping; write each key in a line of its own"),
        (b"config: \xff\n", "is not UTF-8; save the file as UTF-8"),
        ("config: [a]\n", "config: is not a mapping; write each key in a line of its own below it"),
        ("a: \x07\n", "is not YAML: "),
        ("config: !secret a\n", "line 1, column 9: could not determine a constructor for the tag '!secret'"),
        ("", "gcp:project: missing; add the id of a Google Cloud project under config"),
        ("? [a, b]\n: 1\n", "line 1, column 3: found unhashable key"),
        (ALIASES, "has aliases (*NAME) that stand for more than 100000 values"),
        ("config: &a {mcpfleet:fleet: *a}\n", "has aliases (*NAME) that stand for more than 100000 values"),
        ("#" * (1 << 20) + "\n", "has more than 1 MiB, which no stack needs"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_and_keeps_no_other_from_its_check(write, tmp_path, content, message):
    write("dev", content)
    write("prod", {})
    lines = mistakes(tmp_path)
    assert lines["Pulumi.dev.yaml"][0].startswith(message)
    assert len(lines["Pulumi.prod.yaml"]) == 2


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_a_device_and_a_folder_are_not_read_as_a_config_file(write, tmp_path, make):
    write("dev")
    make(tmp_path / "Pulumi.prod.yaml")
    found = mistakes(tmp_path)
    assert found["Pulumi.dev.yaml"] == []
    assert found["Pulumi.prod.yaml"] == ["is not a file; write the stack's config into a plain file of this name"]


BUILT = {
    "weather": {"source": {"git": {"url": "https://git.acme.dev/weather.git", "ref": "v1"}, "builder": "cloud-build"}}
}


@pytest.mark.parametrize(
    ("plugins", "warned"),
    [
        ("", True),
        ("plugins:\n  providers:\n  - {name: other, path: x}\n", True),
        ("plugins: [mcpfleet-build]\n", True),
        ("plugins: {providers: [{name: mcpfleet-build, path: .venv/bin}]}\n", False),
    ],
)
def test_a_build_in_the_cloud_without_its_provider_in_pulumi_yaml_is_a_warning(write, tmp_path, plugins, warned):
    write("prod", {**CONFIG, "mcpfleet:fleet": {"region": "europe-west1", "servers": {**SERVERS, **BUILT}}})
    (tmp_path / "Pulumi.yaml").write_text(f"name: acme\nruntime: python\n{plugins}")
    [file] = projects.check_files(tmp_path)
    assert not file.mistakes
    assert [warning.partition(": ")[0] for warning in file.warnings] == [
        "fleet.servers.weather.source.builder"
    ] * warned
    assert all("plugins: {providers: [{name: mcpfleet-build, path: .venv/bin}]}" in text for text in file.warnings)


def test_a_fleet_that_builds_nothing_in_the_cloud_needs_no_provider_in_pulumi_yaml(write, tmp_path):
    write("prod")
    assert not projects.check_files(tmp_path)[0].warnings


def test_what_pulumi_yaml_gives_all_stacks_counts(write, tmp_path):
    (tmp_path / "Pulumi.yaml").write_text(
        "name: acme\nruntime: python\nconfig:\n  gcp:project: {value: acme}\n  other: {default: 1}\n"
    )
    write("dev", {"mcpfleet:fleet": CONFIG["mcpfleet:fleet"]})
    assert mistakes(tmp_path) == {"Pulumi.dev.yaml": []}


def test_a_broken_pulumi_yaml_is_a_mistake_of_its_own(write, tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: [\n")
    write("dev")
    lines = mistakes(tmp_path)
    assert lines["Pulumi.dev.yaml"] == []
    assert lines["Pulumi.yaml"][0].startswith("line 2, column 1: ")


def test_a_folder_that_must_be_there_is_looked_for(write, tmp_path):
    fleet = {"region": "europe-west1", "servers": {"own": {"source": {"folder": "./gone"}}}}
    write("dev", {**CONFIG, "mcpfleet:fleet": fleet})
    assert mistakes(tmp_path)["Pulumi.dev.yaml"] == [
        "fleet.servers.own.source.folder: there is no gone beside Pulumi.yaml; correct it"
    ]


def test_a_folder_without_a_project_or_a_stack_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(projects.ProjectError, match=r"There is no Pulumi\.yaml in .* or give --cwd"):
        projects.check_files(tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\n")
    with pytest.raises(projects.ProjectError, match="no stack has a config file"):
        projects.check_files(tmp_path)


@pytest.mark.parametrize("runtime", ["runtime: python\n", "runtime: {name: python, options: {toolchain: uv}}\n"])
def test_a_project_in_python_has_its_name(tmp_path, runtime):
    (tmp_path / "Pulumi.yaml").write_text(f"name: acme\n{runtime}")
    assert projects.check_project(tmp_path) == "acme"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: acme\nruntime: nodejs\n", "the program is in nodejs"),
        ("name: acme\n", "the program is in no language"),
        ("name: [\n", "line 2, column 1"),
    ],
)
def test_another_project_is_refused(tmp_path, text, message):
    (tmp_path / "Pulumi.yaml").write_text(text)
    with pytest.raises(projects.ProjectError, match=message):
        projects.check_project(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: yaml.safe_dump({"config": value}).encode()))
def test_any_content_is_a_list_of_mistakes_and_never_a_traceback(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("stack") / "Pulumi.dev.yaml"
    file.write_bytes(content)
    checked = projects.check_file(file)
    assert checked.mistakes
    assert checked.fleet is None


def test_a_stacks_location_is_read_though_its_fleet_is_not_complete(write, tmp_path):
    fleet = {"labels": {"team": "weather", "cost": 7}, "servers": {"x": {"secrets": {"KEY": None}}}}
    write("dev", {"gcp:project": "acme", "mcpfleet:fleet": fleet})
    location = projects.read_location(tmp_path, "acme/fleet/dev")
    assert (location.project, location.universe) == ("acme", "googleapis.com")
    assert location.labels == {"team": "weather", "cost": "7"}
    write("local", {"gcp:universeDomain": "mcpfleet.test", "mcpfleet:fleet": None})
    (tmp_path / "Pulumi.yaml").write_text("name: acme\nruntime: python\nconfig: {gcp:project: {value: shared}}\n")
    location = projects.read_location(tmp_path, "local")
    assert (location.project, location.universe, dict(location.labels)) == ("shared", "mcpfleet.test", {})


@pytest.mark.parametrize(
    ("stack", "content", "message"),
    [
        ("gone", {}, "There is no Pulumi.gone.yaml"),
        ("../dev/x", {}, "There is no Pulumi.x.yaml"),
        ("dev", {}, "Pulumi.dev.yaml: gcp:project: missing"),
        ("dev", {"gcp:project": {"secure": "v1:x"}}, "Pulumi.dev.yaml: gcp:project: missing"),
        ("dev", {"gcp:project": "acme", "gcp:universeDomain": 1}, "gcp:universeDomain: is not a text"),
        ("dev", "config: {a: 1\n", "Pulumi.dev.yaml: line 2"),
    ],
)
def test_a_stack_without_a_location_is_one_message(write, tmp_path, stack, content, message):
    write("dev", content)
    with pytest.raises(projects.ProjectError) as refused:
        projects.read_location(tmp_path, stack)
    assert message in str(refused.value)

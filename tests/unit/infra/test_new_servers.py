"""The server that `mcpfleet init --server` names: which source it is, how it is built, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_mcpfleet import new_servers
from pulumi_mcpfleet.fleet import parse_fleet
from pulumi_mcpfleet.new_servers import NewServerError, plan_server
from pulumi_mcpfleet.sources import BuildPlanError

COMMIT = "a" * 40
SERVER = 'from mcp.server.mcpserver import MCPServer\nMCPServer("x").run({})\n'
OVER_HTTP = SERVER.format('"streamable-http"')
OVER_STDIO = SERVER.format('transport="stdio"')


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a server for the project `acme`, as seen from the folder around it."""
    monkeypatch.setattr(new_servers.git, "describe", lambda folder: "")
    return lambda source, name=None: plan_server(source, tmp_path / "acme", name, tmp_path)


@pytest.fixture
def repository(monkeypatch):
    """A repository at every address, with a server that speaks HTTP; `calls` are the refs that were fetched."""
    state = SimpleNamespace(code=OVER_HTTP, calls=[], default=f"ref: refs/heads/main\tHEAD\n{COMMIT}\tHEAD\n")

    def checkout(url, ref, place):
        state.calls.append(ref)
        (place / "server.py").write_text(state.code)
        (place / "requirements.txt").write_text("mcp==2.3.0\n")
        return SimpleNamespace(folder=place, commit=COMMIT, ref_description=f"{ref} is", notes=("a note",))

    monkeypatch.setattr(new_servers, "checkout", checkout)
    monkeypatch.setattr(new_servers.git, "run_remote", lambda *arguments: state.default)
    return state


def write_server(folder: Path, code=OVER_HTTP):
    folder.mkdir(parents=True)
    (folder / "server.py").write_text(code)
    (folder / "requirements.txt").write_text("mcp==2.3.0\n")


@pytest.mark.parametrize(
    ("word", "name", "source"),
    [
        ("npm:@acme/mcp-server-weather@1.2.0", "weather", {"stdio": {"npm": "@acme/mcp-server-weather@1.2.0"}}),
        ("npm:weather-mcp@1.2.0", "weather", {"stdio": {"npm": "weather-mcp@1.2.0"}}),
        ("pypi:mcp-server-time==2026.10.19", "time", {"stdio": {"pypi": "mcp-server-time==2026.10.19"}}),
        ("docker.io/acme/toolbox:1", "toolbox", {"image": "docker.io/acme/toolbox:1", "port": 8080}),
        ("image:localhost:5000/mcp@sha256:" + "0" * 64, "mcp",
         {"image": "localhost:5000/mcp@sha256:" + "0" * 64, "port": 8080}),
    ],
)  # fmt: skip
def test_a_word_is_a_package_or_an_image_with_a_name_of_its_own(plan, word, name, source):
    server = plan(word)
    assert (server.name, dict(server.source)) == (name, source)
    assert server.decisions


def test_a_folder_of_the_project_is_seen_from_pulumi_yaml(plan, tmp_path):
    write_server(tmp_path / "acme" / "servers" / "weather_mcp")
    server = plan("acme/servers/weather_mcp")
    assert (server.name, server.source, server.is_generated) == ("weather", {"folder": "./servers/weather_mcp"}, True)
    assert "Python (`language`)" in server.decisions


def test_the_folder_of_the_project_itself_can_be_the_server(plan, tmp_path):
    write_server(tmp_path / "acme")
    assert plan("acme").source == {"folder": "."}


def test_a_folder_outside_of_the_project_is_named_as_such(plan, tmp_path):
    write_server(tmp_path / "weather")
    server = plan("./weather", "sky")
    assert (server.name, server.source) == ("sky", {"folder": "../weather"})
    assert "outside of the project" in server.decisions[0]


def test_a_project_within_its_server_is_to_be_left_out_of_the_image(plan, tmp_path):
    (tmp_path / "server.py").write_text(OVER_HTTP)
    (tmp_path / "requirements.txt").write_text("mcp==2.3.0\n")
    server = plan(".", "sky")
    assert server.source == {"folder": ".."}
    assert server.decisions[0].startswith(f"write acme into {tmp_path / '.dockerignore'}, ")


def test_a_server_that_speaks_stdio_is_put_behind_the_bridge(plan, tmp_path):
    write_server(tmp_path / "acme" / "weather", OVER_STDIO)
    server = plan("acme/weather")
    assert server.source == {"folder": "./weather", "speaks": "stdio"}
    assert server.decisions[0] == "it speaks stdio, so it is put behind the bridge (`speaks`)"


def test_a_dockerfile_of_its_own_builds_on_no_base_image_of_ours(plan, tmp_path):
    write_server(tmp_path / "acme" / "weather")
    (tmp_path / "acme" / "weather" / "Dockerfile").write_text("FROM scratch\n")
    assert not plan("acme/weather").is_generated


def test_a_repository_is_taken_at_the_commit_that_its_default_branch_is_today(plan, repository):
    server = plan("https://github.com/acme/weather-mcp.git")
    assert (server.name, server.source) == (
        "weather",
        {"git": {"url": "https://github.com/acme/weather-mcp.git", "ref": COMMIT}},
    )
    assert repository.calls == [COMMIT]
    assert "main" in server.decisions[1]
    assert "a note" in server.decisions


@pytest.mark.parametrize("address", ["git@github.com:acme/weather.git", "git+ssh://git@github.com/acme/weather.git"])
def test_a_ref_after_the_address_is_taken(plan, repository, address):
    server = plan(f"{address}#v1.2.0")
    assert server.source == {"git": {"url": address.removeprefix("git+"), "ref": "v1.2.0"}}
    assert repository.calls == ["v1.2.0"]


def test_a_repository_that_speaks_stdio_is_put_behind_the_bridge(plan, repository):
    repository.code = OVER_STDIO
    assert plan("https://github.com/acme/weather.git#v1").source["speaks"] == "stdio"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("./gone", "There is no folder ./gone. Give a folder, the address"),
        ("weather", "There is no folder weather. Give a folder, the address"),
        ("npm:weather", "npm:weather: 'weather' is not a package with a version; write NAME@VERSION"),
        ("pypi:weather@1", "pypi:weather@1: .* write NAME==VERSION"),
        ("http://example.com/a.git", "is not encrypted, so others can change what is fetched"),
        ("file:///srv/weather.git", "write folder: … instead of git"),
        ("https://ada:secret@example.com/a.git", "holds a password or a token"),  # pragma: allowlist secret
        ("https://example.com/a.git#-x", "is not a commit, a tag or a branch"),
        ("docker.io/acme/UPPER:1", "toolbox|image"),
    ],
)
def test_what_is_none_of_these_is_refused_with_what_would_be(plan, word, message):
    with pytest.raises(NewServerError, match=message):
        plan(word)


def test_a_name_that_a_fleet_cannot_have_is_refused(plan):
    with pytest.raises(NewServerError, match="Weather: a name has 2 to 26 characters"):
        plan("npm:weather@1.0.0", "Weather")


def test_a_repository_that_cannot_be_fetched_is_one_line(plan, repository, monkeypatch):
    def asked(*arguments):
        raise BuildPlanError.of("git.url", "git can't fetch it: no network; check the address and your access")

    monkeypatch.setattr(new_servers.git, "run_remote", asked)
    with pytest.raises(NewServerError, match=r"^git can't fetch it: no network; check the address and your access$"):
        plan("https://github.com/acme/weather.git")
    repository.default = ""
    monkeypatch.setattr(new_servers.git, "run_remote", lambda *arguments: "")
    with pytest.raises(NewServerError, match="has no default branch"):
        plan("https://github.com/acme/weather.git")


def test_what_cannot_be_decided_names_the_keys_that_would(plan, tmp_path):
    folder = tmp_path / "acme" / "weather"
    write_server(folder)
    (folder / "package.json").write_text("{}")
    with pytest.raises(NewServerError, match=r"source\.language: .* write language: python or language: node"):
        plan("acme/weather")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_package_or_image_has_a_name_that_a_fleet_takes(word):
    name = new_servers._name_of(word)
    parse_fleet({"region": "europe-west1", "servers": {name: {"source": {"image": "docker.io/acme/a:1"}}}})

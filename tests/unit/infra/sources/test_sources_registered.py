"""Servers of a static MCP registry: what a server.json comes to, and what the user is asked for."""

import asyncio
import json

import httpx2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet import packages
from pulumi_mcpfleet.components import image
from pulumi_mcpfleet.fleet import FleetError, Stdio, parse_fleet
from pulumi_mcpfleet.packages import PackagesError, find_packages, look_up
from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.registry_entry import RegistryEntry, read_server_json
from pulumi_mcpfleet.sources.stdio import plan_stdio

NAME, VERSION = "io.github.acme/weather", "1.2.0"
SERVER = f"{NAME}@{VERSION}"
KEY = {"name": "WEATHER_KEY", "description": "Key of the API", "isRequired": True, "isSecret": True}
PACKAGE = {
    "registryType": "npm",
    "identifier": "@acme/weather-mcp",
    "version": "1.2.3",
    "runtimeHint": "npx",
    "runtimeArguments": [{"type": "named", "name": "-y"}],
    "transport": {"type": "stdio"},
    "packageArguments": [
        {"type": "positional", "value": "serve"},
        {"type": "named", "name": "--units", "default": "metric"},
        {"type": "named", "name": "--verbose"},
        {"type": "named", "name": "--at", "value": "https://{host}/v1", "variables": {"host": {"default": "a.dev"}}},
    ],
    "environmentVariables": [
        KEY,
        {"name": "WEATHER_REGION", "isRequired": True},
        {"name": "WEATHER_LEVEL", "default": 'in"f$o'},
        {"name": "WEATHER_OPTIONAL"},
        {"name": "PORT", "value": "1"},
    ],
}
FILE = {"name": NAME, "version": VERSION, "description": "Weather", "packages": [PACKAGE]}
ADDRESS = "https://registry.modelcontextprotocol.io/v0.1/servers/io.github.acme%2Fweather/versions/1.2.0"


def with_package(**changed):
    return {**FILE, "packages": [{**PACKAGE, **changed}]}


def registry(files):
    """A registry that is a few files; notes what it was asked for."""
    requests = []

    def ask(address):
        requests.append(address)
        return json.dumps(files[address]).encode()

    return ask, requests


def stack(root, *, profile="dev", **server):
    servers = {"weather": {"source": {"registry": SERVER}, **server}}
    raw = {"region": "europe-west1", "profile": profile, "servers": servers}
    (root / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"mcpfleet:fleet": raw}}))
    return raw


@pytest.fixture
def kept(tmp_path):
    """A folder whose fleet's server was looked up."""
    stack(tmp_path)
    look_up(tmp_path, fetch=registry({ADDRESS: {"server": FILE, "_meta": {}}})[0])
    return tmp_path


GIVEN = {
    "env": {"WEATHER_REGION": "alps"},
    "secrets": {"WEATHER_KEY": {"secret": "weather", "version": "1"}},
}


def test_a_registered_server_is_its_package_with_its_arguments(kept):
    source = parse_fleet(stack(kept, **GIVEN), root=kept).servers["weather"].source
    assert isinstance(source, Stdio)
    assert source.stdio.npm == "@acme/weather-mcp@1.2.3"
    assert source.stdio.args == ("serve", "--units", "metric", "--at", "https://a.dev/v1")
    dockerfile = plan_stdio(source.spec).dockerfile
    assert 'ENV WEATHER_LEVEL="in\\"f\\$o"\n' in dockerfile
    assert "ENV PORT" not in dockerfile


def test_arguments_of_the_users_stand_in_place_of_those_in_the_file(kept):
    raw = stack(kept, **GIVEN)
    raw["servers"]["weather"]["source"]["args"] = ["watch"]
    assert parse_fleet(raw, root=kept).servers["weather"].source.stdio.args == ("watch",)


def test_declared_variables_are_asked_for_by_name_and_secrets_as_secrets(kept):
    with pytest.raises(FleetError) as refused:
        parse_fleet(stack(kept), root=kept)
    secret, plain = str(refused.value).splitlines()
    assert secret.startswith(
        "fleet.servers.weather.secrets.WEATHER_KEY: missing; add {secret: NAME, version: NUMBER}: "
    )
    assert secret.endswith("the server requires it (Key of the API)")
    assert plain.startswith("fleet.servers.weather.env.WEATHER_REGION: missing; add a text: the server requires it (")


def test_a_server_that_is_not_looked_up_says_the_command(tmp_path):
    with pytest.raises(FleetError, match=r"source\.registry: .* has not been looked up; run `mcpfleet packages lock`"):
        parse_fleet(stack(tmp_path), root=tmp_path)


def test_each_server_is_looked_up_once_and_its_package_can_be_locked(tmp_path):
    stack(tmp_path)
    (tmp_path / "Pulumi.prod.yaml").write_text((tmp_path / "Pulumi.dev.yaml").read_text())
    ask, requests = registry({ADDRESS: {"server": FILE, "_meta": {}}})
    assert look_up(tmp_path, fetch=ask) == [SERVER]
    assert look_up(tmp_path, fetch=ask) == []
    assert look_up(tmp_path, fetch=ask, renew=True) == [SERVER]
    assert requests == [ADDRESS, ADDRESS]
    assert [package.name for package in find_packages(tmp_path)] == ["@acme/weather-mcp@1.2.3"]


def test_all_servers_that_cannot_be_looked_up_are_named_and_the_others_are_kept(tmp_path):
    raw = stack(tmp_path)
    named = {name: f"io.github.acme/{name}@1.0.0" for name in ("gone", "lost")}
    servers = {name: {"source": {"registry": server}} for name, server in named.items()} | raw["servers"]
    text = yaml.safe_dump({"config": {"mcpfleet:fleet": {**raw, "servers": servers}}})
    (tmp_path / "Pulumi.dev.yaml").write_text(text)

    def ask(address):
        if address != ADDRESS:
            raise PackagesError(f"{address} answers 404")
        return json.dumps(FILE).encode()

    with pytest.raises(PackagesError) as failed:
        look_up(tmp_path, fetch=ask)
    not_found, refused = str(failed.value).splitlines()
    assert "gone/versions/1.0.0 answers 404" in not_found
    assert "lost/versions/1.0.0 answers 404" in refused
    assert RegistryEntry("https://registry.modelcontextprotocol.io", SERVER).exists(tmp_path)


def test_profile_prod_wants_the_lock_of_a_registered_servers_package(kept):
    with pytest.raises(FleetError, match=r"weather\.source\.stdio\.npm: @acme/weather-mcp@1\.2\.3 has no lock"):
        parse_fleet(stack(kept, profile="prod", **GIVEN), root=kept)


def test_a_fleet_that_was_read_without_its_folder_is_built_all_the_same(kept):
    source = parse_fleet(stack(kept, **GIVEN)).servers["weather"].source
    assert '"@acme/weather-mcp@1.2.3"' in image._prepare(source, "weather", "p", kept, None).inline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({**FILE, "packages": []}, "has no package, so it can't be deployed"),
        ({**FILE, "remotes": [{"type": "sse"}], "packages": None}, "has no package"),
        (
            with_package(registryType="oci", identifier="docker.io/acme/w:1"),
            "is the image docker.io/acme/w:1; write",
        ),
        (with_package(registryType="nuget"), "has nuget over stdio, and packages of npm and PyPI"),
        (with_package(transport={"type": "sse"}), "has npm over sse, and packages of npm and PyPI"),
        (with_package(identifier='a" && rm'), "names an invalid package"),
        (with_package(version="latest"), "names an invalid package"),
        (
            with_package(runtimeArguments=[{"type": "named", "name": "--node-arg", "value": "x"}]),
            'starts its package with --node-arg x, which only its runner supports; write stdio: {npm: "@acme',
        ),
        (
            with_package(packageArguments=[{"type": "positional", "valueHint": "path", "isRequired": True}]),
            "needs path (no description); write args",
        ),
    ],
)
def test_what_cannot_be_deployed_is_refused_with_what_to_write(change, message):
    with pytest.raises(BuildPlanError) as refused:
        read_server_json(change, SERVER, None)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "is not a valid server.json"),
        (b"[]", "is not a valid server.json"),
        (b"[" * 5000, "is not a valid server.json"),
        (json.dumps({"server": {**FILE, "version": "1.2.1"}}).encode(), "answers with another server or version"),
        (json.dumps({"server": {**FILE, "name": "io.github.evil/x"}}).encode(), "answers with another server"),
        (
            json.dumps(
                {"server": FILE, "_meta": {"io.modelcontextprotocol.registry/official": {"status": "deleted"}}}
            ).encode(),
            "is deleted in the registry",
        ),
        (json.dumps({"server": {**FILE, "packages": []}}).encode(), "has no package"),
    ],
)
def test_an_answer_that_is_no_such_server_is_not_kept(tmp_path, answer, message):
    stack(tmp_path)
    with pytest.raises(PackagesError, match=message):
        look_up(tmp_path, fetch=lambda _: answer)
    assert not (tmp_path / "packages.lock").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"registry": "weather"}, "is not a version of a server; write it as io.github.acme/weather@1.2.0"),
        ({"registry": "io.github.acme/weather@latest"}, "is not a version of a server;"),
        ({"registry": "io.github.acme/weather"}, "is not a version of a server;"),
        ({"registry": SERVER, "registry_url": "http://registry.acme.dev"}, "is not a registry's address; write https:"),
        ({"registry": SERVER, "registry_url": "https://u:p@registry.acme.dev"}, "is not a registry's address"),
    ],
)
def test_a_server_is_named_with_its_version_and_a_registry_by_https(source, message):
    with pytest.raises(FleetError, match=message):
        parse_fleet({"region": "europe-west1", "servers": {"echo": {"source": source}}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["npm", "stdio", "{a}", "-y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*PACKAGE, "type", "name", "value", "default", "variables", "isRequired", "isSecret"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(JSON, st.sampled_from([*PACKAGE]))
def test_whatever_a_registry_answers_is_a_package_or_is_refused(value, key):
    """And nothing of it is more than words of a list and values of variables in the Dockerfile."""
    try:
        server = read_server_json(with_package(**{key: value}), SERVER, ())
    except BuildPlanError:
        return
    lines = plan_stdio(server.server).dockerfile.splitlines()
    without = plan_stdio(read_server_json(FILE, SERVER, ()).server).dockerfile.splitlines()
    names = {line.split(" ")[0] for line in without}
    assert {line.split(" ")[0] for line in lines} <= names


def test_entries_of_other_registries_are_kept_apart():
    other = RegistryEntry("https://registry.acme.dev/mcp/", SERVER)
    assert other.folder != RegistryEntry("https://registry.modelcontextprotocol.io", SERVER).folder
    assert other.address == "https://registry.acme.dev/mcp/v0.1/servers/io.github.acme%2Fweather/versions/1.2.0"


class Drips(httpx2.AsyncByteStream):
    """A body that begins and never ends."""

    async def __aiter__(self):
        yield b"{"
        await asyncio.Event().wait()


class Endless(httpx2.AsyncByteStream):
    """A body without end."""

    async def __aiter__(self):
        while True:
            yield b"x" * 65_536


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx2.Response(200, stream=Endless()), "is too large for a server.json"),
        (httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=Endless()), "sends a compressed response"),
        (httpx2.Response(302, headers={"location": "https://evil.example/"}), "answers 302"),
        (httpx2.Response(404), "answers 404"),
    ],
)
def test_a_registry_that_answers_otherwise_is_one_message(answer, message):
    with pytest.raises(PackagesError, match=message):
        packages._fetch("https://registry.example/x", httpx2.MockTransport(lambda _: answer))


def test_a_registry_whose_answer_does_not_end_is_left_after_its_time(monkeypatch):
    monkeypatch.setattr(packages, "_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(PackagesError, match="did not answer within"):
        packages._fetch(
            "https://registry.example/x", httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Drips()))
        )


def test_a_registrys_answer_is_taken_as_it_is():
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=httpx2.ByteStream(b"{}")))
    assert packages._fetch("https://registry.example/x", transport) == b"{}"

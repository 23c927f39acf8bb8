"""Untrusted outputs files and states: no value becomes an option, a line or a command."""

import json
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import cli, grammar, stack
from mcpfleet.configure import create_entries
from mcpfleet.desktop_clients import CLIENTS, Launch
from mcpfleet.diagnosis import CallerIdentity, diagnose
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.inert import inert
from mcpfleet.jsonc import loads
from mcpfleet.target import Target
from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import values

URL = "https://mcp-echo-1.europe-west1.run.app/mcp"
ECHO = {
    "mcp_url": URL,
    "service_url": URL.removesuffix("/mcp"),
    "urls": {"europe-west1": URL.removesuffix("/mcp")},
    "audience": "https://echo.acme.dev",
    "service": "mcp-echo",
    "region": "europe-west1",
    "project": "acme-mcp",
    "access": "iam",
    "reached": "proxy",
    "invokers": ["user:ada@acme.dev", "allUsers", "principalSet://iam.googleapis.com/locations/global/x"],
    "transports": ["streamable-http"],
    "sessions": "stateless",
    "health_path": None,
    "domain": None,
    "address": None,
    "client_config": {"mcpServers": {"echo": {"type": "http", "url": "http://127.0.0.1:3000/mcp"}}},
    "proxy_command": "gcloud run services proxy mcp-echo --project acme-mcp --region europe-west1 --port 3000",
    "proxy_port": 3000,
}


def read(name="echo", **changes):
    return stack.read_servers({"servers": {name: {**ECHO, **changes}}}, "outputs.json")


def test_outputs_written_by_the_fleet_are_accepted():
    assert read()["echo"].target.mcp_url == URL


def test_a_server_without_a_default_url_has_no_url_of_its_own():
    server = read(urls={"europe-west1": "", "us-central1": ""}, domain="mcp.acme.dev")["echo"]
    assert server.urls == ()


@pytest.mark.parametrize(
    "name",
    ["--token-command=sh -c id", "-v", "", "Echo", "echo\n", "echo ", "é", "a", "x" * 27, "echo-", "echo;id", "$(id)"],
)
def test_a_name_that_could_be_an_option_or_a_command_is_refused(name):
    with pytest.raises(McpfleetError, match=r"outputs\.json cannot be used: servers: ") as raised:
        read(name)
    assert inert(str(raised.value)) == str(raised.value)


def config_at(url):
    return {"mcpServers": {"echo": {"type": "http", "url": url}}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mcp_url", "http://mcp.acme.dev/mcp"),
        ("mcp_url", "https://a@b.dev/mcp"),
        ("mcp_url", "https://b.dev\\@evil.dev/mcp"),
        ("mcp_url", "https://b.dev:65536/mcp"),
        ("mcp_url", "https://b.dev:0/mcp"),
        ("mcp_url", "https://b.dev:-1/mcp"),
        ("mcp_url", "https://b.dev:https/mcp"),
        ("mcp_url", "https://--b.dev/mcp"),
        ("mcp_url", "https://b.dev/$(id)"),
        ("mcp_url", "https://b.dev/mcp?x=`id`"),
        ("mcp_url", "https://b.dev/mcp#x"),
        ("mcp_url", "https://b.dev/\u202emcp"),
        ("mcp_url", "https://b.dev/mcp\n"),
        ("mcp_url", "file:///etc/passwd"),
        ("mcp_url", "--url=https://b.dev"),
        ("service_url", "https://b.dev:70000"),
        ("urls", {"europe-west1": "https://b.dev:70000"}),
        ("urls", {"--x": URL}),
        ("audience", "--token-command=id"),
        ("audience", "a b"),
        ("audience", "a\x1b[31m"),
        ("service", "mcp-echo; id"),
        ("service", "--x"),
        ("region", "europe-west1 --project=x"),
        ("project", "-p"),
        ("access", "whatever"),
        ("reached", "somehow"),
        ("invokers", ["user:ada@acme.dev --role=roles/owner"]),
        ("invokers", "user:ada@acme.dev"),
        ("domain", "-x.dev"),
        ("client_config", config_at("http://127.0.0.1:99999/mcp")),
        ("client_config", config_at("http://127.0.0.1:x/mcp")),
        ("client_config", {"mcpServers": {"--x": {"url": URL}}}),
        ("client_config", {"mcpServers": 3}),
        ("proxy_command", "gcloud\nrm -rf ~"),
        *(("proxy_port", port) for port in (0, 65_536, True, 3000.5, "3000", "3000 --audience=x", [3000])),
    ],
)
def test_an_invalid_value_is_named_with_its_file_and_key(key, value):
    with pytest.raises(McpfleetError) as raised:
        read(**{key: value})
    message = str(raised.value)
    assert f"outputs.json cannot be used: servers.echo.{key}: " in message
    assert inert(message) == message


def test_an_address_that_is_no_text_is_refused():
    with pytest.raises(McpfleetError, match=r"^outputs.json cannot be used: servers.echo has no mcp_url"):
        read(mcp_url=["https://b.dev"])


def test_an_unknown_key_may_have_only_printable_text():
    with pytest.raises(McpfleetError) as raised:
        read(new_key={"deep": ["\u200b"]})
    message = str(raised.value)
    assert "new_key" in message
    assert inert(message) == message


def test_every_mistake_is_reported():
    with pytest.raises(McpfleetError) as raised:
        stack.read_servers({"servers": {"--x": {}, "echo": {**ECHO, "region": "x", "audience": "-"}}}, "outputs.json")
    assert [word in str(raised.value) for word in ("'--x'", "servers.echo.region", "servers.echo.audience")] == [
        True
    ] * 3


def test_an_endless_or_deeply_nested_file_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setattr(stack, "MAX_FILE_BYTES", 1000)
    file = tmp_path / "outputs.json"
    for text, message in ((" " * 2000, "larger than"), ("[" * 900, "not a JSON object")):
        file.write_text(text)
        with pytest.raises(McpfleetError, match=message):
            stack.read_stack(file)
    monkeypatch.undo()
    file.write_text("[" * 200_000)
    with pytest.raises(McpfleetError, match="not a JSON object"):
        stack.read_stack(file)


def test_the_reader_and_the_fleet_have_the_same_grammar():
    text = st.from_regex(rf"\A{values._name_pattern()}\Z", fullmatch=True)

    @given(text)
    def names(name):
        assert grammar.is_name(name)

    @given(st.text(max_size=30))
    def no_others(name):
        assert grammar.is_name(name) == bool(re.fullmatch(values._name_pattern(), name))

    names()
    no_others()
    assert grammar.SERVICE.fullmatch(naming.service_name("a" * naming.SERVER_NAME_MAX))


hostile = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["--", "-x", "--token-command=id", "https://a.dev", URL]).flatmap(
        lambda base: st.builds(lambda more, first: f"{first}{base}{more}", st.text(max_size=8), st.text(max_size=3))
    ),
)


@given(hostile, hostile, hostile, st.sampled_from(["connect", "proxy", "mcp-remote"]), st.sampled_from(list(CLIENTS)))
def test_no_outputs_make_an_entry_that_starts_another_program(name, url, audience, via, client):
    outputs = {"servers": {name: {"mcp_url": url, "audience": audience}}}
    try:
        result = stack.Stack("x", stack.read_servers(outputs, "x"))
        entries = create_entries(CLIENTS[client], result, [], via, 3000)
    except McpfleetError:
        return
    (entry,) = loads(json.dumps(entries)).values()
    arguments = entry.get("args", [])
    if "connect" in arguments:
        arguments_given = arguments[arguments.index("connect") + 1 :]
        assert arguments_given == ["--url", url_of(url), f"--audience={audience}", "--", name]
        assert not name.startswith("-")
    for word in arguments:
        assert inert(word) == word


def url_of(url):
    return Target.parse(url).mcp_url


@given(st.text(max_size=60) | hostile.map(lambda text: f"https://{text}"))
def test_no_misleading_text_is_accepted_as_a_url(text):
    message, target = "", None
    try:
        target = Target.parse(text)
    except UsageError as error:
        message = str(error)
    assert inert(message) == message
    if target is None:
        return
    assert re.fullmatch(r"https?://[a-z0-9\[][a-z0-9.:\[\]_-]*", target.origin)
    assert shlex.quote(target.origin + target.path).strip("'") == target.origin + target.path
    assert "@" not in target.host


def test_an_entry_for_a_client_ends_its_options_before_the_name():
    launch = Launch("/opt/mcpfleet")
    assert launch.arguments(read()["echo"])[-2:] == ["--", "echo"]


def test_the_command_parses_the_entry_that_it_wrote(monkeypatch, tmp_path):
    for home in ("HOME", "USERPROFILE", "APPDATA"):
        monkeypatch.setenv(home, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr("mcpfleet.stdio.run_connect", lambda target, auth, *_: started.append((target, auth)))
    monkeypatch.setattr("sys.argv", ["mcpfleet", *Launch("x").arguments(read()["echo"])])
    with pytest.raises(SystemExit):
        cli.main()
    ((target, auth),) = started
    assert (target.mcp_url, auth.tokens.audience) == (URL, "https://echo.acme.dev")


def test_a_printed_command_quotes_values_from_the_token():
    caller = CallerIdentity("eve", "user:eve@evil.dev; rm -rf ~ #", "x")
    for status, headers in ((403, {}), (403, {"x-goog-iap-generated-response": "true"})):
        result = diagnose(status, headers, read()["echo"].target, caller)
        assert "--member='user:eve@evil.dev; rm -rf ~ #' " in result.step

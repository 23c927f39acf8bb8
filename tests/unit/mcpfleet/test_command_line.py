import json
import socket

import pytest

from mcpfleet import cli, doctor, verify
from mcpfleet.errors import AuthError
from mcpfleet.system import split_command

URL = "https://mcp-echo-481516.europe-west1.run.app"


@pytest.fixture
def run(run_command):
    return run_command


def test_the_command_prints_its_version(run):
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "mcpfleet")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["proxy", "--url", "http://echo.run.app"], 2, "Use https://echo.run.app"),
        (["proxy", "--url", URL], 1, "gcloud auth application-default login"),
        (["proxy", "--url", URL, "--token-file", "gone"], 1, "Cannot read the token file gone"),
        (["proxy", "--url", URL, "--token-file", "a", "--token-command", "b"], 2, "Use only one"),
        (["proxy"], 1, "--url URL"),
        (["connect", "echo"], 1, "--outputs FILE"),
        (["connect", "--url", URL, "--stack", "dev"], 2, "not both"),
        (["connect", "--url", URL, "--impersonate", "a@b", "--token-file", "x"], 2, "needs credentials"),
        (["proxy", "--url", URL, "--port", "70000"], 2, "--port"),
    ],
)
def test_an_error_is_one_message_with_the_next_step_and_no_traceback(run, arguments, code, message):
    got, out, err = run(*arguments)
    assert got == code
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_port_in_use_is_an_error_with_the_next_step(run, monkeypatch, google, tmp_path):
    def taken(address):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket, "create_server", taken)
    token = tmp_path / "token"
    google.clock.now = 4_000_000_000.0  # a token that is valid by the real clock
    token.write_text(google.mint(URL))
    code, _, err = run("proxy", "--url", URL, "--token-file", str(token), "--port", "3001")
    assert code == 1
    assert "127.0.0.1:3001: Address already in use" in err
    assert "--port" in err


def test_the_proxy_listens_on_loopback_only_and_prints_url_and_identity(run, monkeypatch, google, tmp_path):
    listened, served = [], []

    class Listener:
        def getsockname(self):
            return ("127.0.0.1", 3000)

    monkeypatch.setattr(socket, "create_server", lambda address: listened.append(address) or Listener())
    monkeypatch.setattr(cli, "_serve", lambda app, listener: served.append(app))
    token = tmp_path / "token"
    google.clock.now = 4_000_000_000.0
    token.write_text(google.mint(URL))
    code, out, _ = run("proxy", "--url", f"{URL}/mcp", "--token-file", str(token))
    assert code == 0
    assert listened == [("127.0.0.1", 3000)]
    assert f"http://127.0.0.1:3000/mcp -> {URL}/mcp" in out
    assert "user:ada@acme.dev" in out
    assert len(served) == 1


OUTPUTS = {"servers": {"echo": {"mcp_url": f"{URL}/mcp", "audience": URL, "invokers": []}}}


@pytest.fixture
def outputs(tmp_path):
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(OUTPUTS))
    return str(file)


def test_a_configuration_can_be_piped_into_a_file(run, outputs):
    code, out, _ = run("config", "cursor", "--outputs", outputs)
    assert code == 0
    args = json.loads(out)["mcpServers"]["echo"]["args"]
    assert args[-6:] == ["connect", "--url", f"{URL}/mcp", f"--audience={URL}", "--", "echo"]


@pytest.mark.parametrize(("place", "options"), [(".cursor/mcp.json", []), ("my own.json", ["--file", "my own.json"])])
def test_the_printed_command_removes_an_installed_configuration(run, outputs, tmp_path, place, options):
    file = tmp_path / place
    code, out, _ = run("config", "cursor", "--outputs", outputs, "--install", *options)
    assert code == 0
    assert place in out
    assert "echo" in json.loads(file.read_text())["mcpServers"]
    assert "already" in run("config", "cursor", "--outputs", outputs, "--install", *options)[1]
    undo = split_command(out.partition("Undo with: mcpfleet ")[2])
    assert run(*undo)[0] == 0
    assert json.loads(file.read_text()) == {"mcpServers": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "emacs"], "Choose one of claude-desktop"),
        (["config", "cursor", "--install", "--remove"], "not both"),
        (["config", "json", "--install"], "--file"),
        (["config", "cursor", "nobody"], "there are: echo"),
    ],
)
def test_an_option_that_does_not_fit_the_server_is_one_message(run, outputs, arguments, message):
    code, _, err = run(*arguments, "--outputs", outputs)
    assert (code, message in err) == (2, True)


@pytest.fixture
def token(google, tmp_path):
    """A token that is valid by the real clock."""
    google.clock.now = 4_000_000_000.0
    file = tmp_path / "token"
    file.write_text(google.mint(URL))
    return str(file)


@pytest.mark.parametrize(("failed", "code"), [([], 0), (["x: was y"], 1)])
def test_verify_prints_json_and_sets_the_exit_code(run, monkeypatch, outputs, token, failed, code):
    calls = []

    async def look(checks):
        calls.extend(checks)
        return [verify.Report("echo", ["a"], failed)]

    monkeypatch.setattr(verify, "check_all", look)
    options = ["--outputs", outputs, "--token-file", token, "--json", "--expect-tool", "add", "--call", "add"]
    got, out, _ = run("verify", "echo", *options, "--arguments", '{"a": 1}')
    assert got == code
    assert json.loads(out)["ok"] is (code == 0)
    assert json.loads(out)["servers"]["echo"]["identity"] == "user:ada@acme.dev"
    ((_server, callers, wishes),) = calls
    assert callers.any_audience is None, "a file's token is for one audience"
    assert wishes == verify.CheckOptions(["add"], ("add", {"a": 1}))


TWO = {
    "servers": {name: {"mcp_url": f"{URL}/mcp", "audience": URL, "invokers": []} for name in ("echo", "orders")},
    "clients": {"assistant": {"url": "https://mcp-assistant-1.a.run.app", "access": "iam", "calls": ["echo"]}},
}


@pytest.fixture
def verified(monkeypatch, tmp_path, outputs):
    """The services of a stack that `verify` checks, each with the tool that it calls."""
    (tmp_path / "outputs.json").write_text(json.dumps(TWO))
    calls = []

    async def look(checks):
        calls.extend((service.name, options and options.call) for service, _callers, options in checks)
        return [verify.Report(name, ["a"]) for name, _call in calls]

    monkeypatch.setattr(verify, "check_all", look)
    return calls


def test_clients_are_verified_like_servers_and_unnamed_tools_are_not_called(run, verified, outputs, token):
    code, out, _ = run("verify", "--outputs", outputs, "--token-file", token, "--json")
    assert (code, verified) == (0, [("echo", None), ("orders", None), ("assistant", None)])
    report = json.loads(out)
    assert (set(report["servers"]), set(report["clients"])) == ({"echo", "orders"}, {"assistant"})
    verified.clear()
    assert run("verify", "assistant", "--outputs", outputs, "--token-file", token)[0] == 0
    assert verified == [("assistant", None)]


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ([], "orders/cancel"),
        (["orders"], "cancel"),
        (["orders"], "orders/cancel"),
        (["orders", "assistant"], "cancel"),
    ],
)
def test_a_named_tool_is_called_only_at_its_server(run, verified, outputs, token, named, call):
    assert run("verify", *named, "--outputs", outputs, "--token-file", token, "--call", call)[0] == 0
    assert [item for item in verified if item[1]] == [("orders", ("cancel", {}))]


@pytest.mark.parametrize(("named", "call"), [([], "cancel"), ([], "nosuch/cancel"), (["assistant"], "cancel")])
def test_a_tool_without_its_server_is_not_called(run, verified, outputs, token, named, call):
    code, _, err = run("verify", *named, "--outputs", outputs, "--token-file", token, "--call", call)
    assert (code, "Use --call SERVER/TOOL" in err) == (2, True)
    assert verified == []


def test_each_check_has_the_configured_timeout(run, monkeypatch, verified, outputs, token):
    calls = {}

    async def look(checks):
        calls.update({service.name: options.seconds for service, _callers, options in checks})
        return [verify.Report(name, ["a"]) for name in calls]

    monkeypatch.setattr(verify, "check_all", look)
    assert run("verify", "--outputs", outputs, "--token-file", token, "--timeout", "300")[0] == 0
    assert calls == {"echo": 300, "orders": 300, "assistant": 300}
    assert run("verify", "--outputs", outputs, "--token-file", token, "--timeout", "0")[0] == 2


@pytest.mark.parametrize("options", ["nonsense", "[1]"])
def test_arguments_that_are_no_object_are_refused_before_any_call(run, outputs, token, options):
    code, _, err = run("verify", "--outputs", outputs, "--token-file", token, "--call", "add", "--arguments", options)
    assert (code, "--arguments is not" in err) == (2, True)


def test_doctor_without_credentials_still_reports_its_findings(run, monkeypatch):
    def seen(server, source):
        with pytest.raises(AuthError) as error_info:
            source.fetch(server.audience)
        return [
            doctor.CheckResult("ok", f"{server.name} answers"),
            doctor.CheckResult("bad", "no token", str(error_info.value)),
        ]

    monkeypatch.setattr(doctor, "examine", seen)
    code, out, _ = run("doctor", f"{URL}/mcp")
    assert code == 1
    assert "mcp-echo answers" in out
    assert "gcloud auth application-default login" in out

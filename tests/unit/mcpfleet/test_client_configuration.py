"""The configuration of desktop clients: what is written, where, and what of it is its owner's."""

import datetime
import json
import stat

import pytest

from mcpfleet import stack as stacks
from mcpfleet.clients import CLIENTS, Launch, client_named, is_ours
from mcpfleet.configure import wishes
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.install import install, remove
from mcpfleet.jsonc import loads
from mcpfleet.stack import Stack, from_url

URL = "https://mcp-echo-481516.europe-west1.run.app/mcp"
ECHO = from_url(URL, "https://echo.acme.dev", "echo")
CONNECT = ["connect", "--url", URL, "--audience=https://echo.acme.dev", "--", "echo"]
LAUNCH = Launch("/opt/mcpfleet/bin/mcpfleet")


def now():
    return datetime.datetime(2026, 11, 24, 15, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("name", "platform", "file"),
    [
        ("claude-desktop", "darwin", "/home/ada/Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", "win32", "C:\\Roaming\\Claude\\claude_desktop_config.json"),
        ("claude-desktop", "linux", "/home/ada/.config/Claude/claude_desktop_config.json"),
        ("claude-code", "linux", "/home/ada/.claude.json"),
        ("vscode", "linux", "/home/ada/.config/Code/User/mcp.json"),
        ("cursor", "darwin", "/home/ada/.cursor/mcp.json"),
        ("gemini-cli", "linux", "/home/ada/.gemini/settings.json"),
    ],
)
def test_each_clients_file_is_where_the_client_looks(name, platform, file):
    assert str(CLIENTS[name].file({"HOME": "/home/ada", "APPDATA": "C:\\Roaming"}, platform)) == file


def test_a_configuration_folder_of_ones_own_is_honoured():
    found = CLIENTS["vscode"].file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "/conf"}, "linux")
    assert str(found) == "/conf/Code/User/mcp.json"


@pytest.mark.parametrize(
    ("name", "via", "entry"),
    [
        ("claude-desktop", "connect", {"command": LAUNCH.command, "args": CONNECT}),
        ("claude-code", "connect", {"type": "stdio", "command": LAUNCH.command, "args": CONNECT}),
        ("vscode", "connect", {"type": "stdio", "command": LAUNCH.command, "args": CONNECT}),
        ("cursor", "proxy", {"url": "http://127.0.0.1:3000/mcp"}),
        ("gemini-cli", "proxy", {"httpUrl": "http://127.0.0.1:3000/mcp"}),
        ("vscode", "proxy", {"type": "http", "url": "http://127.0.0.1:3000/mcp"}),
        (
            "claude-desktop",
            "mcp-remote",
            {
                "command": "npx",
                "args": ["-y", "mcp-remote@0.15.1", "http://127.0.0.1:3000/mcp", "--transport", "http-only"],
            },
        ),
    ],
)
def test_an_entry_has_the_clients_own_shape(name, via, entry):
    assert CLIENTS[name].entry(ECHO, via, LAUNCH, 3000) == entry
    assert is_ours(entry)


def reached(how):
    return stacks.Server("echo", ECHO.target, ECHO.audience, (), {"reached": how})


def test_a_server_that_asks_for_no_google_identity_is_reached_by_its_url():
    assert CLIENTS["vscode"].entry(reached("url"), "connect", LAUNCH, 3000) == {"type": "http", "url": URL}
    assert CLIENTS["claude-desktop"].entry(reached("url"), "connect", LAUNCH, 3000)["args"][2] == URL


def test_a_server_that_no_desktop_reaches_is_said_so():
    with pytest.raises(UsageError, match="lets in the project's networks only"):
        CLIENTS["vscode"].entry(reached("network"), "connect", LAUNCH, 3000)


def test_a_client_that_takes_commands_only_says_so():
    with pytest.raises(UsageError, match="--via connect"):
        CLIENTS["claude-desktop"].entry(ECHO, "proxy", LAUNCH, 3000)


def test_a_client_that_is_not_known_is_answered_with_those_that_are():
    with pytest.raises(UsageError, match="claude-desktop, claude-code, vscode, cursor, gemini-cli, json"):
        client_named("emacs")


@pytest.mark.parametrize("entry", [None, [], {}, {"command": "npx", "args": ["x"]}, {"url": URL}, {"args": "connect"}])
def test_what_others_wrote_is_not_taken_for_ours(entry):
    assert not is_ours(entry)


def test_a_desktop_program_gets_the_full_path_of_the_command(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "mcpfleet"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert Launch.here(argv0="bin/mcpfleet").command == str(program)
    monkeypatch.setenv("PATH", str(program.parent))
    assert Launch.here(argv0="mcpfleet").command == str(program)
    fallback = Launch.here(argv0="/x/pytest")
    assert fallback.arguments(ECHO)[:3] == ["-m", "mcpfleet.cli", "connect"]


def test_from_uvx_the_client_is_told_to_use_uvx():
    launch = Launch.here(prefix="/home/ada/.cache/uv/archive-v0/abc", argv0="mcpfleet")
    assert launch.command.endswith("uvx")
    assert launch.arguments(ECHO)[:2] == ["mcpfleet", "connect"]


def test_the_stacks_own_proxy_ports_and_the_local_clouds_credentials_are_used(tmp_path):
    output = {"client_config": {"mcpServers": {"echo": {"type": "http", "url": "http://127.0.0.1:3007/mcp"}}}}
    server = stacks.Server("echo", ECHO.target, ECHO.audience, (), output)
    found = Stack("here", {"echo": server}, tmp_path / "ada.json")
    assert wishes(CLIENTS["cursor"], found, [], "proxy", 3000)["echo"] == {"url": "http://127.0.0.1:3007/mcp"}
    args = wishes(CLIENTS["cursor"], found, [], "connect", 3000, impersonate="bot@acme.iam.gserviceaccount.com")
    assert args["echo"]["args"][-6:] == [
        "--credentials",
        str(tmp_path / "ada.json"),
        "--impersonate",
        "bot@acme.iam.gserviceaccount.com",
        "--",
        "echo",
    ]
    with pytest.raises(UsageError, match="connect, proxy, mcp-remote"):
        wishes(CLIENTS["cursor"], found, [], "pigeon", 3000)


# --- the client's own file ------------------------------------------------------------------------------

OWNERS = """{
  // mine
  "mcpServers": {
    "files": {"command": "npx", "args": ["files"]} // do not touch
  },
  "theme": "dark",
}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "client" / "settings.json"
    path.parent.mkdir()
    path.write_text(OWNERS)
    path.chmod(0o640)
    return path


def entry(**more):
    return {**CLIENTS["cursor"].entry(ECHO, "connect", LAUNCH, 3000), **more}


def test_installing_keeps_comments_and_other_servers_and_a_backup(file):
    change = install(file, "mcpServers", {"echo": entry()}, now=now)
    text = file.read_text()
    assert loads(text)["mcpServers"]["echo"] == entry()
    assert "// mine" in text
    assert "// do not touch" in text
    assert change.names == ("echo",)
    assert change.backup == file.with_name("settings.json.20261124-153000.bak")
    assert change.backup.read_text() == OWNERS
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(change.backup.stat().st_mode) == 0o640


def test_what_is_installed_and_removed_leaves_the_file_as_it_was(file):
    install(file, "mcpServers", {"echo": entry(), "time": entry()}, now=now)
    change = remove(file, "mcpServers", [], now=now)
    assert change.names == ("echo", "time")
    assert file.read_text() == OWNERS
    assert len(list(file.parent.glob("*.bak"))) == 2, "no backup replaces another"


def test_installing_again_changes_nothing_and_keeps_no_backup(file):
    install(file, "mcpServers", {"echo": entry()}, now=now)
    before = file.read_bytes(), file.stat().st_mtime_ns
    change = install(file, "mcpServers", {"echo": entry()}, now=now)
    assert (change.names, change.backup) == ((), None)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_keys_that_the_owner_added_to_our_entry_stay(file):
    install(file, "mcpServers", {"echo": entry(env={"LANG": "C"}, disabled=True)}, now=now)
    change = install(file, "mcpServers", {"echo": {"url": "http://127.0.0.1:3000/mcp"}}, now=now)
    assert change.names == ("echo",)
    assert loads(file.read_text())["mcpServers"]["echo"] == {
        "env": {"LANG": "C"},
        "disabled": True,
        "url": "http://127.0.0.1:3000/mcp",
    }


def test_an_entry_of_somebody_else_is_not_replaced_unless_asked(file):
    with pytest.raises(McpfleetError, match="has an entry files already"):
        install(file, "mcpServers", {"echo": entry(), "files": entry()}, now=now)
    assert file.read_text() == OWNERS, "nothing was changed, not even the entry that could be"
    with pytest.raises(McpfleetError, match="remove it by hand"):
        remove(file, "mcpServers", ["files"], now=now)
    install(file, "mcpServers", {"files": entry()}, force=True, now=now)
    assert loads(file.read_text())["mcpServers"]["files"] == entry()


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": 3}', '{"mcpServers": []}', b"\xff\xfe"])
def test_a_file_that_is_not_understood_is_left_alone(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(McpfleetError, match="Nothing was changed"):
        install(file, "mcpServers", {"echo": entry()}, now=now)
    assert file.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    assert list(file.parent.iterdir()) == [file]


def test_a_client_that_was_never_configured_gets_a_file_of_its_users_alone(tmp_path):
    path = tmp_path / "new" / "mcp.json"
    change = install(path, "servers", {"echo": entry()}, now=now)
    assert json.loads(path.read_text()) == {"servers": {"echo": entry()}}
    assert change.backup is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert remove(tmp_path / "none.json", "servers", []).names == ()


def test_a_link_stays_a_link(file, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(file)
    install(link, "mcpServers", {"echo": entry()}, now=now)
    assert link.is_symlink()
    assert "echo" in loads(file.read_text())["mcpServers"]


def test_a_folder_that_cannot_be_written_leaves_the_file_and_says_so(file, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(McpfleetError, match="No space left on device"):
        install(file, "mcpServers", {"echo": entry()}, now=now)
    assert file.read_text() == OWNERS
    assert list(file.parent.iterdir()) == [file], "nothing half written is left"

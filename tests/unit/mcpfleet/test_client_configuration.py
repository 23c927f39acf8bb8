"""The configuration files of desktop clients: the entries, the paths, and the owner's text that stays."""

import datetime
import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet import stack as stacks
from mcpfleet.client_files import install, remove
from mcpfleet.configure import create_entries, install_servers
from mcpfleet.desktop_clients import CLIENTS, Launch, add_mark, find_client, is_mcpfleet_entry
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.jsonc import loads
from mcpfleet.stack import Stack, server_from_url
from mcpfleet.system import npx_command
from mcpfleet.terminal import console

URL = "https://mcp-echo-481516.europe-west1.run.app/mcp"
ECHO = server_from_url(URL, "https://echo.acme.dev", "echo")
CONNECT = ["connect", "--url", URL, "--audience=https://echo.acme.dev", "--", "echo"]
LAUNCH = Launch("/opt/mcpfleet/bin/mcpfleet")


OLD = replace(
    server_from_url("https://old.acme.dev/sse", None, "old"), output={"transports": ["sse"], "reached": "proxy"}
)


@pytest.mark.parametrize(
    ("client", "via", "entry"),
    [
        ("vscode", "proxy", {"type": "sse", "url": "http://127.0.0.1:3000/sse"}),
        ("cursor", "proxy", {"url": "http://127.0.0.1:3000/sse"}),
        ("gemini-cli", "proxy", {"url": "http://127.0.0.1:3000/sse"}),
    ],
)
def test_an_sse_server_is_configured_with_its_transport(client, via, entry):
    assert CLIENTS[client].create_entry(OLD, via, LAUNCH, 3000) == entry


def test_connect_is_not_offered_for_a_server_with_another_transport():
    with pytest.raises(UsageError, match="old speaks only SSE, which connect does not"):
        CLIENTS["cursor"].create_entry(OLD, "connect", LAUNCH, 3000)
    remote = CLIENTS["claude-desktop"].create_entry(OLD, "mcp-remote", LAUNCH, 3000)
    assert remote["args"][-1] == "sse-only"


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
def test_each_clients_file_has_the_path_that_the_client_reads(name, platform, file):
    assert CLIENTS[name].file({"HOME": "/home/ada", "APPDATA": "C:\\Roaming"}, platform) == Path(file)


def test_claude_desktop_from_the_windows_store_uses_its_package_folder(tmp_path):
    claude = CLIENTS["claude-desktop"]
    environ = {"LOCALAPPDATA": str(tmp_path), "APPDATA": "C:\\Roaming"}
    usual = Path("C:\\Roaming\\Claude\\claude_desktop_config.json")
    (tmp_path / "Packages" / "Microsoft.Claude_x" / "LocalCache" / "Roaming").mkdir(parents=True)
    (tmp_path / "Packages" / "Claude_removed").mkdir()
    assert claude.file(environ, "win32") == usual
    packages = [tmp_path / "Packages" / name / "LocalCache" / "Roaming" for name in ("Claude_pzs8", "Claude_beta")]
    packages[0].mkdir(parents=True)
    store = packages[0] / "Claude" / "claude_desktop_config.json"
    assert claude.file(environ, "win32") == store
    assert claude.all_files(environ, "win32") == [store, usual], "what was put into either is taken out again"
    assert claude.file({**environ, "HOME": "/home/ada"}, "linux") == Path("/home/ada/.config/Claude") / store.name
    assert CLIENTS["cursor"].file({"USERPROFILE": "/home/ada", **environ}, "win32") == Path(
        "/home/ada/.cursor/mcp.json"
    )
    packages[1].mkdir(parents=True)
    with pytest.raises(UsageError, match="has several files; name one with --file"):
        claude.file(environ, "win32")


def test_a_custom_configuration_folder_is_used():
    found = CLIENTS["vscode"].file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "/conf"}, "linux")
    assert found == Path("/conf/Code/User/mcp.json")
    relative = CLIENTS["vscode"].file({"HOME": "/home/ada", "XDG_CONFIG_HOME": "conf"}, "linux")
    assert relative == Path("/home/ada/.config/Code/User/mcp.json"), "the XDG specification has relative ones ignored"


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
    assert CLIENTS[name].create_entry(ECHO, via, LAUNCH, 3000) == entry
    assert is_mcpfleet_entry("echo", add_mark("echo", entry))
    assert (add_mark("echo", entry) == entry) is (via == "connect"), "what anybody could have written bears a mark"
    assert not is_mcpfleet_entry("another", add_mark("echo", entry)), "a copy is its owner's"


def test_on_windows_npx_is_started_by_cmd_and_elsewhere_by_its_full_path(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/node/bin/{name}")
    assert (npx_command("win32"), npx_command("darwin")) == (("cmd", "/c", "npx"), ("/opt/node/bin/npx",))
    launch = Launch("mcpfleet.exe", npx=npx_command("win32"))
    entry = CLIENTS["claude-desktop"].create_entry(ECHO, "mcp-remote", launch, 3000)
    assert (entry["command"], entry["args"][:4]) == ("cmd", ["/c", "npx", "-y", "mcp-remote@0.15.1"])
    assert is_mcpfleet_entry("echo", add_mark("echo", entry))


@pytest.mark.parametrize("path", ["a&calc", "%PATH%", "a!b"])
def test_no_part_of_a_url_is_executed_by_cmd(path):
    server = server_from_url(f"{URL}/{path}", None, "echo")
    claude, windows = CLIENTS["claude-desktop"], Launch("mcpfleet.exe", npx=npx_command("win32"))
    with pytest.raises(UsageError, match="Use --via connect"):
        claude.create_entry(server, "mcp-remote", windows, 3000)
    assert claude.create_entry(server, "mcp-remote", LAUNCH, 3000)["args"][2].endswith(path)


def reached(reach):
    return stacks.DeployedServer("echo", ECHO.target, ECHO.audience, (), {"reached": reach})


def test_a_server_without_google_authentication_is_configured_by_its_url():
    assert CLIENTS["vscode"].create_entry(reached("url"), "connect", LAUNCH, 3000) == {"type": "http", "url": URL}
    assert CLIENTS["claude-desktop"].create_entry(reached("url"), "connect", LAUNCH, 3000)["args"][2] == URL


def test_a_server_that_no_desktop_can_reach_is_refused_with_the_reason():
    with pytest.raises(UsageError, match="accepts requests from the project's networks only"):
        CLIENTS["vscode"].create_entry(reached("network"), "connect", LAUNCH, 3000)


def test_a_client_that_supports_only_commands_refuses_a_proxy():
    with pytest.raises(UsageError, match="--via connect"):
        CLIENTS["claude-desktop"].create_entry(ECHO, "proxy", LAUNCH, 3000)


def test_an_unknown_client_is_an_error_with_the_known_ones():
    with pytest.raises(UsageError, match="claude-desktop, claude-code, vscode, cursor, gemini-cli, json"):
        find_client("emacs")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "mcpfleet connect",
        {},
        {"command": "npx", "args": ["x"]},
        {"url": URL},
        {"args": "connect"},
        {"url": "http://127.0.0.1:3000/mcp"},
        {"type": "http", "url": "http://127.0.0.1:3000/mcp", "headers": {"X-Mcpfleet-Config": "another"}},
        {"type": "http", "url": "http://127.0.0.1:3000/mcp", "headers": "X-Mcpfleet-Config"},
        {
            "command": "npx",
            "args": ["-y", "mcp-remote@0.15.1", "http://127.0.0.1:3000/mcp", "--transport", "http-only"],
        },
        {"command": "ssh", "args": ["desk", "mcpfleet", *CONNECT]},
        {"command": "wrapper", "args": CONNECT},
        {"command": LAUNCH.command, "args": [*CONNECT[:-2], "--verbose", *CONNECT[-2:]]},
        {"command": LAUNCH.command, "args": CONNECT[:-1]},
        {"command": 3, "args": CONNECT},
        {"command": LAUNCH.command, "args": ["connect", *map(str, range(9))]},
    ],
)
def test_foreign_entries_are_not_recognized_as_ours(entry):
    assert not is_mcpfleet_entry("echo", entry)


@pytest.mark.parametrize(
    ("command", "content_before"),
    [
        ("C:\\Users\\ada\\bin\\mcpfleet.exe", []),
        ("C:\\uv\\uvx.exe", ["mcpfleet"]),
        ("C:\\bin\\mcpfleet.EXE", []),
        ("C:\\Python313\\python.exe", ["-m", "mcpfleet.cli"]),
        ("/usr/bin/python3.13", ["-m", "mcpfleet.cli"]),
        ("uvx", ["mcpfleet"]),
    ],
)
def test_every_way_to_start_connect_is_recognized(command, content_before):
    identity = ["--credentials", "/home/ada/key.json", "--impersonate", "bot@acme.iam.gserviceaccount.com"]
    assert is_mcpfleet_entry(
        "echo", {"command": command, "args": [*content_before, *CONNECT[:-2], *identity, *CONNECT[-2:]]}
    )


@pytest.mark.parametrize(
    ("environ", "file"),
    [
        ({"USERPROFILE": "C:\\Users\\ada", "HOME": "/c/Users/ada"}, "C:\\Users\\ada/.cursor/mcp.json"),
        ({"HOME": "C:\\Users\\ada"}, "C:\\Users\\ada/.cursor/mcp.json"),
    ],
)
def test_on_windows_the_home_folder_is_the_one_that_clients_use(environ, file):
    assert CLIENTS["cursor"].file(environ, "win32") == Path(file)
    roaming = CLIENTS["vscode"].file(environ, "win32")
    assert str(roaming) == "C:\\Users\\ada\\AppData\\Roaming\\Code\\User\\mcp.json"


def test_a_desktop_program_gets_the_full_path_of_the_command(tmp_path, monkeypatch):
    program = tmp_path / "bin" / ("mcpfleet.exe" if sys.platform == "win32" else "mcpfleet")
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert Launch.current(argv0="bin/mcpfleet").command == str(program)
    monkeypatch.setenv("PATH", str(program.parent))
    assert Launch.current(argv0="mcpfleet").command == str(program)
    fallback = Launch.current(argv0="/x/pytest")
    assert fallback.arguments(ECHO)[:3] == ["-m", "mcpfleet.cli", "connect"]


@pytest.mark.parametrize(
    "prefix",
    [
        "/home/ada/.cache/uv/archive-v0/abc",
        "C:\\Users\\ada\\AppData\\Local\\uv\\cache\\archive-v0\\abc",
        "/cache/archive-v0/abc",
    ],
)
def test_a_command_run_by_uvx_configures_uvx(prefix):
    launch = Launch.current(prefix=prefix, argv0="mcpfleet")
    assert launch.command.endswith("uvx")
    assert launch.arguments(ECHO)[:2] == ["mcpfleet", "connect"]


def test_a_local_stacks_proxy_ports_and_credentials_are_used(tmp_path):
    server = stacks.DeployedServer("echo", ECHO.target, ECHO.audience, (), {"proxy_port": 3007})
    found = Stack("here", {"echo": server}, tmp_path / "ada.json")
    assert create_entries(CLIENTS["cursor"], found, [], "proxy", 3000)["echo"] == {"url": "http://127.0.0.1:3007/mcp"}
    args = create_entries(CLIENTS["cursor"], found, [], "connect", 3000, impersonate="bot@acme.iam.gserviceaccount.com")
    assert args["echo"]["args"][-6:] == [
        "--credentials",
        str(tmp_path / "ada.json"),
        "--impersonate",
        "bot@acme.iam.gserviceaccount.com",
        "--",
        "echo",
    ]
    with pytest.raises(UsageError, match="connect, proxy, mcp-remote"):
        create_entries(CLIENTS["cursor"], found, [], "pigeon", 3000)


# --- the client's own file ------------------------------------------------------------------------------

OWNERS = """{
  // mine
  "mcpServers": {
    "files": {"command": "npx", "args": ["files"]} // do not touch
  },
  "theme": "dark",
}
"""


def has_mode(file, mode):
    """Whether a file has a mode; on Windows that says only whether it can be written."""
    return sys.platform == "win32" or stat.S_IMODE(file.stat().st_mode) == mode


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "client" / "settings.json"
    path.parent.mkdir()
    path.write_text(OWNERS)
    path.chmod(0o640)
    return path


def entry(**fields):
    return {**CLIENTS["cursor"].create_entry(ECHO, "connect", LAUNCH, 3000), **fields}


def test_installing_keeps_comments_and_other_servers_and_writes_a_backup(file):
    change = install(file, "mcpServers", {"echo": entry()}, now=now)
    text = file.read_text()
    assert loads(text)["mcpServers"]["echo"] == entry()
    assert "// mine" in text
    assert "// do not touch" in text
    assert change.names == ("echo",)
    assert change.backup == file.with_name("settings.json.20261124-153000.bak")
    assert change.backup.read_text() == OWNERS
    assert has_mode(file, 0o640)
    assert has_mode(change.backup, 0o640)


def test_installing_and_removing_restores_the_file(file):
    install(file, "mcpServers", {"echo": entry(), "time": entry()}, now=now)
    change = remove(file, "mcpServers", [], now=now)
    assert change.names == ("echo", "time")
    assert file.read_text() == OWNERS
    assert len(list(file.parent.glob("*.bak"))) == 2, "no backup replaces another"


def test_installing_again_changes_nothing_and_writes_no_backup(file):
    install(file, "mcpServers", {"echo": entry()}, now=now)
    content_before = file.read_bytes(), file.stat().st_mtime_ns
    change = install(file, "mcpServers", {"echo": entry()}, now=now)
    assert (change.names, change.backup) == ((), None)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == content_before


def test_keys_that_the_user_added_to_an_entry_are_kept(file):
    install(file, "mcpServers", {"echo": entry(env={"LANG": "C"}, disabled=True)}, now=now)
    change = install(file, "mcpServers", {"echo": {"url": "http://127.0.0.1:3000/mcp"}}, now=now)
    assert change.names == ("echo",)
    assert loads(file.read_text())["mcpServers"]["echo"] == {
        "env": {"LANG": "C"},
        "disabled": True,
        "url": "http://127.0.0.1:3000/mcp",
        "headers": {"X-Mcpfleet-Config": "echo"},
    }
    install(file, "mcpServers", {"echo": entry()}, now=now)
    assert loads(file.read_text())["mcpServers"]["echo"] == entry(env={"LANG": "C"}, disabled=True)


def test_a_foreign_entry_is_replaced_only_on_request(file):
    with pytest.raises(McpfleetError, match="already has an entry files"):
        install(file, "mcpServers", {"echo": entry(), "files": entry()}, now=now)
    assert file.read_text() == OWNERS, "nothing was changed, not even the entry that could be"
    with pytest.raises(McpfleetError, match="Remove it by hand"):
        remove(file, "mcpServers", ["files"], now=now)
    install(file, "mcpServers", {"files": {"command": "x"}}, force=True, now=now)
    assert loads(file.read_text())["mcpServers"]["files"] == {"command": "x", "env": {"MCPFLEET_CONFIG": "files"}}
    remove(file, "mcpServers", ["files"], now=now)
    assert loads(file.read_text())["mcpServers"] == {}


EITHER = [
    lambda file: install(file, "mcpServers", {"echo": entry()}),
    lambda file: remove(file, "mcpServers", ["echo"]),
]


@pytest.mark.parametrize("text", [b'{"mcpServers": {"echo": null}}', b'{"mcpServers": {"echo": "mine"}}'])
def test_an_entry_that_is_no_object_is_foreign(file, text):
    file.write_bytes(text)
    for change in EITHER:
        with pytest.raises(McpfleetError, match="has an entry echo"):
            change(file)
    assert remove(file, "mcpServers", []).names == ()
    assert file.read_bytes() == text


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"mcpServers": 3}',
        '{"mcpServers": []}',
        '{"mcpServers": ["echo"]}',
        '{"mcpServers": "echo"}',
        '{"mcpServers": null}',
        '{"a": ' + "9" * 5000 + "}",
        b"\xff\xfe",
        '{"mcpServers": {}}'.encode("utf-16"),
    ],
)
def test_an_unreadable_file_is_not_changed(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for change in EITHER:
        with pytest.raises(McpfleetError, match="Nothing was changed"):
            change(file)
    assert file.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    assert list(file.parent.iterdir()) == [file]


def test_a_new_configuration_file_is_readable_by_its_user_only(tmp_path):
    path = tmp_path / "new" / "mcp.json"
    change = install(path, "servers", {"echo": entry()}, now=now)
    assert json.loads(path.read_text()) == {"servers": {"echo": entry()}}
    assert change.backup is None
    assert has_mode(path, 0o600)
    assert remove(tmp_path / "none.json", "servers", []).names == ()


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}\r\n"])
def test_an_empty_file_is_filled_and_keeps_its_byte_order_mark(file, content):
    file.write_bytes(content)
    assert remove(file, "mcpServers", []).names == ()
    install(file, "mcpServers", {"echo": entry()}, now=now)
    assert file.read_bytes().startswith(b"\xef\xbb\xbf") is content.startswith(b"\xef\xbb\xbf")
    assert json.loads(file.read_text(encoding="utf-8-sig"))["mcpServers"] == {"echo": entry()}


def test_a_file_that_its_client_changes_meanwhile_is_not_overwritten(file, monkeypatch):
    flush = os.fsync

    def written_meanwhile(descriptor):
        flush(descriptor)
        file.write_text('{"theme": "light"}')

    monkeypatch.setattr("os.fsync", written_meanwhile)
    with pytest.raises(McpfleetError, match="Another program changed"):
        install(file, "mcpServers", {"echo": entry()}, now=now)
    assert file.read_text() == '{"theme": "light"}'
    assert list(file.parent.iterdir()) == [file]


def test_a_hard_linked_file_keeps_one_content_under_both_names(file, tmp_path):
    other = tmp_path / "dotfiles.json"
    other.hardlink_to(file)
    install(file, "mcpServers", {"echo": entry()}, now=now)
    assert other.samefile(file)
    remove(other, "mcpServers", [], now=now)
    assert file.read_text() == OWNERS


def test_a_symbolic_link_stays_a_link(file, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(file)
    install(link, "mcpServers", {"echo": entry()}, now=now)
    assert link.is_symlink()
    assert "echo" in loads(file.read_text())["mcpServers"]


def test_a_folder_without_write_permission_is_an_error_and_keeps_the_file(file, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(McpfleetError, match="No space left on device"):
        install(file, "mcpServers", {"echo": entry()}, now=now)
    assert file.read_text() == OWNERS
    assert list(file.parent.iterdir()) == [file], "nothing half written is left"


@pytest.mark.parametrize(
    ("lists", "warning"),
    [
        ({"allowed": ["files"]}, "is not in mcp.allowed. Add it there."),
        ({"excluded": ["other", " ECHO"]}, "is in mcp.excluded. Remove it there."),
        ({"allowed": ["Echo"], "excluded": []}, ""),
        ({"allowed": []}, ""),
        ({"allowed": "files", "excluded": [1]}, ""),
        ([], ""),
    ],
)
def test_a_server_name_that_gemini_cli_ignores_is_reported(file, capsys, lists, warning):
    gemini = CLIENTS["gemini-cli"]
    file.write_text(json.dumps({"mcp": lists}))
    for _ in range(2):  # what is there already is as silent
        install_servers(console(), gemini, file, {"echo": entry()}, force=False)
        out = capsys.readouterr().out
        assert ("does not start" in out, warning in out) == (bool(warning), True)
    assert loads(file.read_text())["mcp"] == lists, "whom it lets in is its owner's to say"


@pytest.mark.parametrize(
    "text",
    [
        '{"mcpServers": {"echo": %(ours)s, "echo": %(ours)s}}',
        '{"mcpServers": {"echo": {"command": "theirs"}, "echo": %(ours)s}}',
        '{"mcpServers": {"files": {}}, "mcpServers": {"echo": %(ours)s}}',
        '{"mcpServers": {"echo": %(twice)s, "time": {}}}',
    ],
)
def test_a_file_with_duplicate_keys_is_not_changed(file, text):
    own_entry = json.dumps(entry())
    file.write_text(text % {"ours": own_entry, "twice": own_entry.replace("{", '{"command": "mine", ', 1)})
    content_before = file.read_bytes()
    change = {"echo": entry(args=[])}
    for act in (lambda: install(file, "mcpServers", change), lambda: remove(file, "mcpServers", ["echo"])):
        with pytest.raises(McpfleetError, match="occurs twice"):
            act()
    assert file.read_bytes() == content_before


# --- whatever the file, nothing of its owner's is lost ----------------------------------------------------

NOTES = ["", "", " ", "{end}", "{end}  ", "// note {n}\u00a0{end}", "/* note {n} */", "{end}\t// note {n}{end}"]
THEIRS = [
    {"command": "npx", "args": ["files"]},
    {"url": "http://127.0.0.1:3000/mcp"},
    {"type": "http", "url": "http://127.0.0.1:8000/mcp", "headers": {"authorization": "x"}},
    {"command": "ssh", "args": ["desk", "mcpfleet", *CONNECT]},
    {"command": "mcpfleet", "args": ["connect", "echo"]},
    None,
    "mcpfleet",
    [],
]
OURS_HERE = [entry(), entry(disabled=True), add_mark("echo", {"url": "http://127.0.0.1:3000/mcp"})]
SERVERS = st.dictionaries(st.sampled_from(["files", "time", "\u00f6"]), st.sampled_from(THEIRS), max_size=3)
REST = st.dictionaries(st.sampled_from(["theme", "a//b", "/*", 'q"', "args"]), st.sampled_from([1, "// x", {}, ["*/"]]))


@st.composite
def written(draw):
    """A client's file as bytes, the servers of others in it, all else in it, and its comments."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    numbers = iter(range(10_000))
    gap = lambda: draw(st.sampled_from(NOTES)).format(end=end, n=next(numbers))  # noqa: E731

    def member(name, value, depth):
        if name == "echo":  # a comment within an entry of ours goes with it
            return f"{gap()}{json.dumps(name)}: {json.dumps(value)}{gap()}"
        return f"{gap()}{json.dumps(name)}{gap()}:{gap()}{text(value, depth + 1)}{gap()}"

    def text(value, depth=0):
        if not isinstance(value, dict):
            return json.dumps(value, ensure_ascii=draw(st.booleans()))
        parts = [member(name, part, depth) for name, part in value.items()]
        last = f",{gap()}" if parts and draw(st.booleans()) else gap()
        return "{" + ",".join(parts) + last + "}"

    rest, other_servers = draw(REST), draw(SERVERS)
    own_entry = draw(st.sampled_from([{}, {"echo": OURS_HERE[0]}, {"echo": OURS_HERE[1]}, {"echo": OURS_HERE[2]}]))
    named = draw(st.permutations([*other_servers.items(), *own_entry.items()]))
    members = draw(st.permutations([*rest.items(), ("mcpServers", dict(named))]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + gap() + text(dict(members)) + gap()).encode(), other_servers, rest


def notes(file):
    return re.findall(r"note \d+\u00a0?", file.read_bytes().decode())


@settings(max_examples=150, deadline=None)
@given(written(), st.sampled_from(["connect", "proxy"]), st.booleans())
def test_foreign_content_survives_every_install_and_removal(tmp_path_factory, case, via, linked):
    content, other_servers, rest = case
    real = tmp_path_factory.mktemp("client") / "real.json"
    real.write_bytes(content)
    file = real.with_name("link.json") if linked else real
    if linked:
        file.symlink_to(real)
    comments = notes(real)
    expected = {"echo": CLIENTS["cursor"].create_entry(ECHO, via, LAUNCH, 3000)}

    install(file, "mcpServers", expected, now=now)
    found = loads(real.read_bytes().decode())
    own_entry = found["mcpServers"].pop("echo")
    assert own_entry.items() >= expected["echo"].items()
    assert found == {**rest, "mcpServers": other_servers}
    assert notes(real) == comments

    remove(file, "mcpServers", [], now=now)
    assert loads(real.read_bytes().decode()) == {**rest, "mcpServers": other_servers}
    assert notes(real) == comments
    assert real.read_bytes().startswith(b"\xef\xbb\xbf") is content.startswith(b"\xef\xbb\xbf")
    assert file.is_symlink() is linked
    backups = [part.read_bytes() for part in real.parent.glob("*.bak")]
    assert content in [*backups, real.read_bytes()]


CODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]


@settings(max_examples=150, deadline=None)
@given(written(), st.data(), st.sampled_from(CODINGS), st.booleans())
def test_any_file_is_edited_without_other_changes_or_not_at_all(tmp_path_factory, case, data, coding, taken_back):
    content = case[0].decode("utf-8-sig").encode(coding, "replace")
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    if data.draw(st.booleans()):
        content = content[:start] + data.draw(st.sampled_from([b"", b'"', b"}", b"\xff", b"\0"])) + content[end:]
    file = tmp_path_factory.mktemp("client") / "settings.json"
    file.write_bytes(content)
    try:
        if taken_back:
            change = remove(file, "mcpServers", [], now=now)
        else:
            change = install(file, "mcpServers", {"echo": entry()}, now=now)
    except McpfleetError:
        assert file.read_bytes() == content
        assert list(file.parent.iterdir()) == [file]
        return
    held, found = loads(content.decode() or "{}"), loads(file.read_bytes().decode() or "{}")
    for part in (held, found):
        part.get("mcpServers", {}).pop("echo", None)
        part.setdefault("mcpServers", {})
    assert found == held, "what others wrote is what they wrote"
    assert (change.backup is None) is (file.read_bytes() == content)
    assert change.backup is None or change.backup.read_bytes() == content

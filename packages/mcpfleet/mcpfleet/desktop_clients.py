"""The configuration files of desktop clients, and the entries that they need for servers.

The formats are those of the clients' own documentation, read in November 2026 (docs/clients.md has the links).
There are three ways to reach a private server: `connect` (the client starts `mcpfleet connect` as a stdio server),
`proxy` (the client calls the port of `mcpfleet proxy`), and `mcp-remote` (for clients that only start commands,
through that port).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from mcpfleet.errors import UsageError
from mcpfleet.stack import DeployedServer
from mcpfleet.system import WINDOWS, home_folder, npx_command, packaged_folders, roaming_folder

Via = Literal["connect", "proxy", "mcp-remote"]

MCP_REMOTE: Final = "mcp-remote@0.15.1"
MANAGED_KEYS: Final = ("type", "command", "args", "url", "httpUrl")
"""The keys of an entry that mcpfleet writes; all others belong to the file's owner."""
MARKS: Final = (("headers", "X-Mcpfleet-Config"), ("env", "MCPFLEET_CONFIG"))
"""Marks with the server's name, for entries of mcpfleet that have a URL or start another command."""

_LAUNCH_PREFIXES: Final = ((("mcpfleet",), "uvx"), (("-m", "mcpfleet.cli"), ""), ((), "mcpfleet"))
"""The arguments before the subcommand, with the program that they belong to; '' for any Python."""
_CMD_SPECIAL: Final = re.compile(r"""[&|<>^%!"()]""")
"""Special characters of cmd on Windows."""
_TEMPORARY_ENVIRONMENT: Final = re.compile(r"[\\/]archive-v\d+[\\/]|[\\/]\.cache[\\/]uv[\\/]")
"""The environments of `uvx`, which uv keeps in its cache, on any system."""


@dataclass(frozen=True)
class DesktopClient:
    """A desktop client.

    Attributes:
        name: Its name for `mcpfleet config`.
        title: Its name for people.
        key: The key of the object with the servers.
        files: The path of its configuration file, by `sys.platform`; `~` and variables are replaced.
        has_types: Whether an entry has a `type`, the transport.
        url_key: The key of a streamable HTTP URL; '' if the client supports commands only.
        reload_step: What its user has to do so that it reads the file again.
        package: The name of its Windows package, if it has one: a packaged app reads a folder of its own.
        lists_key: The key of an object with the lists `allowed` and `excluded` of servers' names; '' if it has none.
    """

    name: str
    title: str
    key: str
    files: Mapping[str, str]
    has_types: bool
    url_key: str
    reload_step: str
    package: str = ""
    lists_key: str = ""

    def file(self, environ: Mapping[str, str], platform: str = sys.platform) -> Path:
        """The user's configuration file, which the client reads.

        Raises:
            UsageError: The client has no such file on this system, or several.
        """
        packaged = self._packaged_files(environ, platform)
        if len(packaged) > 1:
            raise UsageError(f"{self.title} has several files; name one with --file: {', '.join(map(str, packaged))}.")
        return packaged[0] if packaged else self._default_file(environ, platform)

    def all_files(self, environ: Mapping[str, str], platform: str = sys.platform) -> list[Path]:
        """The user's configuration files of all installations of the client.

        Raises:
            UsageError: The client has no such file on this system.
        """
        return [*self._packaged_files(environ, platform), self._default_file(environ, platform)]

    def _packaged_files(self, environ: Mapping[str, str], platform: str) -> list[Path]:
        if not self.package:
            return []
        # Windows redirects a packaged app to its own folder, so the app does not read the real roaming folder.
        parts = self.files[WINDOWS].split("\\")[1:]
        return [roaming.joinpath(*parts) for roaming in packaged_folders(environ, self.package, platform)]

    def _default_file(self, environ: Mapping[str, str], platform: str) -> Path:
        pattern = self.files.get(platform, self.files.get("*"))
        if pattern is None:
            raise UsageError(
                f"{self.title} has no known file on this system. Leave out --install, or name a file with --file."
            )
        home = str(home_folder(environ, platform))
        config = environ.get("XDG_CONFIG_HOME", "")
        text = pattern.replace("~", home).replace("%APPDATA%", roaming_folder(environ, platform))
        return Path(text.replace("$CONFIG", config if config.startswith("/") else f"{home}/.config"))

    def create_entry(self, server: DeployedServer, via: Via, launch: Launch, port: int) -> dict[str, Any]:
        """Create this client's entry for a server.

        Raises:
            UsageError: The client or the server does not support this way.
        """
        reach = server.output.get("reached", "proxy")
        if reach == "network":
            raise UsageError(
                f"{server.name} accepts requests from the project's networks only (ingress), not from your desktop."
            )
        is_sse = server.is_sse_only
        if reach == "url":  # it needs no Google identity: the client logs in by itself, if at all
            url = server.target.mcp_url
            return self._url_entry(url, sse=is_sse) if self.url_key else self._mcp_remote_entry(url, launch, sse=is_sse)
        url = f"http://127.0.0.1:{port}{server.target.path or '/mcp'}"
        if via == "connect" and is_sse:
            raise UsageError(
                f"{server.name} speaks only SSE, which connect does not support. Use --via proxy, or --via mcp-remote."
            )
        if via == "proxy":
            if not self.url_key:
                raise UsageError(f"{self.title} only starts commands. Use --via connect, or --via mcp-remote.")
            return self._url_entry(url, sse=is_sse)
        if via == "mcp-remote":
            return self._mcp_remote_entry(url, launch, sse=is_sse)
        return {**self._stdio, "command": launch.command, "args": launch.arguments(server)}

    def _url_entry(self, url: str, *, sse: bool) -> dict[str, Any]:
        # A key other than `url` is for the newer transport only.
        return {**({"type": "sse" if sse else "http"} if self.has_types else {}), "url" if sse else self.url_key: url}

    def _mcp_remote_entry(self, url: str, launch: Launch, *, sse: bool) -> dict[str, Any]:
        command, *prefix = launch.npx
        if prefix and _CMD_SPECIAL.search(url):
            raise UsageError(f"{url} has characters that are special in cmd, which starts npx. Use --via connect.")
        npx = ["-y", MCP_REMOTE, url, "--transport", "sse-only" if sse else "http-only"]
        return {**self._stdio, "command": command, "args": [*prefix, *npx]}

    def blocked_reason(self, settings: Mapping[str, Any], name: str) -> str:
        """The reason why the client does not start a configured server, with the next step; '' if it does."""
        lists: object = settings.get(self.lists_key) if self.lists_key else None
        if not isinstance(lists, dict):
            return ""
        allowed, excluded = (_lower_names(cast("dict[str, Any]", lists).get(key)) for key in ("allowed", "excluded"))
        if allowed and name.lower() not in allowed:
            return f"it does not start {name}, which is not in {self.lists_key}.allowed. Add it there."
        if name.lower() in excluded:
            return f"it does not start {name}, which is in {self.lists_key}.excluded. Remove it there."
        return ""

    @property
    def _stdio(self) -> dict[str, Any]:
        return {"type": "stdio"} if self.has_types else {}


@dataclass(frozen=True)
class Launch:
    """The command with which a client starts `mcpfleet connect`.

    Attributes:
        command: The program, by its full path, because a desktop app lacks the shell's PATH.
        prefix_arguments: The arguments before the subcommand.
        identity: The options that select the identity; files and account names, never a token.
        npx: The command that starts npx.
    """

    command: str
    prefix_arguments: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    npx: tuple[str, ...] = ("npx",)

    @classmethod
    def current(cls, identity: tuple[str, ...] = (), prefix: str = sys.prefix, argv0: str = sys.argv[0]) -> Launch:
        """The command that started this process, or `uvx` if uv will delete this process's environment."""
        if _TEMPORARY_ENVIRONMENT.search(prefix + os.sep):
            return cls(shutil.which("uvx") or "uvx", ("mcpfleet",), identity, npx_command())
        program = shutil.which(argv0) if Path(argv0).stem == "mcpfleet" else None
        if program:
            return cls(str(Path(program).absolute()), (), identity, npx_command())
        return cls(sys.executable, ("-m", "mcpfleet.cli"), identity, npx_command())

    def arguments(self, server: DeployedServer) -> list[str]:
        """The arguments after the command. They need no stack, which the client's working directory lacks."""
        options = ["--url", server.target.mcp_url, f"--audience={server.audience}"]
        # After `--`, nothing is an option, whatever the name may be.
        return [*self.prefix_arguments, "connect", *options, *self.identity, "--", server.name]


_MAC: Final = "~/Library/Application Support"

CLIENTS: Final[Mapping[str, DesktopClient]] = {
    client.name: client
    for client in (
        DesktopClient(
            "claude-desktop",
            "Claude Desktop",
            "mcpServers",
            {
                "darwin": f"{_MAC}/Claude/claude_desktop_config.json",
                "win32": "%APPDATA%\\Claude\\claude_desktop_config.json",
                "*": "$CONFIG/Claude/claude_desktop_config.json",
            },
            has_types=False,
            url_key="",
            reload_step="Quit Claude Desktop and start it again.",
            package="Claude",
        ),
        DesktopClient(
            "claude-code",
            "Claude Code",
            "mcpServers",
            {"*": "~/.claude.json"},
            has_types=True,
            url_key="url",
            reload_step="Start a new session; /mcp shows the server.",
        ),
        DesktopClient(
            "vscode",
            "VS Code",
            "servers",
            {
                "darwin": f"{_MAC}/Code/User/mcp.json",
                "win32": "%APPDATA%\\Code\\User\\mcp.json",
                "*": "$CONFIG/Code/User/mcp.json",
            },
            has_types=True,
            url_key="url",
            reload_step="VS Code reads it by itself; `MCP: List Servers` shows the server.",
        ),
        DesktopClient(
            "cursor",
            "Cursor",
            "mcpServers",
            {"*": "~/.cursor/mcp.json"},
            has_types=False,
            url_key="url",
            reload_step="Cursor reads it by itself; its settings, under MCP, show the server.",
        ),
        DesktopClient(
            "gemini-cli",
            "Gemini CLI",
            "mcpServers",
            {"*": "~/.gemini/settings.json"},
            has_types=False,
            url_key="httpUrl",  # `url` there means the SSE transport of 2024
            reload_step="Start a new session; `gemini mcp list` shows the server.",
            lists_key="mcp",
        ),
        DesktopClient("json", "any client", "mcpServers", {}, has_types=True, url_key="url", reload_step=""),
    )
}


def _lower_names(names: object) -> set[str]:
    """The names in a list, as Gemini CLI compares them (packages/cli/src/config/mcp/mcpServerEnablement.ts)."""
    return (
        {name.strip().lower() for name in cast("list[object]", names) if isinstance(name, str)}
        if isinstance(names, list)
        else set()
    )


def find_client(name: str) -> DesktopClient:
    """Find a client by name.

    Raises:
        UsageError: There is no such client; the message lists the clients.
    """
    if name not in CLIENTS:
        raise UsageError(f"There is no client {name!r}. Choose one of {', '.join(CLIENTS)}.")
    return CLIENTS[name]


def add_mark(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Add the mark to an entry, unless its command already identifies it as an entry of mcpfleet."""
    if _is_launch(name, entry):
        return dict(entry)
    outer, inner = MARKS[1] if "command" in entry else MARKS[0]
    return {**entry, outer: {inner: name}}


def is_mcpfleet_entry(name: str, entry: object) -> bool:
    """Return whether mcpfleet wrote an entry: it starts `mcpfleet connect` as a `Launch` does, or has the mark."""
    if not isinstance(entry, dict):
        return False
    fields = cast("dict[str, Any]", entry)
    for outer, inner in MARKS:
        values: object = fields.get(outer)
        if isinstance(values, dict) and cast("dict[str, Any]", values).get(inner) == name:
            return True
    return _is_launch(name, fields)


def _is_launch(name: str, entry: Mapping[str, Any]) -> bool:
    """Return whether an entry is exactly a `Launch` of the server."""
    command: object = entry.get("command")
    args: object = entry.get("args")
    if not isinstance(command, str) or not isinstance(args, list):
        return False
    arguments = cast("list[object]", args)
    program = re.split(r"[\\/]", command)[-1].lower().removesuffix(".exe")  # PATHEXT has upper case
    for prefix, expected_program in _LAUNCH_PREFIXES:
        if tuple(arguments[: len(prefix)]) == prefix and program == (expected_program or program):
            match arguments[len(prefix) :]:
                case ["connect", "--url", str(), str(audience), *identity, "--", last]:
                    is_known = all(option in {"--credentials", "--impersonate"} for option in identity[::2])
                    return audience.startswith("--audience=") and is_known and len(identity) % 2 == 0 and last == name
                case _:
                    pass
    return False

"""What each desktop client wants in its configuration, and where that file lies.

The shapes are those of the clients' own documentation, read in November 2026 (docs/clients.md names the pages).
Three ways lead to a private server: `connect` (the client starts a stdio server of ours), `proxy` (the client goes to
a port that `mcpfleet proxy` listens on), and `mcp-remote` (for clients that start commands only, through that port).
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
from mcpfleet.system import WINDOWS, home_of, packaged_of, roaming_of, start_of_npx

Via = Literal["connect", "proxy", "mcp-remote"]

MCP_REMOTE: Final = "mcp-remote@0.15.1"
OURS: Final = ("type", "command", "args", "url", "httpUrl")
"""The keys of an entry that we write; any other is its owner's."""
MARKS: Final = (("headers", "X-Mcpfleet-Config"), ("env", "MCPFLEET_CONFIG"))
"""What an entry with a URL, or a command that is not ours, bears in a client's file to be known again: its own name."""

_BEFORE: Final = ((("mcpfleet",), "uvx"), (("-m", "mcpfleet.cli"), ""), ((), "mcpfleet"))
"""Arguments before the subcommand, with the program that they are for; '' for any Python."""
_TO_CMD: Final = re.compile(r"""[&|<>^%!"()]""")
"""What cmd of Windows does not leave as it is."""
_THROWN_AWAY: Final = re.compile(r"[\\/]archive-v\d+[\\/]|[\\/]\.cache[\\/]uv[\\/]")
"""Environments that uv keeps in its cache (`uvx`), on any system."""


@dataclass(frozen=True)
class Client:
    """A desktop client.

    Attributes:
        name: As `mcpfleet config` takes it.
        title: As people call it.
        key: The object that holds the servers.
        files: Where its configuration lies, by `sys.platform`; `~` and variables are filled in.
        typed: Whether an entry names its transport.
        url_key: The key of a streamable HTTP URL; '' where the client takes commands only.
        after: What its user has to do before it reads the file again.
        package: What its package on Windows is called, where it is installed as one: that reads a folder of its own.
        lets_in: The object with lists of servers' names, `allowed` and `excluded`, which the client obeys in silence.
    """

    name: str
    title: str
    key: str
    files: Mapping[str, str]
    typed: bool
    url_key: str
    after: str
    package: str = ""
    lets_in: str = ""

    def file(self, environ: Mapping[str, str], platform: str = sys.platform) -> Path:
        """The configuration of the user, which the client reads.

        Raises:
            UsageError: The client has none on this system, or several.
        """
        within = self._packaged(environ, platform)
        if len(within) > 1:
            raise UsageError(
                f"{self.title} is there more than once; name one with --file: {', '.join(map(str, within))}."
            )
        return within[0] if within else self._usual(environ, platform)

    def every_file(self, environ: Mapping[str, str], platform: str = sys.platform) -> list[Path]:
        """Each configuration of the user that some installation of the client reads.

        Raises:
            UsageError: The client has none on this system.
        """
        return [*self._packaged(environ, platform), self._usual(environ, platform)]

    def _packaged(self, environ: Mapping[str, str], platform: str) -> list[Path]:
        if not self.package:
            return []
        # Windows shows a package its own folder as the roaming one; what is written to the real one never arrives.
        inside = self.files[WINDOWS].split("\\")[1:]
        return [roaming.joinpath(*inside) for roaming in packaged_of(environ, self.package, platform)]

    def _usual(self, environ: Mapping[str, str], platform: str) -> Path:
        pattern = self.files.get(platform, self.files.get("*"))
        if pattern is None:
            raise UsageError(f"For {self.title} there is no file; run this without --install, or name one with --file.")
        home = str(home_of(environ, platform))
        config = environ.get("XDG_CONFIG_HOME", "")
        text = pattern.replace("~", home).replace("%APPDATA%", roaming_of(environ, platform))
        return Path(text.replace("$CONFIG", config if config.startswith("/") else f"{home}/.config"))

    def entry(self, server: DeployedServer, via: Via, launch: Launch, port: int) -> dict[str, Any]:
        """One server as this client wants it.

        Raises:
            UsageError: The client does not take it that way.
        """
        reached = server.output.get("reached", "proxy")
        if reached == "network":
            raise UsageError(f"{server.name} lets in the project's networks only (ingress), so no desktop reaches it.")
        sse = server.sse_alone
        if reached == "url":  # it asks for no Google identity: the client logs in by itself, if at all
            url = server.target.mcp_url
            return self._at(url, sse=sse) if self.url_key else self._remote(url, launch, sse=sse)
        url = f"http://127.0.0.1:{port}{server.target.path or '/mcp'}"
        if via == "connect" and sse:
            raise UsageError(
                f"{server.name} speaks SSE alone, which connect does not; take --via proxy, or mcp-remote."
            )
        if via == "proxy":
            if not self.url_key:
                raise UsageError(f"{self.title} starts commands only; take --via connect, or --via mcp-remote.")
            return self._at(url, sse=sse)
        if via == "mcp-remote":
            return self._remote(url, launch, sse=sse)
        return {**self._stdio, "command": launch.command, "args": launch.arguments(server)}

    def _at(self, url: str, *, sse: bool) -> dict[str, Any]:
        # What is called otherwise than `url` is the newer transport's alone.
        return {**({"type": "sse" if sse else "http"} if self.typed else {}), "url" if sse else self.url_key: url}

    def _remote(self, url: str, launch: Launch, *, sse: bool) -> dict[str, Any]:
        command, *before = launch.npx
        if before and _TO_CMD.search(url):
            raise UsageError(f"{url} cannot be given to npx through cmd of Windows; take --via connect.")
        npx = ["-y", MCP_REMOTE, url, "--transport", "sse-only" if sse else "http-only"]
        return {**self._stdio, "command": command, "args": [*before, *npx]}

    def shut_out(self, settings: Mapping[str, Any], name: str) -> str:
        """Why the client does not start a server that its settings hold, and what to do; '' where it does."""
        lists: object = settings.get(self.lets_in) if self.lets_in else None
        if not isinstance(lists, dict):
            return ""
        allowed, excluded = (_names(cast("dict[str, Any]", lists).get(key)) for key in ("allowed", "excluded"))
        if allowed and name.lower() not in allowed:
            return f"it does not start {name}: {self.lets_in}.allowed names others only. Add {name} there."
        if name.lower() in excluded:
            return f"it does not start {name}: {self.lets_in}.excluded names it. Take {name} out there."
        return ""

    @property
    def _stdio(self) -> dict[str, Any]:
        return {"type": "stdio"} if self.typed else {}


@dataclass(frozen=True)
class Launch:
    """How a client starts `mcpfleet connect`.

    Attributes:
        command: The program, by its full path: a desktop program has not the shell's PATH.
        before: Arguments before the subcommand.
        identity: Options that choose the identity; files and account names, never a token.
        npx: The words that start npx.
    """

    command: str
    before: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    npx: tuple[str, ...] = ("npx",)

    @classmethod
    def here(cls, identity: tuple[str, ...] = (), prefix: str = sys.prefix, argv0: str = sys.argv[0]) -> Launch:
        """As this process was started; `uvx` where it runs in an environment that uv will throw away."""
        if _THROWN_AWAY.search(prefix + os.sep):
            return cls(shutil.which("uvx") or "uvx", ("mcpfleet",), identity, start_of_npx())
        found = shutil.which(argv0) if Path(argv0).stem == "mcpfleet" else None
        if found:
            return cls(str(Path(found).absolute()), (), identity, start_of_npx())
        return cls(sys.executable, ("-m", "mcpfleet.cli"), identity, start_of_npx())

    def arguments(self, server: DeployedServer) -> list[str]:
        """What follows the command. All is spelled out: the client's folder has no stack."""
        known = ["--url", server.target.mcp_url, f"--audience={server.audience}"]
        # Behind the `--` nothing is an option, whatever a name may be one day.
        return [*self.before, "connect", *known, *self.identity, "--", server.name]


_MAC: Final = "~/Library/Application Support"

CLIENTS: Final[Mapping[str, Client]] = {
    one.name: one
    for one in (
        Client(
            "claude-desktop",
            "Claude Desktop",
            "mcpServers",
            {
                "darwin": f"{_MAC}/Claude/claude_desktop_config.json",
                "win32": "%APPDATA%\\Claude\\claude_desktop_config.json",
                "*": "$CONFIG/Claude/claude_desktop_config.json",
            },
            typed=False,
            url_key="",
            after="Quit Claude Desktop and start it again.",
            package="Claude",
        ),
        Client(
            "claude-code",
            "Claude Code",
            "mcpServers",
            {"*": "~/.claude.json"},
            typed=True,
            url_key="url",
            after="Start a new session; /mcp shows the server.",
        ),
        Client(
            "vscode",
            "VS Code",
            "servers",
            {
                "darwin": f"{_MAC}/Code/User/mcp.json",
                "win32": "%APPDATA%\\Code\\User\\mcp.json",
                "*": "$CONFIG/Code/User/mcp.json",
            },
            typed=True,
            url_key="url",
            after="VS Code reads it by itself; `MCP: List Servers` shows the server.",
        ),
        Client(
            "cursor",
            "Cursor",
            "mcpServers",
            {"*": "~/.cursor/mcp.json"},
            typed=False,
            url_key="url",
            after="Cursor reads it by itself; its settings, under MCP, show the server.",
        ),
        Client(
            "gemini-cli",
            "Gemini CLI",
            "mcpServers",
            {"*": "~/.gemini/settings.json"},
            typed=False,
            url_key="httpUrl",  # `url` there means the SSE transport of 2024
            after="Start a new session; `gemini mcp list` shows the server.",
            lets_in="mcp",
        ),
        Client("json", "any client", "mcpServers", {}, typed=True, url_key="url", after=""),
    )
}


def _names(listed: object) -> set[str]:
    """A list's names as Gemini CLI compares them (packages/cli/src/config/mcp/mcpServerEnablement.ts)."""
    return (
        {one.strip().lower() for one in cast("list[object]", listed) if isinstance(one, str)}
        if isinstance(listed, list)
        else set()
    )


def client_named(name: str) -> Client:
    """The client of that name.

    Raises:
        UsageError: There is none; it names those that there are.
    """
    if name not in CLIENTS:
        raise UsageError(f"There is no client {name!r}; there are: {', '.join(CLIENTS)}.")
    return CLIENTS[name]


def marked(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as it goes into a client's file: known again, if its shape alone may be anybody's."""
    if _is_launch(name, entry):
        return dict(entry)
    outer, inner = MARKS[1] if "command" in entry else MARKS[0]
    return {**entry, outer: {inner: name}}


def is_ours(name: str, entry: object) -> bool:
    """Whether this command wrote the entry of a name: it starts `connect` just as we write it, or bears our mark."""
    if not isinstance(entry, dict):
        return False
    held = cast("dict[str, Any]", entry)
    for outer, inner in MARKS:
        beside: object = held.get(outer)
        if isinstance(beside, dict) and cast("dict[str, Any]", beside).get(inner) == name:
            return True
    return _is_launch(name, held)


def _is_launch(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a `Launch` of the server, word for word."""
    command: object = entry.get("command")
    found: object = entry.get("args")
    if not isinstance(command, str) or not isinstance(found, list):
        return False
    arguments = cast("list[object]", found)
    program = re.split(r"[\\/]", command)[-1].lower().removesuffix(".exe")  # as PATHEXT writes it
    for before, its in _BEFORE:
        if tuple(arguments[: len(before)]) == before and program == (its or program):
            match arguments[len(before) :]:
                case ["connect", "--url", str(), str(audience), *identity, "--", last]:
                    known = all(one in {"--credentials", "--impersonate"} for one in identity[::2])
                    return audience.startswith("--audience=") and known and len(identity) % 2 == 0 and last == name
                case _:
                    pass
    return False

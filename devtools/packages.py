"""`./dev packages`: well-known servers of npm and PyPI, each deployed behind the bridge, listed and called.

On a local cloud of its own, a few at a time, and through `mcpfleet connect` as a desktop client would, in the newest
revision and with the handshake of the older ones. The table goes to docs/packages.md. Keys are made up: a tool that
asks a service for something answers with its own error, which is an answer.
"""

import asyncio
import datetime
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

import yaml
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError
from mcp.types import Tool
from rich.console import Console

from devtools.bench.up import copy_of
from mcpfleet_local_cloud.commands import background, stack
from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.pulumi_engine import PulumiStack
from mcpfleet_local_cloud.commands.setup import PreparedMachine
from pulumi_mcpfleet.fleet.field_docs import to_yaml

PAGE: Final = "docs/packages.md"
MODES: Final = ("2026-07-28", "legacy")
_BEGIN: Final = "<!-- made by ./dev packages -->\n"
_END: Final = "<!-- end -->\n"
_FAILS: Final = "fails: "
_AT_ONCE: Final = 4
_SECONDS: Final = 120.0
_KEY: Final = "481516234200"
"""A made-up key: a number, which is not taken for a secret in the clear."""


@dataclass(frozen=True)
class Package:
    """A package that is tried.

    Attributes:
        said: What the fleet says of it, as `stdio` has it.
        env: Variables that it wants before it starts.
        arguments: Of the tool that is called.
    """

    said: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def package(self) -> str:
        """The package with its version."""
        return str(self.said.get("npm") or self.said["pypi"])

    @property
    def server(self) -> str:
        """What the server is called in the fleet."""
        name = re.split(r"(?<!^)@|==|\[", self.package)[0]
        return re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].lower())[:20].strip("-")

    @property
    def needed(self) -> str:
        """What stands in the fleet besides the package, in words of the fleet."""
        more = {key: value for key, value in self.said.items() if key not in ("npm", "pypi")}
        parts = [f"`{key}: {to_yaml(value)}`" for key, value in more.items()]
        return ", ".join([*parts, *(f"`{name}`" for name in self.env)]) or "nothing"


@dataclass
class Found:
    """What came of a package.

    Attributes:
        tools: How many tools it lists.
        called: What was called, and what kind of answer came, for each revision.
        image: Bytes of its image.
        memory: Bytes that its container holds when it has been called.
        fault: Why it does not work.
    """

    tools: int = 0
    called: dict[str, str] = field(default_factory=dict[str, str])
    image: int = 0
    memory: int = 0
    fault: str = ""


def npm(package: str, *variables: str, calls: Mapping[str, Any] | None = None, **said: Any) -> Package:
    """A package of npm; *variables* get a made-up key, and a tool is called with the arguments *calls*."""
    return Package({"npm": package, **said}, dict.fromkeys(variables, _KEY), arguments=calls or {})


def pypi(package: str, *variables: str, calls: Mapping[str, Any] | None = None, **said: Any) -> Package:
    """A package of PyPI; *variables* get a made-up key, and a tool is called with the arguments *calls*."""
    return Package({"pypi": package, **said}, dict.fromkeys(variables, _KEY), arguments=calls or {})


PACKAGES: Final = (
    npm("@modelcontextprotocol/server-filesystem@2026.8.31", args=["/tmp"]),  # noqa: S108
    npm("@modelcontextprotocol/server-memory@2026.8.31"),
    npm("@modelcontextprotocol/server-sequential-thinking@2026.8.31"),
    npm("@modelcontextprotocol/server-everything@2026.8.31"),
    npm("@modelcontextprotocol/server-github@2025.4.8"),
    npm("@modelcontextprotocol/server-slack@2025.4.25", "SLACK_BOT_TOKEN", "SLACK_TEAM_ID"),
    npm("@modelcontextprotocol/server-google-maps@0.6.2", "GOOGLE_MAPS_API_KEY"),
    npm("@modelcontextprotocol/server-brave-search@0.6.2", "BRAVE_API_KEY"),
    npm("@upstash/context7-mcp@4.1.1"),
    npm("@notionhq/notion-mcp-server@2.5.2", "NOTION_TOKEN"),
    npm("figma-developer-mcp@0.13.2", "FIGMA_API_KEY", args=["--stdio"]),
    npm("firecrawl-mcp@3.26.0", "FIRECRAWL_API_KEY"),
    npm("tavily-mcp@0.2.22", "TAVILY_API_KEY"),
    npm("exa-mcp-server@3.4.1", "EXA_API_KEY"),
    npm("@antv/mcp-server-chart@0.9.10"),
    npm("mongodb-mcp-server@3.0.4"),
    npm("@supabase/mcp-server-supabase@0.13.0", "SUPABASE_ACCESS_TOKEN"),
    npm("mcp-searxng@2.4.0"),
    npm("airtable-mcp-server@1.14.0", "AIRTABLE_API_KEY"),
    npm("@playwright/mcp@0.0.83"),
    npm("chrome-devtools-mcp@1.11.0"),
    pypi("mcp-server-time==2026.10.19", calls={"timezone": "Europe/Zurich"}),
    pypi("mcp-server-fetch==2026.10.24"),
    pypi("mcp-server-git==2026.10.19", apt=["git"]),
    pypi("mcp-server-sqlite==2025.4.25", bounds=["mcp<2"], args=["--db-path", "/tmp/test.db"]),  # noqa: S108
    pypi("markitdown-mcp==0.0.1a8"),
    pypi("arxiv-mcp-server==0.8.2"),
    pypi("duckduckgo-mcp-server==0.7.0"),
    pypi("wikipedia-mcp==2.0.1"),
    pypi("excel-mcp-server==2.2.2", args=["stdio"]),
    pypi("yfmcp==0.14.0"),
    pypi("mcp-server-calculator==0.2.1", calls={"expression": "6*7"}),
    pypi("mcp-clickhouse==0.7.0", "CLICKHOUSE_HOST", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"),
    pypi("elevenlabs-mcp==0.12.2", "ELEVENLABS_API_KEY"),
    pypi("redis-mcp-server==0.5.1"),
)


def try_packages(phases: Phases, place: CloudFolder, prepared: PreparedMachine, names: Sequence[str] = ()) -> None:
    """Try every package, or those whose names hold one of *names*, and write the table; other rows stay.

    Raises:
        SetupError: One does not work; the others are in the table.
    """
    chosen = [one for one in PACKAGES if not names or any(name in one.package for name in names)]
    here = replace(place, root=copy_of(place, "packages"), state=place.state / "packages", port=place.port + 130)
    found: dict[str, Found] = {}
    try:
        with stack.start_cloud(phases, here, prepared) as engine:
            stack.publish_base_image(phases, here, prepared)
            for first in range(0, len(chosen), _AT_ONCE):
                some = chosen[first : first + _AT_ONCE]
                with phases.phase(", ".join(one.server for one in some)):
                    found |= _tried(some, here, prepared, engine)
    finally:
        stack.destroy(phases, here, prepared, force=True)
        shutil.rmtree(here.root)
    rows = [(one, found[one.package]) for one in chosen]
    write(place.root / PAGE, rows)
    faults = [f"{one.package}: {result.fault}" for one, result in rows if result.fault]
    if faults:
        raise SetupError("\n".join(faults), "say in devtools/packages.py what it needs, or leave it out.")


def _tried(
    some: Sequence[Package], place: CloudFolder, prepared: PreparedMachine, engine: PulumiStack
) -> dict[str, Found]:
    """Deploy some packages together, and each alone where that fails."""
    quiet = Phases(Console(quiet=True))
    _write(place.root, some, prepared)
    try:
        outputs = stack.deploy(quiet, engine).outputs
    except SetupError as error:
        if len(some) == 1:
            return {some[0].package: Found(fault=str(error))}
        return {name: one for package in some for name, one in _tried([package], place, prepared, engine).items()}
    file = place.state / "outputs.json"
    file.write_text(json.dumps(outputs), encoding="utf-8")
    return {one.package: _examined(one, file, place, prepared) for one in some}


def _write(root: Path, some: Sequence[Package], prepared: PreparedMachine) -> None:
    file = root / "Pulumi.local.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    servers = {
        one.server: {
            "source": {"stdio": dict(one.said), "build_args": {"BASE_IMAGE": prepared.base_image}},
            "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
            "env": dict(one.env),
        }
        for one in some
    }
    document["config"]["mcpfleet:fleet"] = {"region": "europe-west1", "platform": "native", "servers": servers}
    file.write_text(yaml.safe_dump(document), encoding="utf-8")


def _examined(package: Package, outputs: Path, place: CloudFolder, prepared: PreparedMachine) -> Found:
    found = Found()
    try:
        for mode in MODES:
            asyncio.run(asyncio.wait_for(_called(package, mode, outputs, place, found), _SECONDS))
    except Exception as error:
        found.fault = _innermost(error)
    cloud = background.find_running(place, "cloud") or {}
    labels = [f"dev.mcpfleet.cloud={cloud.get('id')}", f"dev.mcpfleet.service=mcp-{package.server}"]
    containers: list[Any] = prepared.docker.containers.list(filters={"label": labels})
    for container in containers[:1]:
        found.image = int(container.image.attrs["Size"])
        memory: dict[str, Any] = container.stats(stream=False)["memory_stats"]
        cached: dict[str, int] = memory.get("stats", {})
        found.memory = int(memory.get("usage", 0)) - cached.get("inactive_file", cached.get("total_inactive_file", 0))
    return found


async def _called(package: Package, mode: str, outputs: Path, place: CloudFolder, found: Found) -> None:
    arguments = ["-m", "mcpfleet.cli", "connect", package.server, "--outputs", str(outputs)]
    arguments += ["--credentials", str(place.credentials / "ada.json")]
    # Whatever the server writes goes to its log.
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=arguments)), mode=mode) as client:
        tools = (await client.list_tools()).tools
        found.tools = len(tools)
        if not tools:
            raise ValueError("it lists no tool")
        tool = min(tools, key=_harm)
        try:
            failed = (await client.call_tool(tool.name, dict(package.arguments))).is_error
        except MCPError as error:
            if "mcpfleet" in str(error.error.data):
                raise  # of connect, not of the server
            failed = True
        found.called[mode] = f"`{tool.name}`" + (" (its own error)" if failed else "")


def _harm(tool: Tool) -> tuple[int, bool]:
    """Which tool is called: one that wants no arguments, and says that it reads only."""
    schema: dict[str, Any] = tool.input_schema
    hints = tool.annotations
    return len(schema.get("required") or ()), not (hints is not None and hints.read_only_hint)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]


def row(package: Package, found: Found) -> str:
    """What was found of a package, as a row of the table in Markdown."""
    called = " · ".join(dict.fromkeys(found.called.values())) if len(found.called) == len(MODES) else ""
    cells = [package.package, str(found.tools), called or f"{_FAILS}{found.fault.splitlines()[0][:80]}"]
    cells += [f"{found.image / 1e6:.0f}", f"{found.memory / 2**20:.0f}", package.needed]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write(page: Path, rows: Sequence[tuple[Package, Found]]) -> None:
    """Put the rows, and today's date, between the two comments of the page; rows of other packages stay there."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(_BEGIN)
    old, _, tail = rest.partition(_END)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines() if line.startswith("| ")}
    known |= {package.package: row(package, found) for package, found in rows}
    lines = [known[one.package] for one in PACKAGES if one.package in known]
    works = sum(f" | {_FAILS}" not in line for line in lines)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    said = f"{today}: of {len(lines)} packages {works} were listed and called in both revisions."
    titles = "| package | tools | called | image, MB | memory, MiB | what it needed |"
    table = "\n".join([said, "", titles, "|---|---|---|---|---|---|", *lines])
    page.write_text(f"{head}{_BEGIN}{table}\n{_END}{tail}", encoding="utf-8")

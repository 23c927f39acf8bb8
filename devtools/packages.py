"""`./dev packages`: deploys well-known servers from npm and PyPI behind the bridge, lists their tools and calls one.

It uses a separate local cloud, deploys a few packages at a time, and calls them through `mcpfleet connect` as a desktop
client does, in the newest protocol version and in the older versions. It writes the table in docs/packages.md. The keys
are fake: a tool that calls a service returns its own error, which counts as a result.
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

from devtools.bench.up import copy_program
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
_BATCH_SIZE: Final = 4
_SECONDS: Final = 120.0
_FAKE_KEY: Final = "481516234200"
"""A fake key: a number, which mcpfleet doesn't reject as a plain secret."""


@dataclass(frozen=True)
class Package:
    """A package to try.

    Attributes:
        stdio: The fleet's `stdio` source.
        env: Environment variables that it needs to start.
        arguments: The arguments of the tool call.
    """

    stdio: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def package(self) -> str:
        """The package with its version."""
        return str(self.stdio.get("npm") or self.stdio["pypi"])

    @property
    def server_name(self) -> str:
        """The server's name in the fleet."""
        name = re.split(r"(?<!^)@|==|\[", self.package)[0]
        return re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].lower())[:20].strip("-")

    @property
    def requirements(self) -> str:
        """The fleet's other options for the package, in Markdown."""
        other_options = {key: value for key, value in self.stdio.items() if key not in ("npm", "pypi")}
        parts = [f"`{key}: {to_yaml(value)}`" for key, value in other_options.items()]
        return ", ".join([*parts, *(f"`{name}`" for name in self.env)]) or "nothing"


@dataclass
class Result:
    """The result of trying a package.

    Attributes:
        tools: The number of tools that it lists.
        calls: The tool that was called, and the kind of result, by protocol version.
        image: The size of its image in bytes.
        memory: The memory of its container after the calls in bytes.
        error: Why it doesn't work; empty if it works.
    """

    tools: int = 0
    calls: dict[str, str] = field(default_factory=dict[str, str])
    image: int = 0
    memory: int = 0
    error: str = ""


def npm(package: str, *variables: str, calls: Mapping[str, Any] | None = None, **options: Any) -> Package:
    """An npm package; *variables* get a fake key, and the tool call gets the arguments *calls*."""
    return Package({"npm": package, **options}, dict.fromkeys(variables, _FAKE_KEY), arguments=calls or {})


def pypi(package: str, *variables: str, calls: Mapping[str, Any] | None = None, **options: Any) -> Package:
    """A PyPI package; *variables* get a fake key, and the tool call gets the arguments *calls*."""
    return Package({"pypi": package, **options}, dict.fromkeys(variables, _FAKE_KEY), arguments=calls or {})


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


def try_packages(phases: Phases, origin: CloudFolder, prepared: PreparedMachine, names: Sequence[str] = ()) -> None:
    """Try all packages, or those whose names contain one of *names*, and update their rows in the table.

    Raises:
        SetupError: A package doesn't work; the table is written all the same.
    """
    chosen = [package for package in PACKAGES if not names or any(name in package.package for name in names)]
    checkout = replace(
        origin, root=copy_program(origin, "packages"), state=origin.state / "packages", port=origin.port + 130
    )
    results: dict[str, Result] = {}
    try:
        with stack.start_cloud(phases, checkout, prepared) as engine:
            stack.publish_base_image(phases, checkout, prepared)
            for first in range(0, len(chosen), _BATCH_SIZE):
                batch = chosen[first : first + _BATCH_SIZE]
                with phases.phase(", ".join(package.server_name for package in batch)):
                    results |= _deploy_and_call(batch, checkout, prepared, engine)
    finally:
        stack.destroy(phases, checkout, prepared, force=True)
        shutil.rmtree(checkout.root)
    rows = [(package, results[package.package]) for package in chosen]
    write_page(origin.root / PAGE, rows)
    faults = [f"{package.package}: {result.error}" for package, result in rows if result.error]
    if faults:
        raise SetupError(
            "\n".join(faults), "add what the package needs to devtools/packages.py, or remove the package."
        )


def _deploy_and_call(
    batch: Sequence[Package], checkout: CloudFolder, prepared: PreparedMachine, engine: PulumiStack
) -> dict[str, Result]:
    """Deploy a batch of packages together, or each by itself if that fails, and call them."""
    quiet = Phases(Console(quiet=True))
    _write_config(checkout.root, batch, prepared)
    try:
        outputs = stack.deploy(quiet, engine).outputs
    except SetupError as error:
        if len(batch) == 1:
            return {batch[0].package: Result(error=str(error))}
        return {
            name: result
            for package in batch
            for name, result in _deploy_and_call([package], checkout, prepared, engine).items()
        }
    file = checkout.state / "outputs.json"
    file.write_text(json.dumps(outputs), encoding="utf-8")
    return {result.package: _examine(result, file, checkout, prepared) for result in batch}


def _write_config(root: Path, batch: Sequence[Package], prepared: PreparedMachine) -> None:
    file = root / "Pulumi.local.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    servers = {
        package.server_name: {
            "source": {"stdio": dict(package.stdio), "build_args": {"BASE_IMAGE": prepared.base_image}},
            "access": {"iam": {"invokers": ["user:ada@mcpfleet.test"]}},
            "env": dict(package.env),
        }
        for package in batch
    }
    document["config"]["mcpfleet:fleet"] = {"region": "europe-west1", "platform": "native", "servers": servers}
    file.write_text(yaml.safe_dump(document), encoding="utf-8")


def _examine(package: Package, outputs: Path, checkout: CloudFolder, prepared: PreparedMachine) -> Result:
    result = Result()
    try:
        for mode in MODES:
            asyncio.run(asyncio.wait_for(_call_tool(package, mode, outputs, checkout, result), _SECONDS))
    except Exception as error:
        result.error = _innermost_error(error)
    cloud = background.find_running(checkout, "cloud") or {}
    labels = [f"dev.mcpfleet.cloud={cloud.get('id')}", f"dev.mcpfleet.service=mcp-{package.server_name}"]
    containers: list[Any] = prepared.docker.containers.list(filters={"label": labels})
    for container in containers[:1]:
        result.image = int(container.image.attrs["Size"])
        memory: dict[str, Any] = container.stats(stream=False)["memory_stats"]
        cached: dict[str, int] = memory.get("stats", {})
        result.memory = int(memory.get("usage", 0)) - cached.get("inactive_file", cached.get("total_inactive_file", 0))
    return result


async def _call_tool(package: Package, mode: str, outputs: Path, checkout: CloudFolder, result: Result) -> None:
    arguments = ["-m", "mcpfleet.cli", "connect", package.server_name, "--outputs", str(outputs)]
    arguments += ["--credentials", str(checkout.credentials / "ada.json")]
    # The server's stderr goes to its log.
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=arguments)), mode=mode) as client:
        tools = (await client.list_tools()).tools
        result.tools = len(tools)
        if not tools:
            raise ValueError("the server lists no tools")
        tool = min(tools, key=_risk)
        try:
            failed = (await client.call_tool(tool.name, dict(package.arguments))).is_error
        except MCPError as error:
            if "mcpfleet" in str(error.error.data):
                raise  # an error of `mcpfleet connect`, not of the server
            failed = True
        result.calls[mode] = f"`{tool.name}`" + (" (its own error)" if failed else "")


def _risk(tool: Tool) -> tuple[int, bool]:
    """The sort key for the tool to call: prefers tools without required arguments, and read-only tools."""
    schema: dict[str, Any] = tool.input_schema
    hints = tool.annotations
    return len(schema.get("required") or ()), not (hints is not None and hints.read_only_hint)


def _innermost_error(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]


def format_row(package: Package, result: Result) -> str:
    """A package's result as a row of the table in Markdown."""
    called = " · ".join(dict.fromkeys(result.calls.values())) if len(result.calls) == len(MODES) else ""
    cells = [package.package, str(result.tools), called or f"{_FAILS}{result.error.splitlines()[0][:80]}"]
    cells += [f"{result.image / 1e6:.0f}", f"{result.memory / 2**20:.0f}", package.requirements]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write_page(page: Path, rows: Sequence[tuple[Package, Result]]) -> None:
    """Update the rows and the date between the two comments of the page; rows of other packages stay."""
    text = page.read_text(encoding="utf-8")
    head, _, remainder = text.partition(_BEGIN)
    old, _, tail = remainder.partition(_END)
    lines_by_package = {
        line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines() if line.startswith("| ")
    }
    lines_by_package |= {package.package: format_row(package, result) for package, result in rows}
    lines = [
        lines_by_package[known_package.package]
        for known_package in PACKAGES
        if known_package.package in lines_by_package
    ]
    works = sum(f" | {_FAILS}" not in line for line in lines)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    summary = f"{today}: of {len(lines)} packages {works} were listed and called in both revisions."
    titles = "| package | tools | called | image, MB | memory, MiB | what it needed |"
    table = "\n".join([summary, "", titles, "|---|---|---|---|---|---|", *lines])
    page.write_text(f"{head}{_BEGIN}{table}\n{_END}{tail}", encoding="utf-8")

"""Whether a server speaks stdio, as far as its files say so; nothing of it is run to find out.

A server that offers HTTP besides (an option, a variable, another file) is not taken for one that speaks stdio alone.
"""

import re
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.manifests import transports

_PYTHON_STDIO: Final = re.compile(
    r"\bstdio_server\s*\(|\brun_stdio_async\s*\(|\btransport\s*=\s*[\"']stdio[\"']|\.run\(\s*[\"']stdio[\"']"
)
_PYTHON_SDK: Final = re.compile(r"^\s*from\s+mcp\.server(?:\.(?:fastmcp|mcpserver))?\s+import\b", re.MULTILINE)
_PYTHON_PLAIN_RUN: Final = re.compile(r"\.run\(\s*\)")
_PYTHON_HTTP: Final = re.compile(
    r"streamable|http_app|sse_app|run_sse|[\"']sse[\"']|[\"']http[\"']|uvicorn|hypercorn|gunicorn|http\.server|aiohttp|FastAPI"
    r"|Starlette|\btransport\s*=\s*(?![\"']stdio)|--transport|--http|TRANSPORT|\bPORT\b|mcpfleet_server"
    r"|from\s+[\w.]*\.\w*(?:http|sse)\w*\s+import|\b\w+_(?:http|sse)\w*\s*\("
)
_NODE_STDIO: Final = re.compile(r"\bnew\s+StdioServerTransport\b|transportType\s*:\s*[\"']stdio[\"']")
_NODE_HTTP: Final = re.compile(
    r"StreamableHTTP|SSEServerTransport|createServer\s*\(|\.listen\s*\(|[\"'](?:express|hono|fastify|koa)[\"']|httpStream"
    r"|Bun\.serve|Deno\.serve|\bPORT\b|mcp-handler|createMcpHandler|\b\w+(?:Http|Sse)\w*\s*\("
    r"|[\"'][./][^\"'\n]*(?:http|sse)[^\"'\n]*[\"']|--http|--transport"
)
_TESTS: Final = re.compile(r"(?:^|/)(?:tests?|__tests__|examples?|docs|scripts)/|(?:^|/)test_|[._](?:test|spec)\.")


def stdio_sign(layout: Layout) -> str | None:
    """What says that a server speaks stdio and nothing else, in words; None where nothing does."""
    if "http" in transports(layout).values():
        return None
    code = {name: content for name, content in layout.code.items() if not _TESTS.search(name)}
    if any((_PYTHON_HTTP if name.endswith(".py") else _NODE_HTTP).search(content) for name, content in code.items()):
        return None
    for name, content in sorted(code.items()):
        if name.endswith(".py"):
            if found := _PYTHON_STDIO.search(content):
                return f"{name} has {_shown(found[0])}"
            if _PYTHON_SDK.search(content) and _PYTHON_PLAIN_RUN.search(content):
                return f"{name} calls run() of the MCP SDK without a transport"
        elif found := _NODE_STDIO.search(content):
            return f"{name} has {_shown(found[0])}"
    return _of_manifests(layout)


def _shown(found: str) -> str:
    return " ".join(found.split()).strip("(. ")


def _of_manifests(layout: Layout) -> str | None:
    """What a file for desktop clients and registries says."""
    start = table(layout.yaml("smithery.yaml"), "startCommand")
    if start.get("type") == "stdio":
        return "smithery.yaml says type: stdio"
    packages = layout.json("server.json").get("packages")
    kinds = (
        [text(table(one, "transport").get("type")) for one in cast("list[Any]", packages)[:20]]
        if isinstance(packages, list)
        else []
    )
    if kinds and set(kinds) == {"stdio"}:
        return "server.json says transport: stdio"
    if table(layout.json("manifest.json"), "server", "mcp_config").get("command"):
        return "manifest.json is a desktop extension's"
    return None

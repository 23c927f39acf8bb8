"""Detects from a server's files whether it speaks only stdio. Nothing is run to find out.

A server that also offers HTTP (by an option, a variable or another file) doesn't count.
"""

import re
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.layout import Layout, table, text
from pulumi_mcpfleet.sources.manifests import find_transports

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


def find_stdio_sign(layout: Layout) -> str | None:
    """Return a description of the sign that a server speaks only stdio; None if there is none."""
    if "http" in find_transports(layout).values():
        return None
    code = {name: content for name, content in layout.code.items() if not _TESTS.search(name)}
    if any((_PYTHON_HTTP if name.endswith(".py") else _NODE_HTTP).search(content) for name, content in code.items()):
        return None
    for name, content in sorted(code.items()):
        if name.endswith(".py"):
            if match := _PYTHON_STDIO.search(content):
                return f"{name} has {_collapse(match[0])}"
            if _PYTHON_SDK.search(content) and _PYTHON_PLAIN_RUN.search(content):
                return f"{name} calls run() of the MCP SDK without a transport"
        elif match := _NODE_STDIO.search(content):
            return f"{name} has {_collapse(match[0])}"
    return _find_manifest_sign(layout)


def _collapse(code: str) -> str:
    return " ".join(code.split()).strip("(. ")


def _find_manifest_sign(layout: Layout) -> str | None:
    """Return the sign in a manifest for desktop clients or registries; None if there is none."""
    start = table(layout.yaml("smithery.yaml"), "startCommand")
    if start.get("type") == "stdio":
        return "smithery.yaml says type: stdio"
    packages = layout.json("server.json").get("packages")
    kinds = (
        [text(table(package, "transport").get("type")) for package in cast("list[Any]", packages)[:20]]
        if isinstance(packages, list)
        else []
    )
    if kinds and set(kinds) == {"stdio"}:
        return "server.json says transport: stdio"
    if table(layout.json("manifest.json"), "server", "mcp_config").get("command"):
        return "manifest.json is a desktop extension's"
    return None

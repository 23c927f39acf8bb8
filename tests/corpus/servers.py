"""Servers for the layouts. Each has the tool `shout`, which returns its `text` in capital letters."""

import json
import textwrap

_ANSWER = """
def answer(message):
    tool = {"name": "shout", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}
    info = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    said = message.get("params", {}).get("arguments", {}).get("text", "")
    content = [{"type": "text", "text": IniConfig("x", data=f"[a]\\nb = {said.upper()}")["a"]["b"]}]
    results = {"initialize": info, "tools/list": {"tools": [tool]}, "tools/call": {"content": content}}
    return {"jsonrpc": "2.0", "id": message["id"], "result": results.get(message["method"], {})}
"""

PY_HTTP = f'''"""Speaks MCP over HTTP by the standard library, and needs one package."""
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from iniconfig import IniConfig
{_ANSWER}
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(405)
        self.send_header("content-length", "0")
        self.end_headers()
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        newer = self.headers.get("mcp-protocol-version", "") > "2025-11-25"
        error = {{"code": -32000, "message": "Bad Request: Unsupported protocol version"}}
        refused = {{"jsonrpc": "2.0", "id": None, "error": error}}
        said = refused if newer else answer(message) if "id" in message else None
        body = json.dumps(said).encode() if said else b""
        self.send_response(400 if newer else 200 if body else 202)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
def main():
    ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
if __name__ == "__main__":
    main()
'''

PY_STDIO = f'''"""Speaks MCP over stdio by the standard library, and needs one package."""
import json, sys
from iniconfig import IniConfig
{_ANSWER}
def main():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            print(json.dumps(answer(message)), flush=True)
if __name__ == "__main__":
    main()
'''

_TOOL = """
from fastmcp import FastMCP
mcp = FastMCP("tiny")
@mcp.tool
def shout(text: str) -> str:
    return text.upper()
"""
FASTMCP = f"""{_TOOL}
def main():
    mcp.run()
if __name__ == "__main__":
    main()
"""
FASTMCP_OBJECT = _TOOL
"""With neither a main guard nor a call that serves."""
FASTMCP_APP = f"{_TOOL}app = mcp.http_app(stateless_http=True)\n"

SDK_STDIO = """
from mcp.server import MCPServer
server = MCPServer("tiny")
@server.tool()
def shout(text: str) -> str:
    return text.upper()
def main():
    server.run()
if __name__ == "__main__":
    main()
"""
SDK_ONE = SDK_STDIO.replace("from mcp.server import MCPServer", "from mcp.server.fastmcp import FastMCP").replace(
    "MCPServer(", "FastMCP("
)
"""As it was written for the SDK's first major version."""

NODE_HTTP = textwrap.dedent("""\
    const http = require("node:http");
    const ms = require("ms");
    const serverInfo = { name: "tiny", version: String(ms("1s")) };
    const schema = { type: "object", properties: { text: { type: "string" } } };
    const results = {
      initialize: () => ({ protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo }),
      "tools/list": () => ({ tools: [{ name: "shout", inputSchema: schema }] }),
      "tools/call": (params) => ({ content: [{ type: "text", text: params.arguments.text.toUpperCase() }] }),
    };
    http.createServer((request, response) => {
      if (request.method !== "POST") return response.writeHead(405).end();
      let body = "";
      request.on("data", (chunk) => (body += chunk));
      request.on("end", () => {
        const { id, method, params } = JSON.parse(body || "{}");
        if ((request.headers["mcp-protocol-version"] ?? "") > "2025-11-25") {
          const error = { code: -32000, message: "Bad Request: Unsupported protocol version" };
          response.writeHead(400, { "content-type": "application/json" });
          return response.end(JSON.stringify({ jsonrpc: "2.0", id: null, error }));
        }
        response.writeHead(id === undefined ? 202 : 200, { "content-type": "application/json" });
        const result = results[method] ? results[method](params) : {};
        response.end(id === undefined ? "" : JSON.stringify({ jsonrpc: "2.0", id, result }));
      });
    }).listen(Number(process.env.PORT), "0.0.0.0");
    """)
NODE_TS = f"// @ts-nocheck\n{NODE_HTTP}"

_SRI = "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="
_MS = {"version": "2.1.3", "resolved": "https://registry.npmjs.org/ms/-/ms-2.1.3.tgz", "integrity": _SRI}
NPM_LOCK = json.dumps(
    {
        "name": "weather",
        "version": "1.0.0",
        "lockfileVersion": 3,
        "requires": True,
        "packages": {
            "": {"name": "weather", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}},
            "node_modules/ms": _MS,
        },
    }
)
PNPM_LOCK = f"""\
lockfileVersion: '9.0'
settings:
  autoInstallPeers: true
  excludeLinksFromLockfile: false
importers:
  .:
    dependencies:
      ms:
        specifier: 2.1.3
        version: 2.1.3
packages:
  ms@2.1.3:
    resolution: {{integrity: {_SRI}}}
snapshots:
  ms@2.1.3: {{}}
"""
YARN_LOCK = f"""\
# yarn lockfile v1


ms@2.1.3:
  version "2.1.3"
  resolved "https://registry.yarnpkg.com/ms/-/ms-2.1.3.tgz#574c8138ce1d2b5861f0b44579dbadd60c6615b2"
  integrity {_SRI}
"""


def package(**members: object) -> str:
    """A package.json that needs one package."""
    return json.dumps({"name": "weather", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}, **members})


def project(
    name: str = "weather-mcp",
    needs: str = '"iniconfig==2.1.0"',
    python: str = ">=3.10",
    script: str = "",
    build: str = "hatchling",
    more: str = "",
) -> str:
    """A pyproject.toml; with *script* as what its script calls, and *build* as what builds it."""
    text = f'[project]\nname = "{name}"\nversion = "0.1.0"\nrequires-python = "{python}"\ndependencies = [{needs}]\n'
    text += f'[project.scripts]\n{name} = "{script}"\n' if script else ""
    if build == "hatchling":
        text += '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    elif build:
        text += f'[build-system]\nrequires = ["{build}"]\nbuild-backend = "{build}.build_meta"\n'
    return text + more


PACKAGE = {"pyproject.toml": project(script="weather_mcp:main"), "src/weather_mcp/__init__.py": PY_HTTP}
"""A Python package with a script, and no lock file."""
PLAIN = {"requirements.txt": "iniconfig==2.1.0\n", "server.py": PY_HTTP}
NPM = {"package.json": package(main="index.js"), "package-lock.json": NPM_LOCK, "index.js": NODE_HTTP}

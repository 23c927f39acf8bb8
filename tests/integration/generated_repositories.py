"""Small repositories without a Dockerfile, one for each kind of lock file, and a Git server for them."""

import base64
import http.server
import ipaddress
import json
import os
import ssl
import subprocess
import textwrap
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.corpus.servers import PNPM_LOCK, YARN_LOCK

TOKEN = "ghp-a-token-that-nobody-may-see"
PASSWORD = "a-password-of-whoever-deploys"
# As they are, and as HTTP and Secret Manager carry them.
HIDDEN = (
    TOKEN,
    PASSWORD,
    base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode(),
    base64.b64encode(TOKEN.encode()).decode(),
)

# Speaks MCP until 2025-11-25 by what Node.js has, and needs one package without any of its own.
NODE_SERVER = """
    import http from "node:http";
    import ms from "ms";
    const unsupported = { code: -32000, message: "Bad Request: Unsupported protocol version" };
    const serverInfo = { name: "tiny", version: "1" };
    const info = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo };
    const tool = { name: "milliseconds", inputSchema: { type: "object", properties: { text: { type: "string" } } } };
    const answers = {
      initialize: () => info,
      ping: () => ({}),
      "tools/list": () => ({ tools: [tool] }),
      "tools/call": ({ arguments: given }) => ({ content: [{ type: "text", text: String(ms(given.text ?? "1s")) }] }),
    };
    http.createServer((request, response) => {
      let body = "";
      request.on("data", (chunk) => (body += chunk));
      request.on("end", () => {
        const say = (status, said) => {
          response.writeHead(status, { "content-type": "application/json" });
          response.end(said && JSON.stringify({ jsonrpc: "2.0", ...said }));
        };
        if (request.method !== "POST") return say(405);
        const { id, method, params } = JSON.parse(body);
        const version = request.headers["mcp-protocol-version"] ?? info.protocolVersion;
        if (version > info.protocolVersion) return say(400, { id: null, error: unsupported });
        if (id === undefined) return say(202);
        if (!answers[method]) return say(200, { id, error: { code: -32601, message: "no such method" } });
        say(200, { id, result: answers[method](params ?? {}) });
      });
    }).listen(Number(process.env.PORT), "0.0.0.0");
    """

# The same by Python's standard library; its one package reads an ini file.
PYTHON_SERVER = """
    import json, os
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from iniconfig import IniConfig
    UNSUPPORTED = "Bad Request: Unsupported protocol version"
    INFO = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
    TOOL = {"name": "value", "inputSchema": {"type": "object", "properties": {"ini": {"type": "string"}}}}
    def value(params):
        ini = params["arguments"].get("ini", "[a]\\nb = 1")
        return {"content": [{"type": "text", "text": IniConfig("x", data=ini)["a"]["b"]}]}
    ANSWERS = {
        "initialize": lambda _: INFO,
        "ping": lambda _: {},
        "tools/list": lambda _: {"tools": [TOOL]},
        "tools/call": value,
    }
    class Handler(BaseHTTPRequestHandler):
        def say(self, status, said=None):
            body = json.dumps({"jsonrpc": "2.0", **said}).encode() if said else b""
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def do_GET(self): self.say(405)
        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.headers.get("mcp-protocol-version", "") > INFO["protocolVersion"]:
                return self.say(400, {"id": None, "error": {"code": -32000, "message": UNSUPPORTED}})
            if "id" not in message:
                return self.say(202)
            answer = ANSWERS.get(message["method"])
            if answer is None:
                return self.say(200, {"id": message["id"], "error": {"code": -32601, "message": "no such method"}})
            self.say(200, {"id": message["id"], "result": answer(message.get("params", {}))})
    ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
    """

_PACKAGE = {"version": "1.0.0", "type": "module", "main": "server.js", "dependencies": {"ms": "2.1.3"}}


def _node(name, lock, text):
    return {"package.json": json.dumps({"name": name, **_PACKAGE}), "server.js": NODE_SERVER, lock: text}


PNPM = _node("pnpm", "pnpm-lock.yaml", PNPM_LOCK)
YARN = _node("yarn", "yarn.lock", YARN_LOCK)
YARN_BERRY = _node(
    "berry",
    "yarn.lock",
    """
    # This file is generated by running "yarn install" inside your project.
    # Manual changes might be lost - proceed with caution!

    __metadata:
      version: 8
      cacheKey: 10c0

    "berry@workspace:.":
      version: 0.0.0-use.local
      resolution: "berry@workspace:."
      dependencies:
        ms: "npm:2.1.3"
      languageName: unknown
      linkType: soft

    "ms@npm:2.1.3":
      version: 2.1.3
      resolution: "ms@npm:2.1.3"
      checksum: 10c0/d924b57e7312b3b63ad21fc5b3dc0af5e78d61a1fc7cfb5457edaf26326bf62be5307cc87ffb6862ef1c2b33b0233cdb5d4f01c4c958cc0d660948b65a287a48
      languageName: node
      linkType: hard
    """,  # noqa: E501
)
# The index by its name: what poetry asks of PyPI itself beyond that is more than every mirror answers.
POETRY = {
    "server.py": PYTHON_SERVER,
    "pyproject.toml": """
        [project]
        name = "poetry"
        version = "1.0.0"
        requires-python = ">=3.13"
        dependencies = ["iniconfig (==2.1.0)"]

        [tool.poetry]
        package-mode = false

        [[tool.poetry.source]]
        name = "index"
        url = "https://pypi.org/simple/"
        priority = "primary"
        """,
    "poetry.lock": """
        [[package]]
        name = "iniconfig"
        version = "2.1.0"
        description = "brain-dead simple config-ini parsing"
        optional = false
        python-versions = ">=3.8"
        groups = ["main"]
        files = [
            {file = "iniconfig-2.1.0-py3-none-any.whl", hash = "sha256:9deba5723312380e77435581c6bf4935c94cbfab9b1ed33ef8d238ea168eb760"},
            {file = "iniconfig-2.1.0.tar.gz", hash = "sha256:3abbd2e30b36733fee78f9c7f7308f2d0050e88f0087fd25c2645f63c773e1c7"},
        ]

        [package.source]
        type = "legacy"
        url = "https://pypi.org/simple"
        reference = "index"

        [metadata]
        lock-version = "2.1"
        python-versions = ">=3.13"
        content-hash = "1b2ac8428d440bb1030df37d0a0ce9eba0044e680612cfc21a91ca5084982aa5"
        """,  # noqa: E501
}
PLAIN = {"requirements.txt": "iniconfig==2.1.0\n", "server.py": PYTHON_SERVER}

STDIO = {
    "requirements.txt": "mcp==2.3.0\n",
    "server.py": """
        import os, sys
        from mcp.server.mcpserver import MCPServer
        server = MCPServer("stdio")
        @server.tool()
        def arguments() -> str:
            return f"{sys.argv[1:]} as {os.getuid()}"
        server.run("stdio")
        """,
}

# Speaks MCP by the standard library alone.
RAW = """
    import json, os, sys
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        schema = {"type": "object", "properties": {}}
        info = {"name": "raw", "version": "1"}
        result = {
            "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info},
            "tools/list": {"tools": [{"name": "who", "inputSchema": schema}]},
            "tools/call": {"content": [{"type": "text", "text": f"user {os.getuid()}"}]},
        }.get(message["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
    """


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@acme.dev")
    done = subprocess.run(["git", *identity, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text).strip() + "\n")


def commit(folder):
    """Make a folder a repository with one commit, which is also the tag v1.0.0."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "-a", "v1.0.0", "-m", "first")


class PrivateGit:
    """A git server that requires a password: over TLS, by git's `http-backend`.

    At each request it looks through the command lines of this machine for what it must not find there.
    """

    def __init__(self, repositories: Path, place: Path) -> None:
        self.repositories = repositories
        self.authority = place / "git.pem"
        self.let_in: list[str] = []
        self.large: dict[str, bytes] = {}
        self.large_are_at = ""
        self.refused = 0
        self.seen_in_argv: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._certificate(place))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.answer(self)

            do_POST = do_GET  # noqa: N815 - as the library calls it

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request):
        self.seen_in_argv += [line for line in command_lines() if any(word in line for word in HIDDEN)]
        scheme, _, said = request.headers.get("authorization", "").partition(" ")
        user, _, password = base64.b64decode(said).decode().partition(":") if scheme == "Basic" else ("", "", "")
        if password not in (TOKEN, PASSWORD):
            self.refused += 1
            request.send_response(401)
            request.send_header("www-authenticate", 'Basic realm="git"')
            request.send_header("content-length", "0")
            request.end_headers()
            return
        self.let_in.append(user)
        path, _, query = request.path.partition("?")
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        if "/info/lfs/" in path:
            self._answer_large_files(request, path, body)
            return
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            timeout=60,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(self.repositories),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": request.command,
                "CONTENT_TYPE": request.headers.get("content-type", ""),
                "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
                "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
                "REMOTE_USER": user,
                # It is the test's own folder, whoever this test runs as.
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _answer_large_files(self, request, path, body):
        """The batch API of Git LFS, and the files themselves by their names."""
        content = self.large.get(path.rpartition("/")[2], b"")
        if path.endswith("/objects/batch"):
            place = f"{self.large_are_at or self.url}{path.removesuffix('/objects/batch')}/large"
            wanted = json.loads(body)["objects"]
            found = [{**item, "actions": {"download": {"href": f"{place}/{item['oid']}"}}} for item in wanted]
            content = json.dumps({"transfer": "basic", "objects": found}).encode()
        request.send_response(200)
        request.send_header("content-type", "application/vnd.git-lfs+json")
        request.send_header("content-length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _certificate(self, place):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "git")])
        now = datetime.now(UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
            .add_extension(address, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = place / "git.key"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return self.authority, secret


def command_lines():
    """Return the command lines of all processes of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue

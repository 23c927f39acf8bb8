"""A hostile server, and programs whose resources are measured while they talk to it."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MCPFLEET = str(Path(sys.executable).with_name("mcpfleet"))
LIMIT = 2**20  # bytes of an answer that the programs take here
MEMORY = 400 * 2**20  # far above what they need, far below what the server sends
SECONDS = 2  # of one check
_AT_ONCE = 3
BOUND = 90  # seconds; only a broken build waits this long
FLOOD = 700 * 2**20  # bytes that the server is ready to send

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"content-type: application/json\r\n"
STREAM = OK + b"content-type: text/event-stream\r\n"
REFUSED = b"HTTP/1.1 400 No\r\ncontent-type: text/event-stream\r\n"
EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n'
BLOCK = b"x" * 65536


def flood(head, first, block=BLOCK):
    yield head + b"connection: close\r\n\r\n" + first
    for _ in range(FLOOD // len(block)):
        yield block


def drip(head, piece, *, before=False):
    yield head if before else head + b"connection: close\r\n\r\n"
    while True:
        yield b"x: y\r\n" if before else piece
        time.sleep(0.05)


def bomb(_asked):
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packed.compress(b" " * 2**20) for _ in range(300)) + packed.flush()
    yield JSON + b"connection: close\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def headers(_asked):
    yield OK
    for number in range(FLOOD // 65536):
        yield b"".join(b"x-%d-%d: %s\r\n" % (number, at, b"y" * 990) for at in range(64))


def interim(_asked):
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 500


def away(where):
    return lambda asked: iter(
        [b"HTTP/1.1 307 Away\r\nconnection: close\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n" % where(asked).encode()]
    )


def pages(asked):
    """A server like others, but that its list of tools has no end."""
    match asked.message.get("method"):
        case "initialize":
            about = {"name": "pages", "version": "1"}
            said = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}
            answer = {"result": said}
        case "tools/list":
            cursor = int(asked.message.get("params", {}).get("cursor") or 0)
            tools = [{"name": f"t{cursor}-{at}", "description": "x" * 20_000, "inputSchema": {}} for at in range(10)]
            for tool in tools:
                tool["inputSchema"] = {"type": "object"}
            answer = {"result": {"tools": tools, "nextCursor": str(cursor + 1)}}
        case _:
            answer = {"error": {"code": -32601, "message": "no such method"}}
    if "id" not in asked.message:
        yield b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        return
    body = json.dumps({"jsonrpc": "2.0", "id": asked.message["id"], **answer}).encode()
    yield JSON + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body


ATTACKS = {
    "a body without end": lambda _: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":"'),
    "a body that says it is short": lambda _: flood(JSON + b"content-length: 10\r\n", b""),
    "a body of objects": lambda _: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":[', b"{}," * 20000),
    "a whole body of objects": lambda _: iter(
        [
            JSON + b"connection: close\r\n\r\n",
            b'{"jsonrpc":"2.0","id":1,"result":{"tools":[' + b"{}," * 300_000 + b"{}]}}",
        ]
    ),
    "a body nested deeply": lambda _: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":', b"[" * 65536),
    "a line without end in a stream": lambda _: flood(STREAM, b"data: "),
    "an event without end": lambda _: flood(STREAM, b"", b"data: " + b"x" * 1000 + b"\n"),
    "events without end": lambda _: flood(STREAM, b"", EVENT * 500),
    "a refusal that streams without end": lambda _: flood(REFUSED, b"", EVENT * 500),
    "a body that drips": lambda _: drip(JSON, b" "),
    "a stream that drips": lambda _: drip(STREAM, b": \n"),
    "headers that drip": lambda _: drip(OK, b"", before=True),
    "headers without end": headers,
    "a bomb": bomb,
    "nothing": lambda _: iter(()),
    "no HTTP": lambda _: flood(b"\x00\xff", b""),
    "a date that there is not": lambda _: iter(
        [JSON + b"date: Mon, 99 Foo 99999999999999 99:99:99 +9999\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"]
    ),
    "an id of a million digits": lambda _: iter(
        [JSON + b"connection: close\r\n\r\n" + b'{"jsonrpc":"2.0","result":{},"id":' + b"9" * 1_000_000 + b"}"]
    ),
    "an escape in an error": lambda _: iter(
        [
            b"HTTP/1.1 500 \x1b[2J\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n",
            b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"\\u001b[2J\\n',
            "✓ all checks passed".encode(),
            b'"}}\x1b[2J',
        ]
    ),
    "interim answers without end": interim,
    "a redirect to another port": away(lambda asked: asked.server.elsewhere),
    "a redirect to another name": away(lambda asked: asked.server.url.replace("127.0.0.1", "localhost")),
    "a redirect to a file": away(lambda _: "file:///etc/passwd"),
    "a redirect in circles": away(lambda asked: asked.server.url),
    "pages without end": pages,
}


@dataclass(frozen=True)
class Asked:
    """A request, and the server that got it."""

    server: "Hostile"
    head: bytes
    body: bytes

    @property
    def message(self):
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def secret(self):
        """Whether the request has a secret that is for one origin only."""
        head = self.head.lower()
        return b"bearer ey" in head or b"bearer ya29" in head or b"refresh_token" in self.body


class Hostile:
    """Answers every request by one attack.

    Attributes:
        url: Its MCP URL.
        elsewhere: Another origin of its own, whose requests it answers by nothing.
        leaked: The requests that came under another origin with what was for the first.
        asked: How many requests came.
    """

    def __init__(self, attack):
        self._attack = attack
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.url, self.elsewhere = (f"http://127.0.0.1:{item.getsockname()[1]}/mcp" for item in self._sockets)
        self.leaked, self.asked = [], 0
        self._open, self._changed = 0, threading.Condition()
        for one in self._sockets:
            threading.Thread(target=self._accept, args=(one,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        self._count(1)
        try:
            with connection:
                asked = self._read(connection)
                if asked is None:
                    return
                self.asked += 1
                if b"host: " + self.url.split("/")[2].encode() not in asked.head.lower():
                    if asked.secret:
                        self.leaked.append(asked.head + asked.body)
                    return
                for piece in self._attack(asked):
                    connection.sendall(piece)
        except OSError:
            return  # hung up, as it should be
        finally:
            self._count(-1)

    def _count(self, change):
        with self._changed:
            self._open += change
            self._changed.notify_all()

    def _read(self, connection):
        """Read a request; None if it is truncated."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := connection.recv(65536)):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        while len(body) < (int(length[1]) if length else 0):
            if not (piece := connection.recv(65536)):
                return None
            body += piece
        return Asked(self, head, body)

    def is_left(self):
        """Wait, and return whether all connections to the server are closed."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, BOUND)

    def close(self):
        for one in self._sockets:
            one.close()


def environment(**more):
    """Return the programs' environment, with their limits."""
    bounds = {"MCPFLEET_MAX_ANSWER": str(LIMIT), "MCPFLEET_CHECK_SECONDS": str(SECONDS)}
    return {**os.environ, **bounds, "PYTHONPATH": str(ROOT), **more}


class Running:
    """A program that goes on until it is stopped."""

    def __init__(self, process, log):
        self._process, self._log = process, log

    @property
    def peak(self):
        """The most memory that it has had, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    @property
    def text(self):
        """The program's output so far."""
        return self._log.read_text("utf-8", "replace")

    def said(self, pattern):
        """Wait for output that matches."""
        began = time.monotonic()
        while (found := re.search(pattern, self.text)) is None:
            assert self._process.poll() is None, self.text
            assert time.monotonic() - began < BOUND, self.text
            time.sleep(0.05)
        return found


@contextmanager
def running(log, *command, **more):
    """Run a program during the block; it must exit when it is stopped."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment(**more), cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield Running(process, log)
        process.send_signal(signal.SIGINT)
        process.wait(BOUND)
    finally:
        process.kill()
        process.wait()


def run(*arguments, stdin=""):
    """Run a program of the desk's; its output, exit code and peak of memory."""
    # A process in between, whose only child it is: so what `resource` says of children is said of it.
    measured = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:])\n"
        "sys.stderr.write(f'\\npeak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}')\n"
        "sys.exit(done.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", measured, MCPFLEET, *arguments],
        input=stdin.encode(),
        env=environment(),
        cwd="/",
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    text, _, peak = (done.stdout + done.stderr).decode("utf-8", "replace").rpartition("\npeak ")
    return text, done.returncode, int(peak) * 1024


def meet_all(meet):
    """Return a future of `meet(server, folder)` for each attack; several run in parallel, as most only wait."""

    def one(attack):
        server = Hostile(attack)
        try:
            with tempfile.TemporaryDirectory() as folder:
                met = meet(server, Path(folder))
        finally:
            server.close()
        assert not server.leaked
        return met

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {name: pool.submit(one, attack) for name, attack in ATTACKS.items()}


def token(**claims):
    """Return a token that these tests don't verify."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"iss": "https://a.dev", "sub": "1", "aud": "http://127.0.0.1", "iat": now, "exp": now + 3600, **claims}
    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


def credentials(tmp_path):
    """The option that names a file with such a token."""
    file = tmp_path / "token"
    file.write_text(token())
    return f"--token-file={file}"


def login(tmp_path, endpoint):
    """A person's login, whose token endpoint this is."""
    file = tmp_path / "login.json"
    info = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    file.write_text(json.dumps({**info, "token_uri": endpoint}))
    return file


def issuing(_asked):
    """Return a valid response of a token endpoint."""
    body = json.dumps({"access_token": "ya29.x", "expires_in": 3599, "id_token": token()}).encode()
    yield JSON + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def refusing(_asked):
    """Return the front end's response to a request without a token."""
    yield b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\nserver: Google Frontend\r\ncontent-length: 0\r\n\r\n"

"""A server that does its worst against the programs of a desk: they end, say why in a line, and stay small."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LIMIT = 2**20  # bytes of an answer that the programs take here
MEMORY = 400 * 2**20  # far above what they need, far below what the server sends
SECONDS = 2  # of one check
BOUND = 90  # seconds; only a broken build waits this long
FLOOD = 700 * 2**20  # bytes that the server is ready to send

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"content-type: application/json\r\n"
STREAM = OK + b"content-type: text/event-stream\r\n"
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


def bomb():
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packed.compress(b" " * 2**20) for _ in range(300)) + packed.flush()
    yield JSON + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def headers():
    yield OK
    for number in range(FLOOD // 65536):
        yield b"".join(b"x-%d-%d: %s\r\n" % (number, at, b"y" * 990) for at in range(64))


ATTACKS = {
    "a body without end": lambda: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":"'),
    "a body that says it is short": lambda: flood(JSON + b"content-length: 10\r\n", b""),
    "a body of objects": lambda: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":[', b"{}," * 20000),
    "a whole body of objects": lambda: iter(
        [
            JSON + b"connection: close\r\n\r\n",
            b'{"jsonrpc":"2.0","id":1,"result":{"tools":[' + b"{}," * 300_000 + b"{}]}}",
        ]
    ),
    "a body nested deeply": lambda: flood(JSON, b'{"jsonrpc":"2.0","id":1,"result":', b"[" * 65536),
    "a line without end in a stream": lambda: flood(STREAM, b"data: "),
    "an event without end": lambda: flood(STREAM, b"", b"data: " + b"x" * 1000 + b"\n"),
    "events without end": lambda: flood(STREAM, b"", b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n' * 500),
    "a body that drips": lambda: drip(JSON, b" "),
    "a stream that drips": lambda: drip(STREAM, b": \n"),
    "headers that drip": lambda: drip(OK, b"", before=True),
    "headers without end": headers,
    "a bomb": bomb,
    "nothing": lambda: iter(()),
    "no HTTP": lambda: flood(b"\x00\xff", b""),
    "a date that there is not": lambda: iter(
        [JSON + b"date: Mon, 99 Foo 99999999999999 99:99:99 +9999\r\ncontent-length: 2\r\n\r\n{}"]
    ),
    "an id of a million digits": lambda: iter(
        [JSON + b"connection: close\r\n\r\n" + b'{"jsonrpc":"2.0","result":{},"id":' + b"9" * 1_000_000 + b"}"]
    ),
    "an escape in an error": lambda: iter(
        [
            b"HTTP/1.1 500 \x1b[2J\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n",
            b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"\\u001b[2J\\n',
            "✓ all checks passed".encode(),
            b'"}}\x1b[2J',
        ]
    ),
}


class Hostile:
    """Answers every request by one attack."""

    def __init__(self, attack):
        self._attack = attack
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection:
            try:
                connection.recv(65536)
                for piece in self._attack():
                    connection.sendall(piece)
            except OSError:
                return  # hung up, as it should be

    def close(self):
        self._socket.close()


@pytest.fixture(params=ATTACKS, ids=lambda name: name.replace(" ", "-"))
def hostile(request):
    server = Hostile(ATTACKS[request.param])
    yield server
    server.close()


def run(*arguments, stdin=""):
    """Run a program of the desk's; its output, exit code and peak of memory."""
    # A process in between, whose only child it is: so what `resource` says of children is said of it.
    measured = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:])\n"
        "sys.stderr.write(f'\\npeak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}')\n"
        "sys.exit(done.returncode)\n"
    )
    environment = {
        **os.environ,
        "MCPFLEET_MAX_ANSWER": str(LIMIT),
        "MCPFLEET_CHECK_SECONDS": str(SECONDS),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", measured, str(Path(sys.executable).with_name("mcpfleet")), *arguments],
        input=stdin.encode(),
        env=environment,
        cwd="/",
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    text, _, peak = (done.stdout + done.stderr).decode("utf-8", "replace").rpartition("\npeak ")
    return text, done.returncode, int(peak) * 1024


def credentials(tmp_path):
    """A token that nobody checks here."""
    import base64

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now = int(time.time())
    claims = {"iss": "https://a.dev", "sub": "1", "aud": "http://127.0.0.1", "iat": now, "exp": now + 3600}
    file = tmp_path / "token"
    file.write_text(f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln")
    return f"--token-file={file}"


@pytest.mark.parametrize("command", ["verify", "doctor"])
def test_a_check_ends_with_a_finding_and_stays_small(hostile, tmp_path, command):
    where = [f"--url={hostile.url}"] if command == "verify" else [hostile.url]
    text, code, peak = run(command, *where, credentials(tmp_path))
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert not any(line.startswith("✓ all checks") for line in text.splitlines())
    assert code == 1
    assert "✗" in text
    assert peak < MEMORY


def test_the_relay_answers_its_client_and_stays_small(hostile, tmp_path):
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "a", "arguments": {}}},
    ]
    call = "".join(json.dumps(line) + "\n" for line in lines)
    text, code, peak = run("connect", f"--url={hostile.url}", credentials(tmp_path), stdin=call)
    assert (code, "Traceback" in text, "\x1b" in text) == (0, False, False)
    for line in text.splitlines():
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert peak < MEMORY

"""The stdio server of the endurance test; it uses only the standard library, to restart fast after a crash."""

import json
import os
import sys
import threading
from typing import Any

_lock = threading.Lock()


def _answer(number: int, result: dict[str, Any]) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + "\n")
        sys.stdout.flush()


def _call(number: int, tool: str, arguments: dict[str, Any]) -> None:
    if tool == "crash":
        os._exit(3)
    text = str(arguments["a"] + arguments["b"]) if tool == "add" else arguments["text"]
    result = {"content": [{"type": "text", "text": text}]}
    if tool == "slow":
        timer = threading.Timer(float(arguments["seconds"]), _answer, (number, result))
        timer.daemon = True
        timer.start()
    else:
        _answer(number, result)


def main() -> None:
    """Respond to each line of stdin."""
    info = {"name": "soak", "version": "1"}
    greeting: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        if message["method"] == "tools/call":
            _call(message["id"], message["params"]["name"], message["params"]["arguments"])
        else:
            _answer(message["id"], greeting if message["method"] == "initialize" else {"tools": []})


if __name__ == "__main__":
    main()

"""The stdio server of the hostile soak: it runs its callers' calls, and notes messages that it should never get.

It uses only the standard library. `shout` prints a caller's text to stdout unchanged, like a server with a forgotten
`print`. Only smuggled messages call `planted`. The environment variable `HOSTILE_NOTES` has the path of the notes.
"""

import json
import os
import sys
import threading
from itertools import count
from typing import Any

_lock = threading.Lock()
_elicitation_ids = count(1)
_waiting: dict[int, tuple[Any, str]] = {}


def _note(text: str) -> None:
    with open(os.environ["HOSTILE_NOTES"], "a", encoding="utf-8") as notes:  # noqa: PTH123 - pathlib slows down the start
        notes.write(f"{text}\n")


def _send(**message: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def _answer(number: Any, text: str) -> None:
    _send(id=number, result={"content": [{"type": "text", "text": text}]})


def _call(number: Any, params: dict[str, Any]) -> None:
    arguments: dict[str, Any] = params.get("arguments") or {}
    meta: dict[str, Any] = params.get("_meta") or {}
    text = str(arguments.get("text", ""))
    token: Any = meta.get("progressToken")
    match params["name"]:
        case "add":
            text = str(arguments["a"] + arguments["b"])
        case "slow":
            timer = threading.Timer(0.02, _answer, (number, text))
            timer.daemon = True
            timer.start()
            return
        case "progress" if token is not None:
            for step in range(3):
                _send(
                    method="notifications/progress", params={"progressToken": token, "progress": step, "message": text}
                )
        case "log":
            _send(method="notifications/message", params={"level": "info", "data": text})
        case "ask":
            ask = next(_elicitation_ids)
            _waiting[ask] = (number, text)
            schema = {"type": "object", "properties": {"reply": {"type": "string"}}}
            _send(id=ask, method="elicitation/create", params={"message": text, "requestedSchema": schema})
            return
        case "shout":
            with _lock:
                sys.stdout.write(str(arguments.get("line", "")) + "\n")
                sys.stdout.flush()
        case "planted":
            _note("a planted call ran")
        case _:
            pass
    _answer(number, text)


def _handle(message: dict[str, Any]) -> None:
    if "method" not in message:
        number, text = _waiting.pop(message.get("id", 0), (None, ""))
        if number is None:
            _note("a response without a request arrived")
            return
        result: dict[str, Any] = message.get("result") or {}
        content: dict[str, Any] = result.get("content") or {}
        _answer(number, f"{text} {content.get('reply', 'declined')}")
    elif message["method"] == "tools/call":
        _call(message.get("id"), message["params"])
    elif message["method"] == "initialize":
        info = {"name": "hostile", "version": "1"}
        capabilities: dict[str, Any] = {"tools": {}, "logging": {}}
        _send(
            id=message["id"], result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        )
    elif "id" in message:
        _send(id=message["id"], result={"tools": []})


def main() -> None:
    """Handle each line. A text stream splits lines at LF, CR and CRLF, so any of them would end a message."""
    for line in sys.stdin:
        try:
            message = json.loads(line)
        except ValueError:
            _note("a line was not JSON")
            continue
        if isinstance(message, dict):
            _handle(message)  # pyright: ignore[reportUnknownArgumentType]


if __name__ == "__main__":
    main()

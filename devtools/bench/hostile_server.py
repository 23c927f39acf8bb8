"""The stdio server of the hostile soak: it does what its callers ask, and notes what nobody should have got to it.

By the standard library alone. `shout` prints a caller's text on stdout as it is, as a server with a forgotten `print`
does; `planted` is called by nobody, but by what was smuggled in. Notes go to the file that `HOSTILE_NOTES` names.
"""

import json
import os
import sys
import threading
from itertools import count
from typing import Any

_lock = threading.Lock()
_asks = count(1)
_waiting: dict[int, tuple[Any, str]] = {}


def _note(what: str) -> None:
    with open(os.environ["HOSTILE_NOTES"], "a", encoding="utf-8") as notes:  # noqa: PTH123 - it starts often: no pathlib
        notes.write(f"{what}\n")


def _say(**message: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def _answer(number: Any, text: str) -> None:
    _say(id=number, result={"content": [{"type": "text", "text": text}]})


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
                _say(
                    method="notifications/progress", params={"progressToken": token, "progress": step, "message": text}
                )
        case "log":
            _say(method="notifications/message", params={"level": "info", "data": text})
        case "ask":
            ask = next(_asks)
            _waiting[ask] = (number, text)
            schema = {"type": "object", "properties": {"reply": {"type": "string"}}}
            _say(id=ask, method="elicitation/create", params={"message": text, "requestedSchema": schema})
            return
        case "shout":
            with _lock:
                sys.stdout.write(str(arguments.get("line", "")) + "\n")
                sys.stdout.flush()
        case "planted":
            _note("a planted call was carried out")
        case _:
            pass
    _answer(number, text)


def _heard(message: dict[str, Any]) -> None:
    if "method" not in message:
        number, text = _waiting.pop(message.get("id", 0), (None, ""))
        if number is None:
            _note("an answer to nothing came")
            return
        result: dict[str, Any] = message.get("result") or {}
        content: dict[str, Any] = result.get("content") or {}
        _answer(number, f"{text} {content.get('reply', 'declined')}")
    elif message["method"] == "tools/call":
        _call(message.get("id"), message["params"])
    elif message["method"] == "initialize":
        info = {"name": "hostile", "version": "1"}
        capabilities: dict[str, Any] = {"tools": {}, "logging": {}}
        _say(
            id=message["id"], result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        )
    elif "id" in message:
        _say(id=message["id"], result={"tools": []})


def main() -> None:
    """Do what each line says. A text stream splits at LF, CR and CRLF, so all of them would frame."""
    for line in sys.stdin:
        try:
            message = json.loads(line)
        except ValueError:
            _note("a line was no JSON")
            continue
        if isinstance(message, dict):
            _heard(message)  # pyright: ignore[reportUnknownArgumentType]


if __name__ == "__main__":
    main()

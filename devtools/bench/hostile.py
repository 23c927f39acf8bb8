"""Many callers of one bridge that try to see, answer or cancel each other's calls.

Every caller has a mark in everything that it sends. A request is "crossed" if a caller gets another caller's mark, a
response with another id or a wrong text, or if the server ran a planted call; it is "hung" if it got no response.
Bodies are compact or indented, with all line ends that JSON allows; the random numbers are the same in every run.
"""

import asyncio
import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

CALLERS: Final = 16
TIMEOUT_SECONDS: Final = 25.0
"""The timeout of each request; the bridge's own limit for a call is lower."""

ENVIRONMENT: Final = {"MCP_ACCESS": "iam", "MCP_STDIO_CALL_SECONDS": "20", "MCP_STDIO_EXCLUSIVE": "8"}
SESSIONS: Final = {**ENVIRONMENT, "MCP_STATELESS": "false", "MCP_STDIO_SESSIONS": "40"}

_JSON: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_LEGACY, _MODERN = "2025-11-25", "2026-07-28"
_TIMED_OUT: Final = -32001
_PREFIX: Final = "io.modelcontextprotocol/"
_MARK: Final = re.compile(r"<<caller (\d+)>>")
_LINE_ENDS: Final = ("\n", "\r\n", "\r", "\n\r")
_SEPARATORS: Final = "\u2028\u2029\u0085"


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        calls: The number of requests.
        answered: Requests that got their own text.
        hung_up: Requests whose caller hung up on purpose.
        refused: Rejected requests, by reason.
        crossed: Cases in which a caller reached another one; must be empty.
        hung: Requests with no or a broken response; must be empty.
        noted: The server's notes about calls and lines that no caller sent; must be empty.
    """

    calls: int = 0
    answered: int = 0
    hung_up: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    crossed: list[str] = field(default_factory=list[str])
    hung: list[str] = field(default_factory=list[str])
    noted: Counter[str] = field(default_factory=Counter[str])

    @property
    def is_clean(self) -> bool:
        """Whether the run has no faults; a run without a rejected request is a fault too, since it attacked nothing."""
        return not self.faults()

    def faults(self) -> list[str]:
        """Descriptions of all faults."""
        noted = [f"the server noted {count} times: {note}" for note, count in self.noted.items()]
        idle = [] if self.refused else ["nothing was refused, so nothing was attacked"]
        return [*self.crossed, *self.hung, *noted, *idle]


class _Caller:
    """One caller with its own connection pool and identity."""

    def __init__(self, url: str, number: int, states: list[tuple[int, str]], outcome: Outcome) -> None:
        self._url = url
        self._number = number
        self._mark = f"<<caller {number}>>"
        self._dice = random.Random(number)  # noqa: S311 - the same attack each time
        self._states = states  # shared, so that callers can use each other's states
        self._outcome = outcome
        self._text_count = 0
        claims = json.dumps({"iss": "https://accounts.google.com", "sub": f"{number}"}).encode()
        payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
        self._identity = {"authorization": f"Bearer e30.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"}
        self.http = httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
        self.session: str | None = None

    # --- attacks --------------------------------------------------------------------------------------------

    async def make_call(self) -> None:
        """Make one call of a random kind."""
        choice = self._dice.random()
        kinds: list[tuple[float, Callable[[], Any]]] = [
            (0.45, self._call_tool),
            (0.65, self._call_with_planted_message),
            (0.72, self._call_with_duplicate_member),
            (0.79, self._call_shout),
            (0.84, self._cancel_other),
            (0.90, self._call_with_elicitation),
            (0.95, self._use_stolen_state),
            (0.97, self._hang_up),
            (1.00, lambda: self._call_tool("progress")),
        ]
        await next(kind for upper_bound, kind in kinds if choice <= upper_bound)()

    async def _call_tool(self, tool: str | None = None) -> None:
        tool = tool or self._dice.choice(("echo", "echo", "slow", "progress", "log"))
        text = self._new_text()
        params = self._params(tool, {"text": text}, token=self._dice.choice((None, 1, 2, "1", text)))
        await self._send_and_judge(tool, self._format_message(self._message(params)), text)

    async def _call_with_planted_message(self) -> None:
        """Send a call with another message as a member's value, on a line of its own."""
        text, end = self._new_text(), self._dice.choice(_LINE_ENDS)
        guess = self._guess_id()
        evil = self._dice.choice(
            (
                {"id": guess, "method": "tools/call", "params": {"name": "planted", "arguments": {"text": text}}},
                {"id": guess, "result": {"content": [{"type": "text", "text": text}]}},
                {"id": guess, "result": {"action": "accept", "content": {"reply": text}}},
                {"method": "notifications/cancelled", "params": {"requestId": guess}},
                {
                    "method": "notifications/progress",
                    "params": {"progressToken": guess, "progress": 1, "message": text},
                },
            )
        )
        params = self._params("echo", {"text": text, "evil": "EVIL"}, token=self._dice.choice((None, guess)))
        position = self._dice.choice(("arguments", "_meta", "params"))
        if position != "arguments":
            params["arguments"] = {"text": text}
            (params.setdefault("_meta", {}) if position == "_meta" else params)["evil"] = "EVIL"
        body = json.dumps(self._message(params)).replace('"EVIL"', end + json.dumps({"jsonrpc": "2.0", **evil}) + end)
        await self._send_and_judge("echo", body, text)

    async def _call_with_duplicate_member(self) -> None:
        """Send a call with a duplicate member, or one with an escaped name: parsers may differ in which they use."""
        text = self._new_text()
        member = self._dice.choice(("id", "method", "params", "arguments", "_meta", "progressToken"))
        message = self._message(self._params("echo", {"text": text}, token=1))
        body = json.dumps(message)
        match = re.search(rf'"{member}": ', body)
        if match is None:
            return await self._call_tool()
        twin = f'"{member[:-1]}\\u{ord(member[-1]):04x}"' if self._dice.random() < 0.5 else f'"{member}"'
        value = {"id": "7", "method": '"tools/call"', "progressToken": str(self._guess_id())}.get(member, "{}")
        body = body[: match.start()] + f"{twin}: {value}, " + body[match.start() :]
        await self._send_and_judge("echo", body, text, ident=None)
        return None

    async def _call_shout(self) -> None:
        """Let the server print a response to another caller's call."""
        text = self._new_text()
        line = json.dumps(
            {"jsonrpc": "2.0", "id": self._guess_id(), "result": {"content": [{"type": "text", "text": text}]}}
        )
        await self._send_and_judge(
            "shout", self._format_message(self._message(self._params("shout", {"text": text, "line": line}))), text
        )

    async def _cancel_other(self) -> None:
        """Cancel another caller's call, by ids that all callers use."""
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": self._dice.choice((1, 2, 3, self._guess_id())), "reason": self._mark},
        }
        await self._post(self._format_message(message), {"mcp-protocol-version": _LEGACY})

    async def _call_with_elicitation(self) -> None:
        """Make a call with an elicitation, and answer it in a second request; other callers can use its state."""
        if self.session is not None:
            return await self._call_tool()
        text = self._new_text()
        params = self._params("ask", {"text": text}, modern=True, elicits=True)
        answer = await self._send_modern("ask", params)
        if answer is None:
            return None
        result = answer.get("result", {})
        if result.get("resultType") != "input_required":
            self._outcome.refused[_error_reason(answer)] += 1
            return None
        state = result["requestState"]
        self._states.append((self._number, state))
        del self._states[:-64]
        await asyncio.sleep(0)
        reply = {key: {"action": "accept", "content": {"reply": self._mark}} for key in result["inputRequests"]}
        answer = await self._send_modern("ask", {**params, "inputResponses": reply, "requestState": state})
        if answer is not None:
            self._judge(answer, f"{text} {self._mark}", 1)
        return None

    async def _use_stolen_state(self) -> None:
        """Continue another caller's call or session."""
        if not self._states:
            return await self._call_tool()
        owner, state = self._dice.choice(self._states)
        if owner == self._number:
            return await self._call_tool()
        if self.session is not None:
            body = self._format_message(self._message(self._params("echo", {"text": self._new_text()})))
            response = await self._post(body, {"mcp-session-id": state, "mcp-protocol-version": _LEGACY})
        else:
            params = self._params("ask", {"text": self._new_text()}, modern=True, elicits=True) | {
                "inputResponses": {"question-1": {"action": "accept", "content": {"reply": self._mark}}},
                "requestState": state,
            }
            response = await self._post(self._format_message(self._message(params)), _modern_headers("ask"))
        if response is not None and response.status_code < 400:
            self._outcome.crossed.append(f"{self._mark} went on with what is of caller {owner}: {response.text[:200]}")
        elif response is not None:
            self._outcome.refused["what is another's"] += 1
        return None

    async def _hang_up(self) -> None:
        body = self._format_message(self._message(self._params("slow", {"text": self._new_text()})))
        self._outcome.calls += 1
        with_timeout = httpx2.Timeout(TIMEOUT_SECONDS, read=0.005)
        try:
            await self.http.post(self._url, content=body.encode(), headers=self._headers("slow"), timeout=with_timeout)
        except httpx2.TimeoutException:
            self._outcome.hung_up += 1
        else:
            self._outcome.answered += 1

    # --- requests -------------------------------------------------------------------------------------------

    async def begin_session(self) -> None:
        """Start a session."""
        params = {"protocolVersion": _LEGACY, "capabilities": {}, "clientInfo": {"name": self._mark, "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        response = await self._post(json.dumps(message), {})
        if response is None or "mcp-session-id" not in response.headers:
            raise ConnectionError(f"no session: {response and response.text}")
        self.session = response.headers["mcp-session-id"]
        self._states.append((self._number, self.session))

    def _new_text(self) -> str:
        self._text_count += 1
        suffix = "".join(self._dice.choices(f'ab"\\{{}}{_SEPARATORS}\n\r\té', k=6))
        return f"{self._mark} {self._text_count} {suffix}"

    def _guess_id(self) -> int:
        return self._dice.choice(
            (self._dice.randrange(1, 40), self._dice.randrange(1, 4000), self._dice.getrandbits(31))
        )

    def _is_modern(self) -> bool:
        return self.session is None and self._number % 2 == 1

    def _params(
        self, tool: str, arguments: Mapping[str, Any], *, token: Any = None, modern: bool = False, elicits: bool = False
    ) -> dict[str, Any]:
        params: dict[str, Any] = {"name": tool, "arguments": dict(arguments)}
        meta: dict[str, Any] = {} if token is None else {"progressToken": token}
        if modern or self._is_modern():
            capabilities: dict[str, Any] = {"elicitation": {}} if elicits or self._number % 4 == 3 else {}
            meta |= {f"{_PREFIX}protocolVersion": _MODERN, f"{_PREFIX}clientCapabilities": capabilities}
        return params | ({"_meta": meta} if meta else {})

    @staticmethod
    def _message(params: Mapping[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def _format_message(self, message: Mapping[str, Any]) -> str:
        """A message, compact or indented, with or without escapes."""
        indent = self._dice.choice((None, None, 1))
        text = json.dumps(message, indent=indent, ensure_ascii=self._dice.random() < 0.5)
        return text if indent is None else text.replace("\n", self._dice.choice(_LINE_ENDS))

    def _headers(self, tool: str) -> dict[str, str]:
        if self.session is not None:
            return {**_JSON, **self._identity, "mcp-session-id": self.session, "mcp-protocol-version": _LEGACY}
        return {**_JSON, **self._identity, **(_modern_headers(tool) if self._is_modern() else _LEGACY_HEADERS)}

    async def _send_and_judge(self, tool: str, body: str, text: str, ident: int | None = 1) -> None:
        response = await self._post(body, self._headers(tool))
        answer = None if response is None else self._read(response)
        if answer is not None:
            self._judge(answer, text, ident)

    async def _send_modern(self, tool: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        response = await self._post(self._format_message(self._message(params)), _modern_headers(tool))
        return None if response is None else self._read(response)

    async def _post(self, body: str, headers: Mapping[str, str]) -> httpx2.Response | None:
        self._outcome.calls += 1
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self.http.post(
                    self._url, content=body.encode(), headers={**_JSON, **self._identity, **headers}
                )
        except (TimeoutError, httpx2.HTTPError) as error:
            self._outcome.hung.append(f"{self._mark}: {error!r} for {body[:300]!r}")
            return None
        for text in (response.text, json.dumps(dict(response.headers))):
            if strangers := {int(number) for number in _MARK.findall(text)} - {self._number}:
                self._outcome.crossed.append(
                    f"{self._mark} sees callers {strangers}: {text[:300]!r} for {body[:300]!r}"
                )
        return response

    def _read(self, response: httpx2.Response) -> dict[str, Any] | None:
        """The last message of a response."""
        text = response.text
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            # Lines end with CR, LF or CRLF, as specified for event streams.
            events = [line[5:] for line in re.split(r"\r\n|\n|\r", text) if line.startswith("data:")]
            text = events[-1] if events else ""
        try:
            message: Any = json.loads(text)
        except ValueError:
            self._outcome.hung.append(f"{self._mark}: {response.status_code} {response.text[:300]!r} is no answer")
            return None
        return message

    def _judge(self, answer: dict[str, Any], text: str, ident: int | None) -> None:
        if "error" in answer:
            if answer["error"].get("code") == _TIMED_OUT:
                self._outcome.hung.append(f"{self._mark} asked {text!r} and was told {_error_reason(answer)!r}")
            else:
                self._outcome.refused[_error_reason(answer)] += 1
            return
        content: list[dict[str, Any]] = answer.get("result", {}).get("content") or [{}]
        if content[0].get("text") != text or (ident is not None and answer.get("id") != ident):
            if ident is None and content[0].get("text") == "":
                self._outcome.refused["the other one of two members was taken"] += 1
                return
            self._outcome.crossed.append(f"{self._mark} asked {text!r} and was answered {json.dumps(answer)[:300]}")
            return
        self._outcome.answered += 1


_LEGACY_HEADERS: Final = {"mcp-protocol-version": _LEGACY}


def _modern_headers(tool: str) -> dict[str, str]:
    return {"mcp-protocol-version": _MODERN, "mcp-method": "tools/call", "mcp-name": tool}


def _error_reason(answer: Mapping[str, Any]) -> str:
    return re.sub(r"[0-9]+", "N", str(answer.get("error", {}).get("message", answer)))[:70]


def attack(url: str, notes: Path, calls: int, *, sessions: bool = False) -> Outcome:
    """Let sixteen callers make *calls* calls to a bridge with `hostile_server.py` and `ENVIRONMENT` or `SESSIONS`.

    Args:
        url: The bridge's MCP endpoint.
        notes: The file with the server's notes.
        calls: The number of calls of all callers.
        sessions: Whether each caller has its own session, and so its own process.
    """
    outcome = asyncio.run(_attack(url, calls, sessions=sessions))
    if notes.exists():
        outcome.noted.update(notes.read_text(encoding="utf-8").splitlines())
    return outcome


async def _attack(url: str, calls: int, *, sessions: bool) -> Outcome:
    outcome, turns = Outcome(), iter(range(calls))
    states: list[tuple[int, str]] = []
    callers = [_Caller(url, number, states, outcome) for number in range(CALLERS)]

    async def keep_calling(caller: _Caller) -> None:
        for _ in turns:
            await caller.make_call()

    try:
        if sessions:
            await asyncio.gather(*(caller.begin_session() for caller in callers))
        await asyncio.gather(*(keep_calling(caller) for caller in callers))
    finally:
        await asyncio.gather(*(caller.http.aclose() for caller in callers))
    return outcome

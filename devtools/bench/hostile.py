"""Many callers of one bridge, each of whom tries to see, to answer or to end another's calls.

Every caller has a mark that stands in whatever it sends. A mark in another caller's answer, an answer under another id,
a text that was not asked for, or a planted call that the server has carried out, is crossed; a call without an answer
is hung. Bodies come compact and printed, with every line end that JSON allows; the dice are the same in every run.
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
BOUND: Final = 25.0
"""Seconds in which each request is answered; the bridge's own limit for a call is lower."""

ENVIRONMENT: Final = {"MCP_ACCESS": "iam", "MCP_STDIO_CALL_SECONDS": "20", "MCP_STDIO_EXCLUSIVE": "8"}
SESSIONS: Final = {**ENVIRONMENT, "MCP_STATELESS": "false", "MCP_STDIO_SESSIONS": "40"}

_JSON: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
_LEGACY, _MODERN = "2025-11-25", "2026-07-28"
_TIMED_OUT: Final = -32001
_PREFIX: Final = "io.modelcontextprotocol/"
_MARK: Final = re.compile(r"<<caller (\d+)>>")
_ENDS: Final = ("\n", "\r\n", "\r", "\n\r")
_SEPARATORS: Final = "\u2028\u2029\u0085"


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        calls: Requests that were made.
        answered: Those that were answered with their own text.
        gone: Those whose caller hung up, on purpose.
        refused: Those that were refused, by reason.
        crossed: What anybody saw or did that is another's; there may be none.
        hung: Requests without an answer, or with a broken one; there may be none.
        noted: What the server noted: calls and lines that nobody has sent it; there may be none.
    """

    calls: int = 0
    answered: int = 0
    gone: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    crossed: list[str] = field(default_factory=list[str])
    hung: list[str] = field(default_factory=list[str])
    noted: Counter[str] = field(default_factory=Counter[str])

    @property
    def clean(self) -> bool:
        """Whether nothing was crossed or hung; a run in which nothing was refused has attacked nothing."""
        return not self.faults()

    def faults(self) -> list[str]:
        """What was wrong, in words."""
        noted = [f"the server noted {count} times: {what}" for what, count in self.noted.items()]
        idle = [] if self.refused else ["nothing was refused, so nothing was attacked"]
        return [*self.crossed, *self.hung, *noted, *idle]


class _Caller:
    """One of them, with a connection pool and an identity of its own."""

    def __init__(self, url: str, number: int, states: list[tuple[int, str]], outcome: Outcome) -> None:
        self._url = url
        self._number = number
        self._mark = f"<<caller {number}>>"
        self._dice = random.Random(number)  # noqa: S311 - the same attack each time
        self._states = states  # of all callers: each may try another's
        self._outcome = outcome
        self._made = 0
        claims = json.dumps({"iss": "https://accounts.google.com", "sub": f"{number}"}).encode()
        payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
        self._identity = {"authorization": f"Bearer e30.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"}
        self.http = httpx2.AsyncClient(timeout=BOUND, trust_env=False)
        self.session: str | None = None

    # --- attacks --------------------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Make one call, of a kind that the dice say."""
        choice = self._dice.random()
        kinds: list[tuple[float, Callable[[], Any]]] = [
            (0.45, self._call),
            (0.65, self._planted),
            (0.72, self._doubled),
            (0.79, self._shout),
            (0.84, self._cancel),
            (0.90, self._ask),
            (0.95, self._stolen),
            (0.97, self._hang_up),
            (1.00, lambda: self._call("progress")),
        ]
        await next(kind for most, kind in kinds if choice <= most)()

    async def _call(self, tool: str | None = None) -> None:
        tool = tool or self._dice.choice(("echo", "echo", "slow", "progress", "log"))
        text = self._text()
        params = self._params(tool, {"text": text}, token=self._dice.choice((None, 1, 2, "1", text)))
        await self._asked(tool, self._printed(self._message(params)), text)

    async def _planted(self) -> None:
        """A request or an answer that would stand on a line of its own, where a member's value may stand."""
        text, end = self._text(), self._dice.choice(_ENDS)
        guess = self._guess()
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
        where = self._dice.choice(("arguments", "_meta", "params"))
        if where != "arguments":
            params["arguments"] = {"text": text}
            (params.setdefault("_meta", {}) if where == "_meta" else params)["evil"] = "EVIL"
        body = json.dumps(self._message(params)).replace('"EVIL"', end + json.dumps({"jsonrpc": "2.0", **evil}) + end)
        await self._asked("echo", body, text)

    async def _doubled(self) -> None:
        """Members that come twice, or under an escaped name: two readers might take different ones."""
        text = self._text()
        other = self._dice.choice(("id", "method", "params", "arguments", "_meta", "progressToken"))
        message = self._message(self._params("echo", {"text": text}, token=1))
        body = json.dumps(message)
        found = re.search(rf'"{other}": ', body)
        if found is None:
            return await self._call()
        twin = f'"{other[:-1]}\\u{ord(other[-1]):04x}"' if self._dice.random() < 0.5 else f'"{other}"'
        value = {"id": "7", "method": '"tools/call"', "progressToken": str(self._guess())}.get(other, "{}")
        body = body[: found.start()] + f"{twin}: {value}, " + body[found.start() :]
        await self._asked("echo", body, text, ident=None)
        return None

    async def _shout(self) -> None:
        """Have the server print an answer to a call of somebody else's."""
        text = self._text()
        line = json.dumps(
            {"jsonrpc": "2.0", "id": self._guess(), "result": {"content": [{"type": "text", "text": text}]}}
        )
        await self._asked(
            "shout", self._printed(self._message(self._params("shout", {"text": text, "line": line}))), text
        )

    async def _cancel(self) -> None:
        """End somebody else's call, by the ids that all use."""
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": self._dice.choice((1, 2, 3, self._guess())), "reason": self._mark},
        }
        await self._post(self._printed(message), {"mcp-protocol-version": _LEGACY})

    async def _ask(self) -> None:
        """A call in which the server asks back, answered in a second request; its state is there for thieves."""
        if self.session is not None:
            return await self._call()
        text = self._text()
        params = self._params("ask", {"text": text}, modern=True, elicits=True)
        answer = await self._modern("ask", params)
        if answer is None:
            return None
        found = answer.get("result", {})
        if found.get("resultType") != "input_required":
            self._outcome.refused[_reason(answer)] += 1
            return None
        state = found["requestState"]
        self._states.append((self._number, state))
        del self._states[:-64]
        await asyncio.sleep(0)
        reply = {key: {"action": "accept", "content": {"reply": self._mark}} for key in found["inputRequests"]}
        answer = await self._modern("ask", {**params, "inputResponses": reply, "requestState": state})
        if answer is not None:
            self._judge(answer, f"{text} {self._mark}", 1)
        return None

    async def _stolen(self) -> None:
        """Go on with a call, or a session, of another caller's."""
        if not self._states:
            return await self._call()
        owner, state = self._dice.choice(self._states)
        if owner == self._number:
            return await self._call()
        if self.session is not None:
            body = self._printed(self._message(self._params("echo", {"text": self._text()})))
            response = await self._post(body, {"mcp-session-id": state, "mcp-protocol-version": _LEGACY})
        else:
            params = self._params("ask", {"text": self._text()}, modern=True, elicits=True) | {
                "inputResponses": {"question-1": {"action": "accept", "content": {"reply": self._mark}}},
                "requestState": state,
            }
            response = await self._post(self._printed(self._message(params)), _headers_of("ask"))
        if response is not None and response.status_code < 400:
            self._outcome.crossed.append(f"{self._mark} went on with what is of caller {owner}: {response.text[:200]}")
        elif response is not None:
            self._outcome.refused["what is another's"] += 1
        return None

    async def _hang_up(self) -> None:
        body = self._printed(self._message(self._params("slow", {"text": self._text()})))
        self._outcome.calls += 1
        with_timeout = httpx2.Timeout(BOUND, read=0.005)
        try:
            await self.http.post(self._url, content=body.encode(), headers=self._headers("slow"), timeout=with_timeout)
        except httpx2.TimeoutException:
            self._outcome.gone += 1
        else:
            self._outcome.answered += 1

    # --- requests -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin a session."""
        params = {"protocolVersion": _LEGACY, "capabilities": {}, "clientInfo": {"name": self._mark, "version": "1"}}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        response = await self._post(json.dumps(message), {})
        if response is None or "mcp-session-id" not in response.headers:
            raise ConnectionError(f"no session: {response and response.text}")
        self.session = response.headers["mcp-session-id"]
        self._states.append((self._number, self.session))

    def _text(self) -> str:
        self._made += 1
        more = "".join(self._dice.choices(f'ab"\\{{}}{_SEPARATORS}\n\r\té', k=6))
        return f"{self._mark} {self._made} {more}"

    def _guess(self) -> int:
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

    def _printed(self, message: Mapping[str, Any]) -> str:
        """A message compact or printed, its texts as escapes or as they are."""
        indent = self._dice.choice((None, None, 1))
        text = json.dumps(message, indent=indent, ensure_ascii=self._dice.random() < 0.5)
        return text if indent is None else text.replace("\n", self._dice.choice(_ENDS))

    def _headers(self, tool: str) -> dict[str, str]:
        if self.session is not None:
            return {**_JSON, **self._identity, "mcp-session-id": self.session, "mcp-protocol-version": _LEGACY}
        return {**_JSON, **self._identity, **(_headers_of(tool) if self._is_modern() else _OLD)}

    async def _asked(self, tool: str, body: str, text: str, ident: int | None = 1) -> None:
        response = await self._post(body, self._headers(tool))
        answer = None if response is None else self._read(response)
        if answer is not None:
            self._judge(answer, text, ident)

    async def _modern(self, tool: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        response = await self._post(self._printed(self._message(params)), _headers_of(tool))
        return None if response is None else self._read(response)

    async def _post(self, body: str, headers: Mapping[str, str]) -> httpx2.Response | None:
        self._outcome.calls += 1
        try:
            async with asyncio.timeout(BOUND):
                response = await self.http.post(
                    self._url, content=body.encode(), headers={**_JSON, **self._identity, **headers}
                )
        except (TimeoutError, httpx2.HTTPError) as error:
            self._outcome.hung.append(f"{self._mark}: {error!r} for {body[:300]!r}")
            return None
        for text in (response.text, json.dumps(dict(response.headers))):
            if strangers := {int(one) for one in _MARK.findall(text)} - {self._number}:
                self._outcome.crossed.append(
                    f"{self._mark} sees callers {strangers}: {text[:300]!r} for {body[:300]!r}"
                )
        return response

    def _read(self, response: httpx2.Response) -> dict[str, Any] | None:
        """The last message of an answer."""
        text = response.text
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            # As the specification of event streams splits: at CR, LF and CRLF.
            events = [line[5:] for line in re.split(r"\r\n|\n|\r", text) if line.startswith("data:")]
            text = events[-1] if events else ""
        try:
            found: Any = json.loads(text)
        except ValueError:
            self._outcome.hung.append(f"{self._mark}: {response.status_code} {response.text[:300]!r} is no answer")
            return None
        return found

    def _judge(self, answer: dict[str, Any], text: str, ident: int | None) -> None:
        if "error" in answer:
            if answer["error"].get("code") == _TIMED_OUT:
                self._outcome.hung.append(f"{self._mark} asked {text!r} and was told {_reason(answer)!r}")
            else:
                self._outcome.refused[_reason(answer)] += 1
            return
        content: list[dict[str, Any]] = answer.get("result", {}).get("content") or [{}]
        if content[0].get("text") != text or (ident is not None and answer.get("id") != ident):
            if ident is None and content[0].get("text") == "":
                self._outcome.refused["the other one of two members was taken"] += 1
                return
            self._outcome.crossed.append(f"{self._mark} asked {text!r} and was answered {json.dumps(answer)[:300]}")
            return
        self._outcome.answered += 1


_OLD: Final = {"mcp-protocol-version": _LEGACY}


def _headers_of(tool: str) -> dict[str, str]:
    return {"mcp-protocol-version": _MODERN, "mcp-method": "tools/call", "mcp-name": tool}


def _reason(answer: Mapping[str, Any]) -> str:
    return re.sub(r"[0-9]+", "N", str(answer.get("error", {}).get("message", answer)))[:70]


def attack(url: str, notes: Path, calls: int, *, sessions: bool = False) -> Outcome:
    """Have sixteen callers make so many calls of a bridge before `hostile_server.py`, with `ENVIRONMENT` or `SESSIONS`.

    Args:
        url: The bridge's MCP endpoint.
        notes: The file that the server writes its notes to.
        calls: How many turns, in all.
        sessions: Whether each caller has a session, and so a process, of its own.
    """
    outcome = asyncio.run(_attacked(url, calls, sessions=sessions))
    if notes.exists():
        outcome.noted.update(notes.read_text(encoding="utf-8").splitlines())
    return outcome


async def _attacked(url: str, calls: int, *, sessions: bool) -> Outcome:
    outcome, turns = Outcome(), iter(range(calls))
    states: list[tuple[int, str]] = []
    callers = [_Caller(url, number, states, outcome) for number in range(CALLERS)]

    async def keep_calling(caller: _Caller) -> None:
        for _ in turns:
            await caller.turn()

    try:
        if sessions:
            await asyncio.gather(*(caller.begin() for caller in callers))
        await asyncio.gather(*(keep_calling(caller) for caller in callers))
    finally:
        await asyncio.gather(*(caller.http.aclose() for caller in callers))
    return outcome

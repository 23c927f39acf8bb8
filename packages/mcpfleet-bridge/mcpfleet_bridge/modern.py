"""The revision 2026-07-28, translated for a server that knows the handshake era only.

There is no session: each request says in its `_meta` what the client can do, and headers repeat what a
gateway would route by. A server that wants to ask the client something can't: instead the call is answered
with what it asks (`input_required`), stays under way here, and goes on when the client repeats it with its
answers. Such calls have a child of their own meanwhile (`leases.py`); all others share the pool.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpfleet_bridge import messages
from mcpfleet_bridge.child import Call, Child
from mcpfleet_bridge.headers import Params, Request, check
from mcpfleet_bridge.leases import Lease, Leases, Profile, Question
from mcpfleet_bridge.listening import Listening
from mcpfleet_bridge.messages import STATUS, Message, MessageError, Refused, Unavailable
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.replies import Exchange, Outcome
from mcpfleet_bridge.settings import Settings

VERSION: Final = "2026-07-28"

_META: Final = "io.modelcontextprotocol/"
_ASKABLE: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The requests that may be answered with questions."""

_CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"}
)
"""The results that must say how long they hold: not at all, for the server says nothing of it."""

_REMOVED: Final = frozenset(
    {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "roots/list"}
)
_MATTERS: Final = ("sampling", "elicitation", "roots")
_RESOURCE_NOT_FOUND: Final = -32002
MAX_SUSPENDED: Final = 1000
YIELDS_AFTER: Final = 10.0
"""Seconds after which a call that waits for its client gives way, where another one waits for a process."""
TOGETHER: Final = 0.01
"""Seconds in which what a server asks at once comes in: one round for the client, not one for each question."""


class _Peek(msgspec.Struct):
    """The members of a result that the translation would add."""

    resultType: Raw | UnsetType = UNSET  # noqa: N815
    ttlMs: Raw | UnsetType = UNSET  # noqa: N815
    meta: Raw | UnsetType = msgspec.field(default=UNSET, name="_meta")


class _Code(msgspec.Struct):
    code: int = messages.INTERNAL_ERROR


_peek: Final = msgspec.json.Decoder(_Peek)
_code: Final = msgspec.json.Decoder(_Code)


@dataclass
class _Suspended:
    """A call that waits for its client's answers."""

    lease: Lease
    call: Call
    method: str
    name: str | None
    since: float
    until: float
    questions: dict[str, Question] = field(default_factory=dict[str, Question])


class Modern:
    """Serves clients of the revision 2026-07-28."""

    def __init__(self, settings: Settings, pool: Pool, leases: Leases, listening: Listening) -> None:
        self._settings = settings
        self._pool = pool
        self._leases = leases
        self._listening = listening
        self._suspended: dict[str, _Suspended] = {}
        self._prefixes: dict[tuple[bytes, bool], bytes] = {}
        self._params = Params()
        listening.on_tools_changed = self._params.forget

    async def handle(self, exchange: Exchange, message: Message) -> None:
        """Answer one message.

        Raises:
            Refused: The message can't be passed on.
        """
        if message.method is UNSET:
            raise MessageError(messages.INVALID_REQUEST, "an answer is sent with the request that it belongs to")
        identity = messages.request_id(message)
        version = exchange.headers[b"mcp-protocol-version"].decode("latin-1")
        if identity is None and version == VERSION:
            await exchange.empty(202)  # this revision defines none that would do something
            return
        if identity is None:
            identity = b"null"
        request = check(exchange.headers, message, (VERSION,))
        if request.method in _REMOVED:
            raise Refused(messages.METHOD_NOT_FOUND, f"{request.method} is not part of {VERSION}")
        if request.method == "server/discover":
            await self._discover(exchange, identity)
        elif request.method == "subscriptions/listen":
            await self._listening.serve(exchange, identity, request.members)
        else:
            if request.method == "tools/call" and (child := self._pool.pick()) is not None:
                await self._params.check(child, request.name, request.members, exchange.headers)
            await self._call(exchange, identity, request)

    # --- calls --------------------------------------------------------------------------------------------

    async def _call(self, exchange: Exchange, identity: bytes, request: Request) -> None:
        members, meta = request.members, request.meta
        state = messages.text(members.pop("requestState", None))
        answers = members.pop("inputResponses", None)
        profile = _profile(meta)
        kept = {key: value for key, value in meta.items() if not key.startswith(_META)}
        if state is not None:
            await self._resume(exchange, identity, request, state, answers, kept.get("progressToken"))
            return
        del members["_meta"]
        if kept:
            members["_meta"] = Raw(messages.dump(kept))
        call = Call(identity, request.method, messages.dump(members))
        if profile is None:
            render = partial(self._rendered, call.method)
            await self._pool.answer(exchange, call, self._settings.call_seconds, render)
            return
        lease = await self._leases.lease(profile, exchange.caller)
        lease.call = call
        lease.child.submit(call)
        await self._go_on(exchange, lease, call, request.name)

    async def _go_on(self, exchange: Exchange, lease: Lease, call: Call, name: str | None) -> None:
        outcome = Outcome.VANISHED
        try:
            while True:
                outcome = await exchange.follow(call, self._settings.call_seconds, lambda: lease.questions)
                if outcome is not Outcome.ASKED or call.method in _ASKABLE:
                    break
                self._decline(lease, f"{call.method} can't be answered with a question")
        finally:
            if outcome is not Outcome.ASKED:
                if call.answer is None:
                    # It may go on working, and talking, for a client that is no longer there.
                    lease.reusable = False
                    lease.child.forget(call, outcome.value)
                await asyncio.shield(self._leases.give_back(lease))
        if outcome is Outcome.ASKED:
            await self._suspend(exchange, lease, call, name)
            return
        render = partial(self._rendered, call.method, lease.child)
        await exchange.conclude(call, outcome, self._settings.call_seconds, render)

    @staticmethod
    def _decline(lease: Lease, reason: str) -> None:
        while lease.questions:
            question = lease.questions.popleft()
            lease.child.respond(question.identity, error=messages.error(messages.METHOD_NOT_FOUND, reason))

    async def _suspend(self, exchange: Exchange, lease: Lease, call: Call, name: str | None) -> None:
        now = asyncio.get_running_loop().time()
        suspended = _Suspended(lease, call, call.method, name, now, now + self._settings.call_seconds)
        if len(self._suspended) >= MAX_SUSPENDED:
            self._abandon(suspended, "too many calls wait for their clients")
            raise Unavailable("Too many calls wait for their clients")
        state = secrets.token_urlsafe(32)
        self._suspended[state] = suspended  # before anything is awaited: from here on it ends by itself
        await asyncio.sleep(TOGETHER)
        requests: dict[str, object] = {}
        while lease.questions:
            question = lease.questions.popleft()
            key = f"question-{len(requests) + 1}"
            suspended.questions[key] = question
            requests[key] = {"method": question.method} | (
                {} if question.params is None else {"params": Raw(question.params)}
            )
        body = messages.dump({"resultType": "input_required", "inputRequests": requests, "requestState": state})
        await exchange.finish(200, messages.result(call.identity, body))

    async def _resume(
        self, exchange: Exchange, identity: bytes, request: Request, state: str, answers: Raw | None, token: Raw | None
    ) -> None:
        suspended = self._suspended.get(state)
        asked = (request.method, request.name, exchange.caller)
        if suspended is None or (suspended.method, suspended.name, suspended.lease.caller) != asked:
            # It is another caller's, another instance has it, or it waited too long: the client begins anew.
            raise Refused(messages.INVALID_PARAMS, "Invalid or expired requestState")
        given = messages.fields(answers or b"{}")
        del self._suspended[state]  # once only
        lease, call = suspended.lease, suspended.call
        for key, question in suspended.questions.items():
            if key in given:
                lease.child.respond(question.identity, result=bytes(given[key]))
            else:
                lease.questions.append(question)  # asked again
        call.identity = identity
        call.progress = None if token is None else bytes(token)
        await self._go_on(exchange, lease, call, request.name)

    async def expire(self, now: float) -> None:
        """Give up the calls whose clients have not come back, sooner where others wait for their processes."""
        for state in [state for state, one in self._suspended.items() if one.until <= now]:
            self._abandon(self._suspended.pop(state), "the client did not answer")
        patient = [state for state, one in self._suspended.items() if one.since + YIELDS_AFTER <= now]
        anybody, own = self._leases.waiting()
        for state in patient:
            caller = self._suspended[state].lease.caller
            if own[caller] > 0:
                own[caller] -= 1
            elif anybody > 0:
                anybody -= 1
            else:
                continue
            self._abandon(self._suspended.pop(state), "the client did not answer, and another one waits")
        await asyncio.sleep(0)

    def _abandon(self, suspended: _Suspended, reason: str) -> None:
        suspended.lease.reusable = False
        suspended.lease.child.forget(suspended.call, reason)
        task = asyncio.ensure_future(self._leases.give_back(suspended.lease))
        task.add_done_callback(lambda _: None)

    # --- answers ------------------------------------------------------------------------------------------

    async def _discover(self, exchange: Exchange, identity: bytes) -> None:
        child = self._pool.pick() or await self._pool.borrow(exchange.caller)
        greeting = messages.fields(child.greeting)
        capabilities = messages.fields(greeting.get("capabilities", Raw(b"{}")))
        capabilities.pop("tasks", None)  # an extension of its own by now
        found: dict[str, object] = {"supportedVersions": [VERSION], "capabilities": capabilities}
        if "instructions" in greeting:
            found["instructions"] = greeting["instructions"]
        _, _, body = self._rendered("server/discover", child, True, messages.dump(found))
        await exchange.finish(200, messages.result(identity, body))

    def _rendered(self, method: str, child: Child, succeeded: bool, body: bytes) -> tuple[int, bool, bytes]:
        """The server's answer in this revision's words, with its HTTP status."""
        if succeeded:
            return 200, True, self._complete(child, method in _CACHEABLE, body)
        try:
            code = _code.decode(body).code
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return 200, False, messages.error(messages.INTERNAL_ERROR, "The MCP server's error can't be read")
        if code == _RESOURCE_NOT_FOUND and method == "resources/read":
            members = messages.fields(body)
            members["code"] = Raw(b"%d" % messages.INVALID_PARAMS)
            return 400, False, messages.dump(members)
        return STATUS.get(code, 200), False, body

    def _complete(self, child: Child, cacheable: bool, body: bytes) -> bytes:
        """A result with what this revision adds to it, put before what the server has said."""
        try:
            found = _peek.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return body  # no object; the client will say so
        if found.resultType is not UNSET:
            return body  # the server knows the revision by itself
        if found.meta is UNSET and found.ttlMs is UNSET:
            prefix = self._prefix(child, cacheable)
        elif cacheable and found.ttlMs is UNSET:
            prefix = b'{"resultType":"complete","ttlMs":0,"cacheScope":"private"'
        else:
            prefix = b'{"resultType":"complete"'
        rest = body.lstrip()[1:].lstrip()
        return prefix + (rest if rest.startswith(b"}") else b"," + rest)

    def _prefix(self, child: Child, cacheable: bool) -> bytes:
        key = (child.greeting, cacheable)
        prefix = self._prefixes.get(key)
        if prefix is None:
            if len(self._prefixes) > 64:  # a server whose greeting changes every time
                self._prefixes.clear()
            hints = b',"ttlMs":0,"cacheScope":"private"' if cacheable else b""
            info = messages.fields(child.greeting).get("serverInfo")
            meta = b"" if info is None else b',"_meta":{"%sserverInfo":%s}' % (_META.encode(), bytes(info))
            prefix = self._prefixes[key] = b'{"resultType":"complete"%s%s' % (hints, meta)
        return prefix


def _profile(meta: messages.Json) -> Profile | None:
    """What a child of the client's own has to know; None if the client has no need of one."""
    capabilities = messages.fields(meta[f"{_META}clientCapabilities"])
    matter = {name: capabilities[name] for name in _MATTERS if name in capabilities}
    level = messages.text(meta.get(f"{_META}logLevel"))
    if not matter and level is None:
        return None
    return Profile(messages.dump(matter), level)

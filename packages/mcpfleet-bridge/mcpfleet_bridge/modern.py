"""Protocol version 2026-07-28 ("modern"), translated for a server that needs a handshake.

There are no sessions: `_meta` of each request has the client's capabilities, and headers repeat the parts that gateways
route by. A server can't send a request to the client. Instead, the result of the call contains the server's questions
(`input_required`). The call stays in progress here, and continues when the client repeats it with the answers. Such
calls have their own child meanwhile (`leases.py`); all others share the pool.
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
from mcpfleet_bridge.exchange import Exchange, Outcome
from mcpfleet_bridge.headers import CheckedRequest, ParamHeaders, check_request
from mcpfleet_bridge.leases import Lease, Leases, Profile, Question
from mcpfleet_bridge.messages import HTTP_STATUS, Message, MessageError, RefusedError, UnavailableError
from mcpfleet_bridge.pool import Pool
from mcpfleet_bridge.settings import Settings
from mcpfleet_bridge.subscriptions import Subscriptions

VERSION: Final = "2026-07-28"

_META: Final = "io.modelcontextprotocol/"
_INPUT_METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The requests whose result may be `input_required`."""

_CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"}
)
"""The requests whose results must say how long they can be cached: not at all, because the server does not say it."""

_REMOVED: Final = frozenset(
    {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "roots/list"}
)
_CLIENT_FEATURES: Final = ("sampling", "elicitation", "roots")
_RESOURCE_NOT_FOUND: Final = -32002
MAX_SUSPENDED: Final = 1000
YIELD_SECONDS: Final = 10.0
"""Seconds after which a call that waits for its client gives up its process, if another call needs it."""
BATCH_SECONDS: Final = 0.01
"""Seconds to wait for further questions, so that questions asked together reach the client in one round."""


class _ResultMembers(msgspec.Struct):
    """The members of a result that the translation may add."""

    resultType: Raw | UnsetType = UNSET  # noqa: N815
    ttlMs: Raw | UnsetType = UNSET  # noqa: N815
    meta: Raw | UnsetType = msgspec.field(default=UNSET, name="_meta")


class _ErrorCode(msgspec.Struct):
    code: int = messages.INTERNAL_ERROR


_result_decoder: Final = msgspec.json.Decoder(_ResultMembers)
_error_decoder: Final = msgspec.json.Decoder(_ErrorCode)


@dataclass
class _SuspendedCall:
    """A call that waits for the answers of its client."""

    lease: Lease
    call: Call
    method: str
    name: str | None
    suspended_at: float
    deadline: float
    questions: dict[str, Question] = field(default_factory=dict[str, Question])


class ModernHandler:
    """Serves clients of protocol version 2026-07-28."""

    def __init__(self, settings: Settings, pool: Pool, leases: Leases, subscriptions: Subscriptions) -> None:
        self._settings = settings
        self._pool = pool
        self._leases = leases
        self._subscriptions = subscriptions
        self._suspended: dict[str, _SuspendedCall] = {}
        self._prefixes: dict[tuple[bytes, bool], bytes] = {}
        self._param_headers = ParamHeaders()
        subscriptions.on_tools_changed = self._param_headers.reset

    async def handle(self, exchange: Exchange, message: Message) -> None:
        """Handle one message.

        Raises:
            RefusedError: The message can't be passed on.
        """
        if message.method is UNSET:
            raise MessageError(messages.INVALID_REQUEST, "send a response in inputResponses of the repeated request")
        request_id = messages.request_id(message)
        version = exchange.headers[b"mcp-protocol-version"].decode("latin-1")
        if request_id is None and version == VERSION:
            await exchange.send_empty(202)  # no notification of this version has an effect
            return
        if request_id is None:
            request_id = b"null"
        request = check_request(exchange.headers, message, (VERSION,))
        if request.method in _REMOVED:
            raise RefusedError(messages.METHOD_NOT_FOUND, f"{request.method} is not part of {VERSION}")
        if request.method == "server/discover":
            await self._discover(exchange, request_id)
        elif request.method == "subscriptions/listen":
            await self._subscriptions.serve(exchange, request_id, request.members)
        else:
            if request.method == "tools/call" and (child := self._pool.find_child()) is not None:
                await self._param_headers.check(child, request.name, request.members, exchange.headers)
            await self._handle_call(exchange, request_id, request)

    # --- calls --------------------------------------------------------------------------------------------

    async def _handle_call(self, exchange: Exchange, request_id: bytes, request: CheckedRequest) -> None:
        members, meta = request.members, request.meta
        state = messages.text(members.pop("requestState", None))
        answers = members.pop("inputResponses", None)
        profile = _read_profile(meta)
        forwarded_meta = {key: value for key, value in meta.items() if not key.startswith(_META)}
        if state is not None:
            await self._resume(exchange, request_id, request, state, answers, forwarded_meta.get("progressToken"))
            return
        del members["_meta"]
        if forwarded_meta:
            members["_meta"] = Raw(messages.dump(forwarded_meta))
        call = Call(request_id, request.method, messages.dump(members))
        if profile is None:
            translate = partial(self._translate, call.method)
            await self._pool.serve_call(exchange, call, self._settings.call_seconds, translate)
            return
        lease = await self._leases.acquire(profile, exchange.caller)
        lease.call = call
        lease.child.submit(call)
        await self._continue_call(exchange, lease, call, request.name)

    async def _continue_call(self, exchange: Exchange, lease: Lease, call: Call, name: str | None) -> None:
        outcome = Outcome.DISCONNECTED
        try:
            while True:
                outcome = await exchange.follow(call, self._settings.call_seconds, lambda: lease.questions)
                if outcome is not Outcome.INPUT_REQUIRED or call.method in _INPUT_METHODS:
                    break
                self._decline_questions(lease, f"{call.method} can't be answered with a question")
        finally:
            if outcome is not Outcome.INPUT_REQUIRED:
                if call.answer is None:
                    # The server may continue to work and send messages for a client that has disconnected.
                    lease.is_reusable = False
                    lease.child.cancel(call, outcome.value)
                await asyncio.shield(self._leases.release(lease))
        if outcome is Outcome.INPUT_REQUIRED:
            await self._suspend(exchange, lease, call, name)
            return
        translate = partial(self._translate, call.method, lease.child)
        await exchange.send_outcome(call, outcome, self._settings.call_seconds, translate)

    @staticmethod
    def _decline_questions(lease: Lease, reason: str) -> None:
        while lease.questions:
            question = lease.questions.popleft()
            lease.child.respond(question.request_id, error=messages.error(messages.METHOD_NOT_FOUND, reason))

    async def _suspend(self, exchange: Exchange, lease: Lease, call: Call, name: str | None) -> None:
        now = asyncio.get_running_loop().time()
        suspended = _SuspendedCall(lease, call, call.method, name, now, now + self._settings.call_seconds)
        if len(self._suspended) >= MAX_SUSPENDED:
            self._abandon(suspended, "too many calls wait for their clients")
            raise UnavailableError("Too many calls wait for their clients; try again later")
        state = secrets.token_urlsafe(32)
        self._suspended[state] = suspended  # before the first await: from now on, the call expires by itself
        await asyncio.sleep(BATCH_SECONDS)
        requests: dict[str, object] = {}
        while lease.questions:
            question = lease.questions.popleft()
            key = f"question-{len(requests) + 1}"
            suspended.questions[key] = question
            requests[key] = {"method": question.method} | (
                {} if question.params is None else {"params": Raw(question.params)}
            )
        body = messages.dump({"resultType": "input_required", "inputRequests": requests, "requestState": state})
        await exchange.send_message(200, messages.result(call.request_id, body))

    async def _resume(
        self,
        exchange: Exchange,
        request_id: bytes,
        request: CheckedRequest,
        state: str,
        answers: Raw | None,
        token: Raw | None,
    ) -> None:
        suspended = self._suspended.get(state)
        current = (request.method, request.name, exchange.caller)
        if suspended is None or (suspended.method, suspended.name, suspended.lease.caller) != current:
            # It belongs to another caller or instance, or has expired: the client must start again.
            raise RefusedError(messages.INVALID_PARAMS, "Invalid or expired requestState")
        responses = messages.fields(answers or b"{}")
        del self._suspended[state]  # valid only once
        lease, call = suspended.lease, suspended.call
        for key, question in suspended.questions.items():
            if key in responses:
                lease.child.respond(question.request_id, result=bytes(responses[key]))
            else:
                lease.questions.append(question)  # asked again
        call.request_id = request_id
        call.progress = None if token is None else bytes(token)
        await self._continue_call(exchange, lease, call, request.name)

    async def expire(self, now: float) -> None:
        """Cancel the calls whose clients have not answered in time, earlier if other calls need their processes."""
        for state in [state for state, suspended in self._suspended.items() if suspended.deadline <= now]:
            self._abandon(self._suspended.pop(state), "the client did not answer")
        yielding = [
            state for state, suspended in self._suspended.items() if suspended.suspended_at + YIELD_SECONDS <= now
        ]
        waiting, waiting_by_caller = self._leases.count_waiting()
        for state in yielding:
            caller = self._suspended[state].lease.caller
            if waiting_by_caller[caller] > 0:
                waiting_by_caller[caller] -= 1
            elif waiting > 0:
                waiting -= 1
            else:
                continue
            self._abandon(self._suspended.pop(state), "the client did not answer, and another one waits")
        await asyncio.sleep(0)

    def _abandon(self, suspended: _SuspendedCall, reason: str) -> None:
        suspended.lease.is_reusable = False
        suspended.lease.child.cancel(suspended.call, reason)
        task = asyncio.ensure_future(self._leases.release(suspended.lease))
        task.add_done_callback(lambda _: None)

    # --- results ------------------------------------------------------------------------------------------

    async def _discover(self, exchange: Exchange, request_id: bytes) -> None:
        child = self._pool.find_child() or await self._pool.wait_for_child(exchange.caller)
        initialize_result = messages.fields(child.initialize_result)
        capabilities = messages.fields(initialize_result.get("capabilities", Raw(b"{}")))
        capabilities.pop("tasks", None)  # a separate extension in this version
        result: dict[str, object] = {"supportedVersions": [VERSION], "capabilities": capabilities}
        if "instructions" in initialize_result:
            result["instructions"] = initialize_result["instructions"]
        _, _, body = self._translate("server/discover", child, True, messages.dump(result))
        await exchange.send_message(200, messages.result(request_id, body))

    def _translate(self, method: str, child: Child, succeeded: bool, body: bytes) -> tuple[int, bool, bytes]:
        """Translate the server's result or error to this protocol version, with its HTTP status."""
        if succeeded:
            return 200, True, self._complete_result(child, method in _CACHEABLE, body)
        try:
            code = _error_decoder.decode(body).code
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return 200, False, messages.error(messages.INTERNAL_ERROR, "The MCP server's error can't be read")
        if code == _RESOURCE_NOT_FOUND and method == "resources/read":
            members = messages.fields(body)
            members["code"] = Raw(b"%d" % messages.INVALID_PARAMS)
            return 400, False, messages.dump(members)
        return HTTP_STATUS.get(code, 200), False, body

    def _complete_result(self, child: Child, cacheable: bool, body: bytes) -> bytes:
        """Return a result with the members that this protocol version adds, before the server's own."""
        try:
            members = _result_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return body  # not an object; the client will report that
        if members.resultType is not UNSET:
            return body  # the server speaks this version itself
        if members.meta is UNSET and members.ttlMs is UNSET:
            prefix = self._find_prefix(child, cacheable)
        elif cacheable and members.ttlMs is UNSET:
            prefix = b'{"resultType":"complete","ttlMs":0,"cacheScope":"private"'
        else:
            prefix = b'{"resultType":"complete"'
        rest = body.lstrip()[1:].lstrip()
        return prefix + (rest if rest.startswith(b"}") else b"," + rest)

    def _find_prefix(self, child: Child, cacheable: bool) -> bytes:
        key = (child.initialize_result, cacheable)
        prefix = self._prefixes.get(key)
        if prefix is None:
            if len(self._prefixes) > 64:  # a server whose InitializeResult changes every time
                self._prefixes.clear()
            hints = b',"ttlMs":0,"cacheScope":"private"' if cacheable else b""
            info = messages.fields(child.initialize_result).get("serverInfo")
            meta = b"" if info is None else b',"_meta":{"%sserverInfo":%s}' % (_META.encode(), bytes(info))
            prefix = self._prefixes[key] = b'{"resultType":"complete"%s%s' % (hints, meta)
        return prefix


def _read_profile(meta: messages.Json) -> Profile | None:
    """Return the profile for a client's own child, or None if the client does not need one."""
    capabilities = messages.fields(meta[f"{_META}clientCapabilities"])
    features = {name: capabilities[name] for name in _CLIENT_FEATURES if name in capabilities}
    level = messages.text(meta.get(f"{_META}logLevel"))
    if not features and level is None:
        return None
    return Profile(messages.dump(features), level)

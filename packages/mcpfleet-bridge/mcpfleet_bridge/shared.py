"""A call in a process that all clients share: what both eras of the protocol have in common."""

from collections.abc import Callable

from mcpfleet_bridge import messages
from mcpfleet_bridge.calls import Call
from mcpfleet_bridge.child import Child
from mcpfleet_bridge.pool import Pool, Unavailable
from mcpfleet_bridge.replies import Exchange, Outcome

Render = Callable[[Child, bool, bytes], tuple[int, bool, bytes]]
"""Makes an era's answer of the server's: from child, success and body to HTTP status, success and body."""


def as_it_is(child: Child, succeeded: bool, body: bytes) -> tuple[int, bool, bytes]:
    """The server's own words."""
    return 200, succeeded, body


async def answer_shared(pool: Pool, exchange: Exchange, call: Call, seconds: float, render: Render = as_it_is) -> None:
    """Have a shared child answer a call.

    A client that goes away has its call cancelled: without a session nobody could ever fetch the answer.
    """
    try:
        child = pool.pick() or await pool.borrow(exchange.caller)
    except Unavailable as reason:
        await exchange.refuse(503, messages.SERVER_BUSY, str(reason), call.identity)
        return
    child.submit(call)
    outcome = Outcome.VANISHED
    try:
        outcome = await exchange.follow(call, seconds)
    finally:
        if call.answer is None:
            child.forget(call, outcome.value)
        pool.released()
    await conclude(exchange, child, call, outcome, seconds, render)


async def conclude(
    exchange: Exchange, child: Child, call: Call, outcome: Outcome, seconds: float, render: Render = as_it_is
) -> None:
    """Send what following a call has come to."""
    if outcome is Outcome.VANISHED:
        return
    if call.answer is None:
        late = messages.error(messages.TIMED_OUT, f"The MCP server did not answer within {seconds:g} s")
        await exchange.finish(200, messages.failure(call.identity, late))
        return
    status, succeeded, body = render(child, *call.answer)
    make = messages.result if succeeded else messages.failure
    await exchange.finish(status, make(call.identity, body))

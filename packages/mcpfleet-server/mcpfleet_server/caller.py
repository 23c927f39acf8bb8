"""Who called, for tools: from the token that Google's front end has checked, or that our own OAuth gate has.

Whom to believe follows from the service's access mode (`callers.py`); on a public service, and where nobody has said
what is in front of the container, nobody is believed.
"""

from contextvars import ContextVar

from mcpfleet_server.callers import Caller

__all__ = ["Caller", "bind_caller", "current_caller"]

_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """The caller of the request that is being answered; for tools, on any transport. None: nobody that is known."""
    return _current.get()


def bind_caller(caller: Caller | None) -> None:
    """Say who called, for this task and the tasks that it starts."""
    _current.set(caller)

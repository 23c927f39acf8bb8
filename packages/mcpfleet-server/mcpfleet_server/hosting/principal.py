"""Who calls, told to everybody who asks: tools, logs, and the SDK.

The SDK keeps sessions with the user who began them, and seals the state that a client carries between the rounds of
one call for that user; it takes both from its own idea of an authenticated user. Without one it would let every
caller use every session whose id he knows.
"""

from functools import lru_cache
from typing import Final

from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import Scope, Send

from mcpfleet_server.caller import Caller, bind_caller, caller_of_claims
from mcpfleet_server.hosting.responses import Headers, refuse
from mcpfleet_server.iap import Assertions, KeysError, NoAssertionError

_RETRY_SECONDS: Final = 10


def introduce(caller: Caller, scope: Scope, user: AuthenticatedUser | None = None) -> None:
    """Tell tools, and the SDK, who calls.

    Args:
        caller: Who is believed.
        scope: The request's.
        user: The same in the SDK's words; made of the caller where it is not given.
    """
    bind_caller(caller)
    user = user or _user(caller)
    scope["user"] = user
    auth_context_var.set(user)


def nobody() -> None:
    """Say that nobody is known to call, whatever was said before in this task."""
    bind_caller(None)
    auth_context_var.set(None)


@lru_cache(256)
def _user(caller: Caller) -> AuthenticatedUser:
    # No token: the front end has kept what would be worth something, and nothing is to be passed on.
    return AuthenticatedUser(
        AccessToken(
            token="",
            client_id=caller.subject,
            scopes=sorted(caller.scopes),
            subject=caller.subject,
            claims={"iss": caller.issuer},
        )
    )


class IapGate:
    """Lets in what comes from Identity-Aware Proxy, with the caller that it names."""

    everywhere: Final = True

    def __init__(self, assertions: Assertions) -> None:
        self._assertions = assertions

    def metadata(self, path: str) -> bytes | None:
        """None: there is nothing to find out."""
        return None

    async def admit(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Whether the request may pass; if not, it has been answered."""
        try:
            caller = caller_of_claims(await self._assertions.claims(scope["headers"]))
        except NoAssertionError as refusal:
            await refuse(send, 401, INVALID_REQUEST, str(refusal))
            return False
        except KeysError:
            retry = (b"retry-after", b"%d" % _RETRY_SECONDS)
            await refuse(
                send, 503, INTERNAL_ERROR, "The keys of Identity-Aware Proxy can't be had at present", headers=(retry,)
            )
            return False
        if caller is None:
            await refuse(send, 401, INVALID_REQUEST, "Identity-Aware Proxy's assertion names nobody")
            return False
        introduce(caller, scope)
        return True

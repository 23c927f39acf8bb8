"""Makes the verified caller known to tools, logs and the SDK; authorizes requests from Identity-Aware Proxy.

The SDK binds a session to the user who created it, and seals the state that a client carries between the rounds of
a call for that user. It takes the user from its own authentication context. Without a user there, any caller could use
any session whose ID he knows.
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
from mcpfleet_server.iap import AssertionVerifier, KeysError, NoAssertionError

_RETRY_SECONDS: Final = 10


def bind_sdk_user(caller: Caller, scope: Scope, user: AuthenticatedUser | None = None) -> None:
    """Set the caller for tools and for the SDK.

    Args:
        caller: The verified caller.
        scope: The request's ASGI scope.
        user: The SDK's user for this caller; created from the caller by default.
    """
    bind_caller(caller)
    user = user or _create_sdk_user(caller)
    scope["user"] = user
    auth_context_var.set(user)


def clear_caller() -> None:
    """Set the caller to unknown, whatever was set before in this task."""
    bind_caller(None)
    auth_context_var.set(None)


@lru_cache(256)
def _create_sdk_user(caller: Caller) -> AuthenticatedUser:
    # No token: the front end has removed its signature, and it must not be passed on.
    return AuthenticatedUser(
        AccessToken(
            token="",
            client_id=caller.subject,
            scopes=sorted(caller.scopes),
            subject=caller.subject,
            claims={"iss": caller.issuer},
        )
    )


class IapAuthorizer:
    """Accepts only requests with a valid assertion of Identity-Aware Proxy, and sets the caller that it names."""

    covers_all_paths: Final = True

    def __init__(self, verifier: AssertionVerifier) -> None:
        self._verifier = verifier

    def metadata(self, path: str) -> bytes | None:
        """Return None: there is no public document."""
        return None

    async def authorize(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Return whether the request may pass; otherwise, the response has been sent."""
        try:
            caller = caller_of_claims(await self._verifier.verify(scope["headers"]))
        except NoAssertionError as refusal:
            await refuse(send, 401, INVALID_REQUEST, str(refusal))
            return False
        except KeysError:
            retry_after = (b"retry-after", b"%d" % _RETRY_SECONDS)
            await refuse(
                send,
                503,
                INTERNAL_ERROR,
                "The keys of Identity-Aware Proxy can't be fetched at present; try again",
                headers=(retry_after,),
            )
            return False
        if caller is None:
            await refuse(send, 401, INVALID_REQUEST, "Identity-Aware Proxy's assertion names no account")
            return False
        bind_sdk_user(caller, scope)
        return True

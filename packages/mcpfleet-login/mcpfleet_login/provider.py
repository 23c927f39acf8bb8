"""The state of the authorization server, behind the MCP SDK's interface for it."""

import re
import time
from typing import Any, Final

from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenError,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import ConfigDict

from mcpfleet_login.clients import SCOPE, Client, Clients, UnknownClientError
from mcpfleet_login.families import CODE_SECONDS, EndedError, Families, Family, StoredFamily
from mcpfleet_login.issuer import Issuer, LoginRefusedError
from mcpfleet_login.members import Account, Members
from mcpfleet_login.sealing import Sealer

ACCESS_SECONDS: Final = 600
"""The life of an access token. Somebody who is no longer a member loses access within it."""

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_MAX_STATE_CHARACTERS: Final = 1024


class LoginCode(AuthorizationCode):
    """An authorization code with its login."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    stored: StoredFamily


class LoginRefreshToken(RefreshToken):
    """A refresh token with its login."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    stored: StoredFamily


class Provider(OAuthAuthorizationServerProvider[LoginCode, LoginRefreshToken, AccessToken]):
    """Implements the SDK's interface.

    Args:
        consent_url: The page that asks the person.
        sealer: Seals authorization requests and access tokens.
        clients: Finds and registers clients.
        families: The logins.
        issuer: Is asked again at each refresh.
        members: Who may use the server.
    """

    def __init__(
        self, consent_url: str, sealer: Sealer, clients: Clients, families: Families, issuer: Issuer, members: Members
    ) -> None:
        self._consent_url = consent_url
        self._sealer = sealer
        self._clients = clients
        self._families = families
        self._issuer = issuer
        self._members = members

    async def get_client(self, client_id: str) -> Client | None:
        """Return the client with an ID, or None."""
        try:
            return await self._clients.find(client_id)
        except UnknownClientError:
            return None

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Register a client."""
        self._clients.register(client_info)

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """Return the URL of the consent page for an authorization request.

        Raises:
            AuthorizeError: The request is not valid.
        """
        if not _CHALLENGE.fullmatch(params.code_challenge):
            raise AuthorizeError("invalid_request", "code_challenge must be a SHA-256 digest in base64url")
        if len(params.state or "") > _MAX_STATE_CHARACTERS:
            raise AuthorizeError("invalid_request", f"state must not have more than {_MAX_STATE_CHARACTERS} characters")
        known = _known(client)
        request = {
            "client": known.fingerprint,
            "client_name": known.display_name,
            "client_url": known.client_id if known.client_id.startswith("https://") else "",
            "redirect_uri": str(params.redirect_uri),
            "state": params.state,
            "challenge": params.code_challenge,
        }
        return f"{self._consent_url}?request={self._sealer.seal('request', request)}"

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> LoginCode | None:
        """Return a code that is valid for the client, or None."""
        try:
            stored = await self._families.load_code(authorization_code, _known(client).fingerprint)
        except EndedError:
            return None
        return LoginCode.model_validate(
            {
                "code": authorization_code,
                "scopes": [SCOPE],
                "expires_at": time.time() + CODE_SECONDS,  # its age was checked when it was opened
                "client_id": client.client_id,
                "code_challenge": stored.family.challenge,
                "redirect_uri": stored.family.redirect_uri,
                "redirect_uri_provided_explicitly": True,
                "subject": stored.family.account.subject,
                "stored": stored,
            }
        )

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: LoginCode
    ) -> OAuthToken:
        """Redeem a code.

        Raises:
            TokenError: Another request was faster.
            StoreError: The store can't be reached; the code remains valid.
        """
        stored = authorization_code.stored
        return await self._advance(stored, stored.family.account, stored.family.issuer_token)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> LoginRefreshToken | None:
        """Return a refresh token that is valid for the client, or None."""
        try:
            stored = await self._families.load_refresh_token(refresh_token, _known(client).fingerprint)
        except EndedError:
            return None
        return LoginRefreshToken(
            token=refresh_token,
            client_id=client.client_id,
            scopes=[SCOPE],
            subject=stored.family.account.subject,
            stored=stored,
        )

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: LoginRefreshToken, scopes: list[str]
    ) -> OAuthToken:
        """Use a refresh token: ask the issuer again, check the members again, and return the next tokens.

        Raises:
            TokenError: The login has ended, or its account may not use the server any more.
            IssuerError: The issuer can't be reached; the token remains valid.
            StoreError: The store can't be reached; the token remains valid.
        """
        stored = refresh_token.stored
        account, issuer_token = stored.family.account, stored.family.issuer_token
        if issuer_token:
            try:
                login = await self._issuer.refresh(issuer_token)
            except LoginRefusedError as error:
                await self._families.end(stored)
                raise TokenError("invalid_grant", str(error)) from error
            if login.account is not None:
                if login.account.subject != account.subject:
                    raise TokenError("invalid_grant", "the issuer names another account")
                account = login.account
            issuer_token = login.refresh_token
        if account.issuer != self._issuer.url or not self._members.allow(account):
            await self._families.end(stored)
            raise TokenError("invalid_grant", "the account may not use this server any more")
        return await self._advance(stored, account, issuer_token)

    async def _advance(self, stored: StoredFamily, account: Account, issuer_token: str | None) -> OAuthToken:
        try:
            family, refresh_token = await self._families.advance(stored, account, issuer_token)
        except EndedError as error:
            raise TokenError("invalid_grant", str(error)) from error
        return OAuthToken(
            access_token=self._sealer.seal("access", _claims(family)),
            expires_in=ACCESS_SECONDS,
            scope=SCOPE,
            refresh_token=refresh_token,
        )


def _claims(family: Family) -> dict[str, Any]:
    """Return what the gate needs to know of a caller, in the form in which the application gets it."""
    claims: dict[str, Any] = {
        "iss": family.account.issuer,
        "sub": family.account.subject,
        "client_id": family.client_name or family.client,
        "scope": SCOPE,
    }
    if family.account.email:
        claims |= {"email": family.account.email, "email_verified": True}
    if family.account.hosted_domain:
        claims["hd"] = family.account.hosted_domain
    return claims


def _known(client: OAuthClientInformationFull) -> Client:
    if not isinstance(client, Client):
        raise TypeError("the SDK passes on what get_client has returned")
    return client

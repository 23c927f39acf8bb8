"""OAuth clients: the ones that have registered themselves, and those with a metadata document.

A registration is not stored: the client's ID is the registration, sealed. So a flood of registrations fills nothing,
and any instance knows every client.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any, Final

from mcp.server.auth.provider import RegistrationError
from mcp.shared.auth import InvalidRedirectUriError, OAuthClientInformationFull
from pydantic import AnyUrl, ValidationError

from mcpfleet_login import redirects
from mcpfleet_login.documents import ClientDocuments, DocumentError, is_document_url
from mcpfleet_login.sealing import Sealer, SealError

SCOPE: Final = "mcp"
"""The only scope: to use the MCP server."""

REGISTRATION_SECONDS: Final = 180 * 24 * 3600
"""The life of a registration. A client whose registration has ended registers again."""

_MAX_NAME_CHARACTERS: Final = 100
_MAX_ID_CHARACTERS: Final = 8 * 1024


class UnknownClientError(Exception):
    """No client has this ID; the text is for the person who logs in."""


class Client(OAuthClientInformationFull):
    """A client that the authorization server knows."""

    @property
    def fingerprint(self) -> str:
        """A short form of the ID, for records and tokens."""
        return hashlib.sha256(self.client_id.encode()).hexdigest()[:32]

    @property
    def display_name(self) -> str:
        """The name that the client has given itself; may be empty."""
        return printable(self.client_name or "")

    def allows_redirect(self, uri: str) -> bool:
        """Return whether codes may be sent to a URI."""
        return redirects.is_registered(uri, [str(each) for each in self.redirect_uris or ()])

    def validate_redirect_uri(self, redirect_uri: AnyUrl | None) -> AnyUrl:
        """Return the redirect URI if it is one of the client's; the SDK calls this.

        Raises:
            InvalidRedirectUriError: It is not, or the request has none.
        """
        # An empty path is "/" in the SDK's form of the URI. `authorization_server` has checked the original text.
        text = "" if redirect_uri is None else str(redirect_uri)
        if redirect_uri is None or not (self.allows_redirect(text) or self.allows_redirect(text.removesuffix("/"))):
            raise InvalidRedirectUriError("The redirect URI is not one of the client's")
        return redirect_uri

    def validate_scope(self, requested_scope: str | None) -> list[str] | None:
        """Return the granted scopes, whatever was requested (RFC 6749, section 3.3); the SDK calls this."""
        return [SCOPE]


def printable(text: str) -> str:
    """Return text that someone else has written, shortened, without control characters or changes of direction."""
    return "".join(character for character in text if character.isprintable())[:_MAX_NAME_CHARACTERS].strip()


class Clients:
    """Finds and registers clients.

    Args:
        sealer: Seals registrations.
        documents: Fetches metadata documents.
        registration: Whether clients may register themselves.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        sealer: Sealer,
        documents: ClientDocuments,
        *,
        registration: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sealer = sealer
        self._documents = documents
        self._registration = registration
        self._clock = clock

    async def find(self, client_id: str) -> Client:
        """Return the client with an ID.

        Raises:
            UnknownClientError: There is none.
        """
        if client_id.startswith("https://"):
            return await self._find_document(client_id)
        if not self._registration or len(client_id) > _MAX_ID_CHARACTERS:
            raise UnknownClientError("The client is not known")
        try:
            members = self._sealer.open("client", client_id, REGISTRATION_SECONDS)
        except SealError:
            raise UnknownClientError("The client is not known, or its registration has ended") from None
        return Client(client_id=client_id, **members)

    async def _find_document(self, url: str) -> Client:
        if not is_document_url(url):
            raise UnknownClientError("The client's ID is not the URL of a metadata document")
        try:
            document = await self._documents.get(url)
            return _parse_document(url, document)
        except (DocumentError, ValueError) as error:
            reason = str(error) if isinstance(error, DocumentError) else "the document has mistakes"
            raise UnknownClientError(f"The client's metadata document can't be used: {reason}") from error

    def register(self, information: OAuthClientInformationFull) -> None:
        """Register a client: replace the ID that the SDK has given it by the sealed registration.

        Raises:
            RegistrationError: The client may not register with this metadata.
        """
        uris = [str(uri) for uri in information.redirect_uris or ()]
        if not 1 <= len(uris) <= redirects.MAX_URIS:
            raise RegistrationError("invalid_redirect_uri", f"give 1 to {redirects.MAX_URIS} redirect URIs")
        for uri in uris:
            try:
                redirects.check(uri)
            except ValueError as error:
                raise RegistrationError("invalid_redirect_uri", str(error)) from None
        name = printable(information.client_name or "")
        members: dict[str, Any] = {
            "redirect_uris": uris,
            "client_name": name,
            "token_endpoint_auth_method": information.token_endpoint_auth_method,
            "client_secret": information.client_secret,
            "grant_types": ["authorization_code", "refresh_token"],
        }
        information.client_id = self._sealer.seal("client", members)
        # What the client asked for and does not get must not be in the response (RFC 7591, section 3.2.1).
        information.client_name = name or None
        information.grant_types = list(members["grant_types"])
        information.scope = SCOPE
        if information.client_secret:
            information.client_secret_expires_at = int(self._clock()) + REGISTRATION_SECONDS


def _parse_document(url: str, document: Any) -> Client:
    method = document.get("token_endpoint_auth_method", "none")
    if method != "none":
        raise DocumentError(f"it requires the authentication method {printable(str(method))}; only none is supported")
    uris = document.get("redirect_uris")
    if not isinstance(uris, list) or not 1 <= len(uris) <= redirects.MAX_URIS:  # pyright: ignore[reportUnknownArgumentType]
        raise DocumentError(f"it must have 1 to {redirects.MAX_URIS} redirect URIs")
    for uri in uris:  # pyright: ignore[reportUnknownVariableType]
        redirects.check(str(uri))  # pyright: ignore[reportUnknownArgumentType]
    name = document.get("client_name")
    try:
        return Client(
            client_id=url,
            redirect_uris=uris,  # pyright: ignore[reportUnknownArgumentType]
            client_name=name if isinstance(name, str) else None,
            token_endpoint_auth_method="none",  # noqa: S106  # a method
        )
    except ValidationError as error:
        raise DocumentError("its redirect URIs are not URIs") from error

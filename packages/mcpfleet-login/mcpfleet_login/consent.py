"""The part of a login that a person takes in the browser: the consent page, the issuer, and back to the client.

MCP's security page (confused deputy): the consent is given for each login, names the client and where the code goes,
and is bound to the browser. Nothing is remembered, so no earlier consent can stand in for a new one. A login in
progress is in a cookie, sealed, and the callback accepts only the browser that has it; any instance can continue it.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from mcp.server.auth.provider import construct_redirect_uri
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mcpfleet_login.families import Families
from mcpfleet_login.issuer import Issuer, LoginRefusedError
from mcpfleet_login.members import Members
from mcpfleet_login.pages import HEADERS, consent_page, error_page
from mcpfleet_login.redirects import display_host, is_loopback
from mcpfleet_login.sealing import Sealer, SealError

logger = logging.getLogger(__name__)

LOGIN_SECONDS: Final = 600
"""How long a person may take for the consent page, and again for the issuer."""

_MAX_COOKIE_BYTES: Final = 3800
"""Browsers keep cookies of up to 4096 bytes, with name and attributes."""

_STATE: Final = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_START_AGAIN: Final = "Start the login again in the application that you want to use."


class Consent:
    """The pages and redirects of a login.

    Args:
        base_url: The service's URL, which is the issuer of our tokens.
        sealer: Seals requests and cookies.
        families: Records who has logged in.
        issuer: Where people log in.
        members: Who may use the server.
    """

    def __init__(
        self, base_url: str, sealer: Sealer, families: Families, issuer: Issuer, members: Members, path: str
    ) -> None:
        self._base_url = base_url
        self._sealer = sealer
        self._families = families
        self._issuer = issuer
        self._members = members
        self._path = path
        self._is_secure = base_url.startswith("https://")
        # `__Host-`: no other host, not even a subdomain, can set such a cookie.
        self._prefix = "__Host-mcpfleet-" if self._is_secure else "mcpfleet-"

    async def show(self, request: Request) -> Response:
        """Show the consent page for an authorization request."""
        try:
            asked = self._sealer.open("request", request.query_params.get("request", ""), LOGIN_SECONDS)
        except SealError:
            return error_page("This login is too old", _START_AGAIN, 400)
        # The same value for several tabs: a new one would make the page in the first tab unusable.
        browser = request.cookies.get(f"{self._prefix}browser", "")
        if not _STATE.fullmatch(browser):
            browser = secrets.token_urlsafe(16)
        page = consent_page(
            server=urlsplit(self._base_url).netloc,
            issuer=self._issuer.name,
            name=asked["client_name"],
            client_host=str(urlsplit(str(asked["client_url"])).hostname) if asked["client_url"] else "",
            destination=display_host(asked["redirect_uri"]),
            is_on_this_computer=is_loopback(asked["redirect_uri"]),
            request=self._sealer.seal("consent", asked | {"browser": _digest(browser)}),
        )
        self._set_cookie(page, "browser", browser)
        return page

    async def decide(self, request: Request) -> Response:
        """Take the person's decision from the consent page's form.

        Raises:
            IssuerError: The issuer can't be reached.
        """
        if request.headers.get("origin", self._base_url) != self._base_url:
            return error_page("This page was not sent by this server", _START_AGAIN, 403)
        form = await request.form()
        try:
            asked = self._sealer.open("consent", str(form.get("request", "")), LOGIN_SECONDS)
        except SealError:
            return error_page("This login is too old", _START_AGAIN, 400)
        browser = request.cookies.get(f"{self._prefix}browser", "")
        if not hmac.compare_digest(_digest(browser), asked["browser"]):
            return error_page("This login was started in another browser", _START_AGAIN, 403)
        if form.get("decision") != "allow":
            return self._redirect_to_client(asked, error="access_denied", error_description="The person has refused")
        state, nonce, verifier = secrets.token_urlsafe(16), secrets.token_urlsafe(16), secrets.token_urlsafe(48)
        login = {name: value for name, value in asked.items() if name != "browser"}
        sealed = self._sealer.seal("login", login | {"id": state, "nonce": nonce, "verifier": verifier})
        if len(sealed) > _MAX_COOKIE_BYTES:
            return error_page("The application's request is too long", "Report this to its developer.", 400)
        response = _redirect(await self._issuer.authorization_url(state, nonce, verifier))
        self._set_cookie(response, state, sealed)
        return response

    async def finish(self, request: Request) -> Response:
        """Take the issuer's response, and send the person back to the client with a code.

        Raises:
            IssuerError: The issuer can't be reached.
            StoreError: The store can't be reached.
        """
        parameters = request.query_params
        state = parameters.get("state", "")
        if not _STATE.fullmatch(state) or len(parameters.getlist("state")) != 1:
            return error_page("This login can't be continued", _START_AGAIN, 400)
        try:
            login = self._sealer.open("login", request.cookies.get(f"{self._prefix}{state}", ""), LOGIN_SECONDS)
        except SealError:
            return error_page("This login was started in another browser, or is too old", _START_AGAIN, 403)
        if login["id"] != state:
            return error_page("This login can't be continued", _START_AGAIN, 403)
        response = await self._finish(login, parameters)
        self._delete_cookie(response, state)
        return response

    async def _finish(self, login: Mapping[str, Any], parameters: Mapping[str, str]) -> Response:
        try:
            await self._issuer.check_response_issuer(parameters.get("iss"))
            if "error" in parameters or not parameters.get("code"):
                logger.info("%s ended a login with the error %.50r", self._issuer.name, parameters.get("error"))
                return self._redirect_to_client(
                    login, error="access_denied", error_description=f"{self._issuer.name} has not confirmed the login"
                )
            result = await self._issuer.exchange(parameters["code"], login["nonce"], login["verifier"])
        except LoginRefusedError as error:
            logger.warning("A login was refused: %s", error)
            return error_page("The login has failed", f"{error}. {_START_AGAIN}", 403)
        account = result.account
        if account is None or not self._members.allow(account):
            name = "nobody" if account is None else account.name
            logger.warning("%s has logged in, but is not a member", name)
            return error_page(
                "You may not use this server",
                f"You have logged in as {name}. Ask the server's administrator for access, or use another account.",
                403,
            )
        client_name = login["client_url"] or login["client_name"]
        code = await self._families.create(
            account,
            login["client"],
            client_name,
            login["redirect_uri"],
            login["challenge"],
            result.refresh_token,
        )
        logger.info("%s has logged in; client %s, redirect URI %s", account.name, client_name, login["redirect_uri"])
        return self._redirect_to_client(login, code=code)

    def _redirect_to_client(self, login: Mapping[str, Any], **parameters: str) -> Response:
        url = construct_redirect_uri(login["redirect_uri"], **parameters, state=login["state"], iss=self._base_url)
        return _redirect(url)

    def _set_cookie(self, response: Response, name: str, value: str) -> None:
        path = "/" if self._is_secure else self._path
        response.set_cookie(
            f"{self._prefix}{name}",
            value,
            max_age=LOGIN_SECONDS,
            path=path,
            secure=self._is_secure,
            httponly=True,
            samesite="lax",
        )

    def _delete_cookie(self, response: Response, name: str) -> None:
        path = "/" if self._is_secure else self._path
        response.delete_cookie(f"{self._prefix}{name}", path, secure=self._is_secure, httponly=True, samesite="lax")


def _digest(browser: str) -> str:
    return hashlib.sha256(browser.encode()).hexdigest()


def _redirect(url: str) -> RedirectResponse:
    # 303: the form's fields must not be sent on.
    return RedirectResponse(url, 303, {name: HEADERS[name] for name in ("cache-control", "referrer-policy")})

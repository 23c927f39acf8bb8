"""The pages that a person sees: plain HTML without scripts, which no other page may frame."""

from collections.abc import Mapping
from html import escape
from string import Template
from typing import Final

from starlette.responses import HTMLResponse

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:10vh auto;padding:0 1rem}"
    "body{color:#1a1a1a;background:#fff}"
    "h1{font-size:1.4rem}dt{color:#555;font-size:.9rem}dd{margin:0 0 .8rem;font-weight:600;overflow-wrap:anywhere}"
    "button{font:inherit;padding:.5rem 1.2rem;margin-right:.6rem;border:1px solid #888;border-radius:.4rem}"
    "button{background:#fff}button.allow{background:#0b57d0;border-color:#0b57d0;color:#fff}"
    ".note{background:#fff4d6;padding:.6rem .8rem;border-radius:.4rem}"
    "@media(prefers-color-scheme:dark){body{background:#1a1a1a;color:#eee}dt{color:#aaa}button{background:#333;color:#eee}"
    ".note{background:#4a3c10}}"
)

_PAGE: Final = Template(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="robots" content="noindex"><title>$title</title><style>$style</style></head>'
    "<body><h1>$title</h1>$body</body></html>"
)

_CONSENT: Final = Template(
    "<p>The application below asks to use <strong>$server</strong> as you. You will log in with $issuer next.</p>"
    "<dl><dt>Name that the application gives itself</dt><dd>$name</dd>$identity"
    "<dt>Your login is sent to</dt><dd>$destination</dd>"
    "<dt>It may</dt><dd>call every tool of this server as you</dd></dl>$note"
    "<p>Allow this only if you have just started it yourself, in an application that you know.</p>"
    '<form method="post"><input type="hidden" name="request" value="$request">'
    '<button class="allow" name="decision" value="allow">Allow</button>'
    '<button name="decision" value="deny">Cancel</button></form>'
)

_LOCAL_NOTE: Final = (
    '<p class="note">The login is sent to a program on this computer. Its name can\'t be checked: any program can give'
    " itself any name.</p>"
)

HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    # No form-action: browsers apply it to the redirects after the form, which lead to the issuer and to the client.
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # With no-referrer, browsers send the form with `Origin: null`, which is not this server's.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def consent_page(
    *, server: str, issuer: str, name: str, client_host: str, destination: str, is_on_this_computer: bool, request: str
) -> HTMLResponse:
    """Return the page that asks whether a client may use the server.

    Args:
        server: The host of this server.
        issuer: Where the person will log in.
        name: The name that the client has given itself; may be empty.
        client_host: The host that has published the client's metadata document; empty if the client registered itself.
        destination: Where the code is sent.
        is_on_this_computer: Whether the destination is on the person's own machine.
        request: The sealed request, for the form.
    """
    identity = f"<dt>Published by</dt><dd>{escape(client_host)}</dd>" if client_host else ""
    body = _CONSENT.substitute(
        server=escape(server),
        issuer=escape(issuer),
        name=escape(name or "no name"),
        identity=identity,
        destination=escape(destination),
        note=_LOCAL_NOTE if is_on_this_computer else "",
        request=escape(request),
    )
    return _page("Allow access?", body, 200)


def error_page(title: str, text: str, status: int) -> HTMLResponse:
    """Return a page about a problem."""
    return _page(escape(title), f"<p>{escape(text)}</p>", status)


def _page(title: str, body: str, status: int) -> HTMLResponse:
    return HTMLResponse(_PAGE.substitute(title=title, style=_STYLE, body=body), status, dict(HEADERS))

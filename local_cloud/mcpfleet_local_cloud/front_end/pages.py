"""The responses that Google's front end sends itself, byte for byte (docs/google-apis.md 5.1)."""

import html
from dataclasses import dataclass
from typing import Final

_SKELETON: Final = (
    "\n<html><head>\n"
    '<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
    "<title>{title}</title>\n</head>\n"
    "<body text=#000000 bgcolor=#ffffff>\n"
    "<h1>Error: {heading}</h1>\n<h2>{text}</h2>\n<h2></h2>\n</body></html>\n"
)
_NOT_FOUND: Final = (
    "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n"
    '  <meta name=viewport content="initial-scale=1, minimum-scale=1, width=device-width">\n'
    "  <title>Error 404 (Not Found)!!1</title>\n"
    "  <p><b>404.</b> <ins>That\u2019s an error.</ins>\n"
    "  <p>The requested URL <code>{path}</code> was not found on this server.  <ins>That\u2019s all we know.</ins>\n"
)
_INVALID_TOKEN: Final = (
    b"www-authenticate",
    b'Bearer error="invalid_token" error_description="The access token could not be verified"',
)
HTML: Final = b"text/html; charset=UTF-8"
TEXT: Final = b"text/plain"


@dataclass(frozen=True)
class Page:
    """A complete response."""

    status: int
    body: bytes
    content_type: bytes = HTML
    extra: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The response's headers."""
        length = str(len(self.body)).encode()
        return [(b"content-type", self.content_type), (b"content-length", length), *self.extra]


def forbidden(path: str) -> Page:
    """The request has no credential, or its account lacks the permission."""
    text = f"Your client does not have permission to get URL <code>{html.escape(path)}</code> from this server."
    return _page(403, "403 Forbidden", "Forbidden", text)


def unauthorized(path: str) -> Page:
    """The credential is invalid."""
    text = f"Your client does not have permission to the requested URL <code>{html.escape(path)}</code>."
    return _page(401, "401 Unauthorized", "Unauthorized", text, _INVALID_TOKEN)


def not_found(path: str) -> Page:
    """No such service, not reachable from here, or a reserved path (Google's page has a style sheet too)."""
    return Page(404, _NOT_FOUND.format(path=html.escape(path)).encode())


def too_large() -> Page:
    """An HTTP/1 request has more than 32 MiB."""
    return _page(
        413,
        "413 Request Entity Too Large",
        "Request Entity Too Large",
        "Your client issued a request that was too large.",
    )


def no_instance() -> Page:
    """The request waited too long for an instance."""
    return Page(429, b"Rate exceeded.", TEXT)


def response_too_large() -> Page:
    """A response that is not streamed has more than 32 MiB."""
    return _page(
        500, "500 Server Error", "Server Error", "The server encountered an error and could not complete your request."
    )


def unavailable() -> Page:
    """No revision of the service is ready."""
    return Page(503, b"Service Unavailable", TEXT)


def connection_error() -> Page:
    """The instance broke the connection, or does not speak HTTP."""
    return Page(
        503,
        b"upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        TEXT,
    )


def no_backend() -> Page:
    """A load balancer's backend is empty (the text is Envoy's, which global Application Load Balancers send)."""
    return Page(503, b"no healthy upstream", TEXT)


def timed_out() -> Page:
    """The request timeout passed before the response began."""
    return Page(504, b"upstream request timeout", TEXT)


def redirect(status: int, location: str) -> Page:
    """A load balancer's redirect."""
    text = f'The document has moved\n<A HREF="{html.escape(location)}">here</A>.\n'
    title = {301: "Moved Permanently", 302: "Found"}.get(status, "Redirect")
    body = (
        '<HTML><HEAD><meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        f"<TITLE>{status} {title}</TITLE></HEAD><BODY>\n<H1>{status} {title}</H1>\n{text}</BODY></HTML>\n"
    )
    return Page(status, body.encode(), extra=((b"location", location.encode("latin-1", "replace")),))


def no_websockets() -> Page:
    """Google would upgrade this connection; the local cloud does not support that."""
    return Page(501, b"WebSocket upgrades: the local cloud's ingress does not support them yet.\n", TEXT)


def _page(status: int, title: str, heading: str, text: str, *extra: tuple[bytes, bytes]) -> Page:
    return Page(status, _SKELETON.format(title=title, heading=heading, text=text).encode(), extra=extra)

"""A service to call, parsed from its URL or its MCP URL."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx2

from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.net import is_loopback

# RFC 3986, without characters that are special in a shell: quotes, $, backquotes, brackets, pipes, spaces.
_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+(/[A-Za-z0-9._~%!*+,;=:@&/-]*)?([?#][!-~]*)?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,252}[a-z0-9])?\.?|[0-9a-f:.]+:[0-9a-f:.]*")
_CLOUD_RUN_HOST = re.compile(r"(?P<service>[a-z][a-z0-9-]*)-\d+\.(?P<region>[a-z0-9-]+)\.run\.app")


@dataclass(frozen=True)
class Target:
    """A service to call.

    Attributes:
        origin: `https://host[:port]`, also the audience that Cloud Run accepts by default.
        host: The value of the Host header.
        path: The path of the URL (`/mcp`); empty for `/`.
        known_service: The names of its Cloud Run service and region, if they are known.
    """

    origin: str
    host: str
    path: str
    known_service: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str, *, bearer: bool = True) -> Target:
        """Parse the URL of a service or an MCP endpoint.

        Args:
            text: The URL.
            bearer: Whether requests have an ID token. Without one the URL may be plain HTTP, as in a service mesh,
                where the caller's sidecar proxy adds the token.

        Raises:
            UsageError: It is not a valid URL, or would send a token unencrypted over the network.
        """
        text = text.strip()
        quoted = inert(repr(text[:200]))
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL as error:
            reason = inert(str(error))
            raise UsageError(f"{quoted} is not a URL ({reason}). Use one such as https://….run.app.") from error
        # Check what httpx2 sends: it encodes a host in another script.
        host = url.netloc.decode("ascii", "replace")
        hostname = url.raw_host.decode("ascii", "replace")
        is_valid = _TEXT.fullmatch(text) and _HOST.fullmatch(hostname)
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or not is_valid:
            raise UsageError(f"{quoted} is not a service's URL. Use one such as https://….run.app.")
        if url.port is not None and not 1 <= url.port <= 65535:
            raise UsageError(f"{quoted} has the port {url.port}; a port is a number from 1 to 65535.")
        if bearer and url.scheme == "http" and not is_loopback(url.host):
            raise UsageError(
                f"An ID token must not be sent unencrypted over the network. Use https://{inert(url.host)}."
            )
        return cls(f"{url.scheme}://{host}", host, "" if url.path == "/" else url.path)

    @property
    def mcp_url(self) -> str:
        """The MCP endpoint: the URL's path, or `/mcp` if it has none."""
        return f"{self.origin}{self.path or '/mcp'}"

    @property
    def bare_host(self) -> str:
        """The host without its port."""
        return httpx2.URL(self.origin).host

    @property
    def on_this_machine(self) -> bool:
        """Whether it is a loopback address, which an HTTP proxy cannot reach."""
        return is_loopback(self.bare_host)

    @property
    def service_and_region(self) -> tuple[str, str]:
        """The service and the region for gcloud: known, or parsed from the host, or else placeholders."""
        if self.known_service is not None:
            return self.known_service
        if self.origin.startswith("http://") and "." not in self.host and not self.on_this_machine:
            return self.host, "REGION"  # in a service mesh, a short name is the service's
        match = _CLOUD_RUN_HOST.fullmatch(self.host)
        return (match["service"], match["region"]) if match else ("SERVICE", "REGION")

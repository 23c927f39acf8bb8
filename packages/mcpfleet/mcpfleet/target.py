"""A service to reach, by its URL or its MCP URL."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx2

from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.net import is_loopback

# RFC 3986 without what a shell or a reader stumbles over: quotes, $, backquotes, brackets, pipes, spaces.
_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+(/[A-Za-z0-9._~%!*+,;=:@&/-]*)?([?#][!-~]*)?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,252}[a-z0-9])?\.?|[0-9a-f:.]+:[0-9a-f:.]*")
_CLOUD_RUN_HOST = re.compile(r"(?P<service>[a-z][a-z0-9-]*)-\d+\.(?P<region>[a-z0-9-]+)\.run\.app")


@dataclass(frozen=True)
class Target:
    """A service to reach.

    Attributes:
        origin: `https://host[:port]`, also the audience that Cloud Run accepts by default.
        host: What its Host header says.
        path: The path of the URL it was given by (`/mcp`); empty where it had none but `/`.
        place: Its Cloud Run service and region, where somebody knows them.
    """

    origin: str
    host: str
    path: str
    place: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str, *, bearer: bool = True) -> Target:
        """Read a service's or an MCP endpoint's URL.

        Args:
            text: The URL.
            bearer: Whether an ID token goes with requests to it; without one it may be plain HTTP, as in a service
                mesh, whose proxy beside the caller adds the token.

        Raises:
            UsageError: It is not one, or a token would cross the network in the clear.
        """
        text = text.strip()
        shown = inert(repr(text[:200]))
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL as error:
            why = inert(str(error))
            raise UsageError(f"{shown} is not a URL ({why}). Give one such as https://….run.app.") from error
        # What httpx2 sends is what is looked at: a host in another script as the network knows it.
        host = url.netloc.decode("ascii", "replace")
        bare = url.raw_host.decode("ascii", "replace")
        plain = _TEXT.fullmatch(text) and _HOST.fullmatch(bare)
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or not plain:
            raise UsageError(f"{shown} is not a service's URL. Give one such as https://….run.app.")
        if url.port is not None and not 1 <= url.port <= 65535:
            raise UsageError(f"{shown} has the port {url.port}; a port is a number from 1 to 65535.")
        if bearer and url.scheme == "http" and not is_loopback(url.host):
            raise UsageError(f"An ID token must not cross the network in the clear. Use https://{inert(url.host)}.")
        return cls(f"{url.scheme}://{host}", host, "" if url.path == "/" else url.path)

    @property
    def mcp_url(self) -> str:
        """The MCP endpoint: the URL's path, or `/mcp` where it had none."""
        return f"{self.origin}{self.path or '/mcp'}"

    @property
    def bare_host(self) -> str:
        """The host without its port."""
        return httpx2.URL(self.origin).host

    @property
    def on_this_machine(self) -> bool:
        """Whether it is reached over loopback, where no company's HTTP proxy can go."""
        return is_loopback(self.bare_host)

    @property
    def service_and_region(self) -> tuple[str, str]:
        """As gcloud wants them; read from the host, or placeholders to fill in, where nobody knows them."""
        if self.place is not None:
            return self.place
        if self.origin.startswith("http://") and "." not in self.host and not self.on_this_machine:
            return self.host, "REGION"  # a short name of a service mesh is the service's own
        known = _CLOUD_RUN_HOST.fullmatch(self.host)
        return (known["service"], known["region"]) if known else ("SERVICE", "REGION")

"""Why a private service refused, and what to type: one table for the proxy, `connect`, `verify` and `doctor`.

Google's front end answers in HTML or plain text; an MCP server answers in JSON, and what it says is its own
matter. The causes are those of docs/google-apis.md 5.1, and what MCP clients were seen to meet.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcpfleet.target import Target

_LOGIN: Final = "https://accounts.google.com"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class CallerIdentity:
    """Who asked.

    Attributes:
        identity: For a person to read: the member, or else the source of the token.
        member: As IAM writes it (`user:ada@acme.dev`); '' where it is not known.
        audience: What the token is for.
    """

    identity: str
    member: str
    audience: str


@dataclass(frozen=True)
class Finding:
    """What one answer means.

    Attributes:
        status: The HTTP status.
        cause: What happened, in a sentence.
        step: What to do next, in a sentence.
    """

    status: int
    cause: str
    step: str

    def __str__(self) -> str:
        return f"{self.status}: {self.cause} {self.step}"


def is_front_ends(status: int, headers: Mapping[str, str]) -> bool:
    """Whether Google's front end answered in the service's place.

    Args:
        status: The HTTP status.
        headers: The answer's headers, in lower case.
    """
    kind = headers.get("content-type", "").lower()
    # In plain text it says that no instance was free, that one broke off, and that time was up.
    return (status >= 400 and kind.startswith("text/html")) or (
        status in {429, 503, 504} and kind.startswith("text/plain")
    )


def is_proxys(status: int, headers: Mapping[str, str]) -> bool:
    """Whether Identity-Aware Proxy answered, which marks what it says itself, or sends to Google's login.

    Args:
        status: The HTTP status.
        headers: The answer's headers, in lower case.
    """
    if status == 302:
        return headers.get("location", "").startswith(f"{_LOGIN}/")
    return status >= 400 and headers.get("x-goog-iap-generated-response") == "true"


def is_the_servers(headers: Mapping[str, str]) -> bool:
    """Whether an answer has the type of an MCP server's: JSON, or a stream of it."""
    return headers.get("content-type", "").lower().startswith(("application/json", "text/event-stream"))


def read_log(target: Target) -> str:
    """What to type to read a service's log."""
    return f"Read its log: gcloud run services logs read {_place(target)}"


def _place(target: Target) -> str:
    service, region = target.service_and_region
    return f"{shlex.quote(service)} --region={shlex.quote(region)}"


def is_the_servers_own(headers: Mapping[str, str]) -> bool:
    """Whether a 401 is the server's, and not Google's, which is a page in HTML and names no resource's metadata."""
    html = headers.get("content-type", "").lower().startswith("text/html")
    by_proxy = headers.get("x-goog-iap-generated-response") == "true"
    return not by_proxy and (not html or "resource_metadata" in headers.get("www-authenticate", ""))


def diagnose(status: int, headers: Mapping[str, str], target: Target, caller: CallerIdentity) -> Finding | None:
    """What an answer from an MCP endpoint means; None where it is no error, or the MCP server's own.

    Args:
        status: The HTTP status.
        headers: The answer's headers, in lower case.
        target: The service.
        caller: Who asked.
    """
    if status < 300 or (is_the_servers(headers) and status not in _REDIRECTS):
        return None
    place = _place(target)
    member = shlex.quote(caller.member or "user:EMAIL")  # a token's word, in a command that is copied
    proxied = is_proxys(status, headers)
    match status:
        case 302 if proxied:
            cause = f"Identity-Aware Proxy before {target.origin} sends to Google's login: it has read no token."
            step = (
                "It reads the header Authorization, not X-Serverless-Authorization, and wants an ID token for an "
                "OAuth client that the server's access.iap names (programmatic_clients, oauth_client)."
            )
        case 401 if proxied:
            cause = f"Identity-Aware Proxy before {target.origin} did not accept the token for {caller.audience}."
            step = (
                "The audience has to be an OAuth client that the server's access.iap names (programmatic_clients, "
                "oauth_client), and the token has to be in the header Authorization."
            )
        case 403 if proxied:
            cause = f"Identity-Aware Proxy does not let {caller.identity} through to {target.origin}."
            step = (
                f"Add it to the server's access.iap.members and run `pulumi up`, or type: gcloud iap web "
                f"add-iam-policy-binding --resource-type=cloud-run --service={place} "
                f"--member={member} --role=roles/iap.httpsResourceAccessor"
            )
        case 500 if proxied:
            cause = f"Identity-Aware Proxy before {target.origin} may not call the service itself."
            step = (
                "Run `pulumi up`, or type: gcloud run services add-iam-policy-binding "
                f"{place} --member=serviceAccount:service-PROJECT_NUMBER@gcp-sa-iap.iam.gserviceaccount.com "
                "--role=roles/run.invoker"
            )
        case 401:
            cause = f"{target.origin} did not accept the token of {caller.identity} for {caller.audience}."
            step = (
                "If the service has another audience, give it with --audience; otherwise check this machine's clock "
                "and renew the login with `gcloud auth application-default login`."
            )
        case 403:
            cause = f"{caller.identity} may not call {target.origin}."
            step = (
                f"Add it to the server's access.iam.invokers and run `pulumi up`, or type: gcloud run services "
                f"add-iam-policy-binding {place} --member={member} --role=roles/run.invoker"
            )
        case 404:
            cause = f"there is no such service at {target.origin}, it cannot be reached from here, or not by this path."
            step = (
                f"Check the URL with `pulumi stack output servers`, and with `gcloud run services describe {place}` "
                "that its ingress is `all` (`internal` answers 404 to the internet). A path that ends in z is Google's."
            )
        case 405:
            cause = f"{target.mcp_url} does not take this method, so it is hardly an MCP endpoint."
            step = "Give the MCP URL, with its path (`/mcp`)."
        case 421:
            cause = f"the server does not answer to the host {target.host}."
            step = "Put the host into its allowed hosts (the fleet does this for the URLs that it knows)."
        case 429:
            cause = "no instance was free: all are busy, and max_instances are running."
            step = "Try again; if it stays, raise the server's max_instances or its concurrency."
        case 502 | 503:
            cause = "the service could not start an instance, or the instance broke off."
            step = read_log(target)
        case 504:
            cause = "the service did not answer within its timeout."
            step = "Raise the server's timeout (at most 3600 s), or make the call shorter."
        case _ if status < 400:
            where = headers.get("location", "nowhere")
            cause = f"{target.mcp_url} redirects to {where}, and MCP clients do not follow that."
            step = (
                "Call the URL that it names."
                if where.startswith("https://")
                else "The server must trust its proxy (FORWARDED_ALLOW_IPS=*), and serve /mcp/ like /mcp."
            )
        case _:
            cause = f"{target.origin} answered with an error of its own."
            step = read_log(target)
    return Finding(status, cause, step)

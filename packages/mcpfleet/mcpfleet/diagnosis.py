"""Explains why a private service refused a request, with the next step, for `proxy`, `connect`, `verify` and `doctor`.

Google's front end responds in HTML or plain text. An MCP server responds in JSON, and its errors are not explained
here. The causes are those of docs/google-apis.md 5.1, and those that MCP clients met in tests.
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
    """The identity of a request.

    Attributes:
        identity: The member, or else the source of the token, for messages.
        member: The IAM member (`user:ada@acme.dev`); '' if it is not known.
        audience: The audience of the token.
    """

    identity: str
    member: str
    audience: str


@dataclass(frozen=True)
class Diagnosis:
    """The explanation of a response.

    Attributes:
        status: The HTTP status.
        cause: The cause, in one sentence.
        step: The next step, in one sentence.
    """

    status: int
    cause: str
    step: str

    def __str__(self) -> str:
        return f"{self.status}: {self.cause} {self.step}"


def is_from_front_end(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a response comes from Google's front end, and not from the service.

    Args:
        status: The HTTP status.
        headers: The headers of the response, in lower case.
    """
    content_type = headers.get("content-type", "").lower()
    # In plain text: no instance was free (429), an instance failed (503), or the timeout passed (504).
    return (status >= 400 and content_type.startswith("text/html")) or (
        status in {429, 503, 504} and content_type.startswith("text/plain")
    )


def is_from_iap(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a response comes from Identity-Aware Proxy: it has IAP's header, or redirects to Google's login.

    Args:
        status: The HTTP status.
        headers: The headers of the response, in lower case.
    """
    if status == 302:
        return headers.get("location", "").startswith(f"{_LOGIN}/")
    return status >= 400 and headers.get("x-goog-iap-generated-response") == "true"


def is_mcp_content(headers: Mapping[str, str]) -> bool:
    """Return whether a response has a content type of MCP: JSON, or a stream of events."""
    return headers.get("content-type", "").lower().startswith(("application/json", "text/event-stream"))


def log_hint(target: Target) -> str:
    """The command that reads the log of a service, as a next step."""
    return f"Read its log: gcloud run services logs read {_service_arguments(target)}"


def _service_arguments(target: Target) -> str:
    service, region = target.service_and_region
    return f"{shlex.quote(service)} --region={shlex.quote(region)}"


def is_from_server(headers: Mapping[str, str]) -> bool:
    """Return whether a 401 comes from the server. Google's is an HTML page without `resource_metadata`."""
    is_html = headers.get("content-type", "").lower().startswith("text/html")
    is_iap = headers.get("x-goog-iap-generated-response") == "true"
    return not is_iap and (not is_html or "resource_metadata" in headers.get("www-authenticate", ""))


def diagnose(status: int, headers: Mapping[str, str], target: Target, caller: CallerIdentity) -> Diagnosis | None:
    """Explain a response of an MCP endpoint; None if it is not an error, or is the MCP server's own.

    Args:
        status: The HTTP status.
        headers: The headers of the response, in lower case.
        target: The service.
        caller: The identity of the request.
    """
    if status < 300 or (is_mcp_content(headers) and status not in _REDIRECTS):
        return None
    service = _service_arguments(target)
    member = shlex.quote(caller.member or "user:EMAIL")  # from a token's claims, in a command that people copy
    from_iap = is_from_iap(status, headers)
    match status:
        case 302 if from_iap:
            cause = f"Identity-Aware Proxy of {target.origin} redirects to Google's login: it found no token."
            step = (
                "Send an ID token in the header Authorization (not X-Serverless-Authorization), for an OAuth client "
                "in the server's access.iap (programmatic_clients, oauth_client)."
            )
        case 401 if from_iap:
            cause = f"Identity-Aware Proxy of {target.origin} did not accept the token for {caller.audience}."
            step = (
                "Use an OAuth client in the server's access.iap (programmatic_clients, oauth_client) as the audience, "
                "and send the token in the header Authorization."
            )
        case 403 if from_iap:
            cause = f"Identity-Aware Proxy does not let {caller.identity} through to {target.origin}."
            step = (
                f"Add it to the server's access.iap.members and run `pulumi up`, or type: gcloud iap web "
                f"add-iam-policy-binding --resource-type=cloud-run --service={service} "
                f"--member={member} --role=roles/iap.httpsResourceAccessor"
            )
        case 500 if from_iap:
            cause = f"Identity-Aware Proxy of {target.origin} may not call the service."
            step = (
                "Run `pulumi up`, or type: gcloud run services add-iam-policy-binding "
                f"{service} --member=serviceAccount:service-PROJECT_NUMBER@gcp-sa-iap.iam.gserviceaccount.com "
                "--role=roles/run.invoker"
            )
        case 401:
            cause = f"{target.origin} did not accept the token of {caller.identity} for {caller.audience}."
            step = (
                "If the service has another audience, set it with --audience; otherwise check this machine's clock "
                "and renew the login with `gcloud auth application-default login`."
            )
        case 403:
            cause = f"{caller.identity} may not call {target.origin}."
            step = (
                f"Add it to the server's access.iam.invokers and run `pulumi up`, or type: gcloud run services "
                f"add-iam-policy-binding {service} --member={member} --role=roles/run.invoker"
            )
        case 404:
            cause = f"{target.origin} has no such service or path, or is not reachable from your network."
            step = (
                f"Check the URL with `pulumi stack output servers`, and with `gcloud run services describe {service}` "
                "that its ingress is `all` (`internal` returns 404 to the internet). Google reserves paths that end "
                "in z."
            )
        case 405:
            cause = f"{target.mcp_url} does not accept this method, so it is probably not an MCP endpoint."
            step = "Use the MCP URL, with its path (`/mcp`)."
        case 421:
            cause = f"the server does not accept the host {target.host}."
            step = "Add the host to its allowed hosts (the fleet does this for the URLs that it knows)."
        case 429:
            cause = "no instance was free: max_instances are running, and all are busy."
            step = "Try again. If the error continues, raise the server's max_instances or its concurrency."
        case 502 | 503:
            cause = "the service could not start an instance, or the instance failed during the request."
            step = log_hint(target)
        case 504:
            cause = "the service did not respond within its timeout."
            step = "Raise the server's timeout (at most 3600 s), or make the call shorter."
        case _ if status < 400:
            location = headers.get("location", "nowhere")
            cause = f"{target.mcp_url} redirects to {location}, and MCP clients do not follow redirects."
            step = (
                "Call that URL."
                if location.startswith("https://")
                else "Make the server trust its proxy (FORWARDED_ALLOW_IPS=*), and serve /mcp/ like /mcp."
            )
        case _:
            cause = f"{target.origin} returned an error of its own."
            step = log_hint(target)
    return Diagnosis(status, cause, step)

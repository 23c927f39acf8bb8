"""Errors as Google's APIs report them.

A model raises `GoogleError`; the app renders it as `{"error": {code, message, status, errors, details}}`, the
shape that googleapi.CheckResponse, google-auth and gcloud parse (docs: cloud.google.com/apis/design/errors).
Nothing here is ever a 500 on purpose: clients retry 429, 500, 502 and 503 for minutes, so that a refusal
would look like a hang.
"""

from collections.abc import Mapping
from typing import Any, Final

HTTP_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    # Cloud Storage's own word (conditionNotMet); gRPC has none for it.
    "CONDITION_NOT_MET": 412,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
}
RPC_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAUTHENTICATED": 16,
}


class GoogleError(Exception):
    """A refusal in Google's own terms.

    Args:
        status: the canonical code's name, for example `NOT_FOUND`.
        message: the sentence that the user reads.
        reason: the `ErrorInfo.reason`, where clients act on it (`SERVICE_DISABLED`).
        metadata: the `ErrorInfo.metadata`.
        domain: the `ErrorInfo.domain`.
    """

    def __init__(
        self,
        status: str,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        domain: str = "googleapis.com",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.domain = domain

    @property
    def http_code(self) -> int:
        """The HTTP status code."""
        return HTTP_CODES[self.status]

    def body(self) -> dict[str, Any]:
        """The JSON body of an HTTP answer."""
        error: dict[str, Any] = {"code": self.http_code, "message": self.message, "status": self.status}
        if self.reason is not None:
            info = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": self.reason,
                "domain": self.domain,
                "metadata": self.metadata,
            }
            error["details"] = [info]
            legacy = {"message": self.message, "domain": "global", "reason": self.reason}
            if self.reason == "SERVICE_DISABLED":
                # The older error list has its own word, and the provider looks for that one (isApiNotEnabledError).
                legacy |= {"domain": "usageLimits", "reason": "accessNotConfigured"}
            error["errors"] = [legacy]
        return {"error": error}

    def rpc_status(self) -> dict[str, Any]:
        """The `google.rpc.Status` of a failed long-running operation."""
        return {"code": RPC_CODES[self.status], "message": self.message}


def not_found(what: str) -> GoogleError:
    """No such resource; *what* is its full name."""
    return GoogleError("NOT_FOUND", f"Resource '{what}' was not found.")


def already_exists(what: str) -> GoogleError:
    """A resource of that name is there already."""
    return GoogleError("ALREADY_EXISTS", f"Resource '{what}' already exists.")


def invalid(message: str) -> GoogleError:
    """The request can never succeed as written; *message* begins with the field's path."""
    return GoogleError("INVALID_ARGUMENT", message)


def unimplemented(field: str, why: str) -> GoogleError:
    """Google honours *field*; this machine cannot yet, so it refuses rather than ignore it."""
    return GoogleError("UNIMPLEMENTED", f"{field}: the local cloud does not honour this field yet: {why}")


def etag_conflict(what: str) -> GoogleError:
    """The caller changed *what* from an outdated reading of it (IAM answers 409 ABORTED)."""
    return GoogleError(
        "ABORTED",
        f"There were concurrent policy changes on {what}. Please retry the whole read-modify-write with "
        "exponential backoff.",
    )
